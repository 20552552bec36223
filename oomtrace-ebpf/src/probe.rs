//! One file for each moment of an OOM kill.

pub(crate) mod candidates;
pub(crate) mod cgroups;
pub(crate) mod decision;
pub(crate) mod exec;
pub(crate) mod reclaim;
pub(crate) mod row;
pub(crate) mod score;
pub(crate) mod victim;
