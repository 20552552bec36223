//! The one error of the library, with the kinds that a caller can act on.

use std::{error, fmt, io, path::PathBuf};

/// Result of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. Messages name the thing that failed and, where there is one, the remedy.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The process lacks a right. `need` says which, `remedy` how to get it.
    NotPermitted {
        /// What was attempted.
        what: String,
        /// How to get there.
        remedy: String,
    },
    /// The running kernel lacks something that cannot be done without.
    KernelLacks {
        /// What it lacks.
        what: String,
        /// Which kernel or setting has it.
        remedy: String,
    },
    /// The kernel refused every program that could serve a moment.
    Refused {
        /// What the programs were for.
        moment: String,
        /// Each rung that was tried, with its reason.
        tried: Vec<(String, String)>,
    },
    /// A record from the kernel side that this version cannot read.
    BadRecord {
        /// What is wrong with it.
        why: String,
    },
    /// Input or output failed.
    Io {
        /// The file, or what stands for it.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The BPF object or a map is not what this version expects.
    Bpf {
        /// What was attempted.
        what: String,
        /// The reason, if there is one beneath.
        source: Option<Box<dyn error::Error + Send + Sync>>,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPermitted { what, remedy } => write!(f, "not permitted to {what}: {remedy}"),
            Self::KernelLacks { what, remedy } => write!(f, "this kernel lacks {what}: {remedy}"),
            Self::Refused { moment, tried } => {
                write!(f, "the kernel refused every hook for {moment}")?;
                for (rung, reason) in tried {
                    write!(f, "; {rung}: {reason}")?;
                }
                Ok(())
            }
            Self::BadRecord { why } => write!(f, "a record from the kernel side is damaged: {why}"),
            Self::Io { path, source: _ } => write!(f, "{}", path.display()),
            Self::Bpf { what, source: _ } => write!(f, "cannot {what}"),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Bpf { source, .. } => source.as_deref().map(|e| e as &dyn error::Error),
            Self::NotPermitted { .. }
            | Self::KernelLacks { .. }
            | Self::Refused { .. }
            | Self::BadRecord { .. } => None,
        }
    }
}
