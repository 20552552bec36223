//! One JSON object a line.
//!
#![doc = include_str!("json.md")]

use std::io::{self, Write};

use crate::incident::Incident;

/// Writes the incident as one line of JSON.
///
/// Every field of the model is written, by its own derived serialisation, so that there is nothing
/// to decide here when one is added; a test holds the document above to the keys that come out.
///
/// ```
/// use oomtrace::incident::Incident;
///
/// let mut out = Vec::new();
/// oomtrace::view::json::write(&Incident::default(), &mut out)?;
/// assert_eq!(out, b"{\"id\":\"\",\"source\":{\"kind\":\"live\"},\"time\":{},\"host\":{}}\n");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// When `out` fails.
pub fn write(incident: &Incident, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, incident)?;
    out.write_all(b"\n")
}
