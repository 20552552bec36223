//! One JSON object a line.

use std::io::{self, Write};

use crate::incident::Incident;

/// Writes the incident as one line of JSON.
///
/// # Errors
/// When `out` fails.
pub fn write(incident: &Incident, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, incident)?;
    out.write_all(b"\n")
}
