//! oomtrace records, at the moment the Linux kernel kills a process for want of memory, everything
//! the kernel weighed, and explains the kill.
//!
//! The crate is an hourglass. A [`source`] yields [`incident::Incident`]s; a [`view`] writes one
//! incident. Everything in between is plain data:
//!
//! ```
//! use oomtrace::incident::{Chosen, Incident};
//!
//! let incident = Incident {
//!     chosen: Some(Chosen { pid: 4302, score: Some(78_211) }),
//!     ..Incident::default()
//! };
//! let mut out = Vec::new();
//! oomtrace::view::json::write(&incident, &mut out)?;
//! assert!(String::from_utf8_lossy(&out).contains("\"score\":78211"));
//! # Ok::<(), std::io::Error>(())
//! ```
#![forbid(unsafe_code)]

pub mod error;
pub mod incident;
pub mod source;
pub mod view;

#[cfg(feature = "live")]
pub mod assemble;
#[cfg(feature = "live")]
pub mod record;

pub use error::{Error, Result};
