//! What a test is given, and what it gives back.

use std::{fmt, path::PathBuf, time::Duration};

use crate::cgroup::{Hierarchy, Scratch};

/// What a test has to work with.
pub(crate) struct Context {
    pub(crate) oomtrace: PathBuf,
    /// Whether the whole machine is ours: then the host may run out of memory, and all of its
    /// processes are known.
    pub(crate) own_machine: bool,
    pub(crate) hierarchy: Option<Hierarchy>,
    pub(crate) patience: Duration,
}

/// Why a test did not run. The only way not to pass without failing.
#[derive(Debug)]
pub(crate) struct Skip(pub(crate) String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// The kernel reports at most ten kills in five seconds, whoever caused them, and this one was not
/// among them. Worth another try.
#[derive(Debug)]
pub(crate) struct RateLimited;

impl fmt::Display for RateLimited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the kernel reports no more kills for now")
    }
}

impl std::error::Error for RateLimited {}

/// The kernel's log was overrun by its own table, and nothing of this kill is left to compare with. Worth
/// another try; that nothing was compared stays a failure.
#[derive(Debug)]
pub(crate) struct LogOverrun;

impl fmt::Display for LogOverrun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing was compared: the kernel log lost the report of this kill")
    }
}

impl std::error::Error for LogOverrun {}

impl Context {
    /// A scratch cgroup, or the reason why there is none.
    pub(crate) fn scratch(&self, name: &str) -> anyhow::Result<Scratch> {
        let hierarchy = self.hierarchy.as_ref();
        let hierarchy = hierarchy.ok_or_else(|| Skip("no memory controller is mounted".into()))?;
        Scratch::new(hierarchy, name)
    }
}

/// What a passed test has to show.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) rung: String,
    pub(crate) rows: usize,
    pub(crate) values: usize,
    pub(crate) note: String,
}
