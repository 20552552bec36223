//! One line a kill.

use std::io::{self, Write};

use crate::incident::Incident;

/// Writes the incident as one line.
///
/// # Errors
/// When `out` fails.
pub fn write(incident: &Incident, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{}", incident.id)
}
