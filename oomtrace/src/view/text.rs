//! The report for people.

use std::io::{self, Write};

use crate::incident::Incident;

/// How to lay the report out.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Columns to fill.
    pub width: usize,
    /// Whether to use colour.
    pub colour: bool,
}

/// Writes the report.
///
/// # Errors
/// When `out` fails.
pub fn write(incident: &Incident, _options: &Options, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "OOM KILL  {}", incident.id)
}
