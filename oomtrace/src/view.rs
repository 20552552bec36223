//! What shows an incident.
//!
//! A view is a pure function of the incident: no clock, no files, no environment. Every view
//! destructures what it prints, so that a new field fails to compile until each view has decided.

pub mod brief;
pub mod json;
pub mod text;
