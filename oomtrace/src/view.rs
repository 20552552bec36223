//! What shows an incident.
//!
//! A view is a pure function of the incident: no clock, no files, no environment. Every view
//! destructures what it prints, so that a new field fails to compile until each view has decided.
//! Whatever was chosen by somebody else (names, paths, command lines) is shown escaped, and what
//! is not known is left out or shown as `?`, never as 0.

pub mod brief;
pub mod json;
pub mod text;
mod units;
pub mod why;
