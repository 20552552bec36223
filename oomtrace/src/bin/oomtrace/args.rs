//! The flags, and what each means. No logic.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use oomtrace::source::live::{self, DecisionHook};

use crate::units;

/// A black-box recorder for Linux out-of-memory kills.
///
/// At each kill, one snapshot is taken inside the kernel of all that it weighed, before any memory
/// is given back; oomtrace explains it: who held the memory, who asked for more, whose limit it was
/// and why this process died.
#[derive(Debug, Parser)]
#[command(name = "oomtrace", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// When to use colour.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Report every OOM kill of this machine as it happens, until Ctrl-C.
    ///
    /// Reports go to standard output, one write each; everything else goes to standard error. The
    /// line `oomtrace: armed (…)` says that from now on no kill is missed.
    Watch(Watch),
    /// Run a command under trace, in its own memory limit if asked, and exit as it did.
    ///
    /// The trace is armed before CMD starts. CMD keeps its standard input and output; reports go
    /// to standard error, or to the file of -o. Signals are passed on to CMD. The exit status is
    /// that of CMD, or 128 plus the signal that ended it; 127 if CMD was not found, 126 if it
    /// cannot be executed.
    Run(Run),
    /// Say what this kernel and these rights allow, and what would allow more.
    ///
    /// Exits with 0 if kills can be traced, with 1 if not.
    Doctor(Doctor),
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    #[command(flatten)]
    pub format: Format,
    /// Stop after N kills.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Stop after this long, such as 500ms, 10s or 1h30m.
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    pub duration: Option<Duration>,
    #[command(flatten)]
    pub trace: Trace,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Run CMD in a new memory cgroup with this limit, such as 512M or 1.5GiB.
    ///
    /// The cgroup is made below the current one (memory.max, or memory.limit_in_bytes on cgroup
    /// v1) and removed afterwards.
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    pub memory_max: Option<u64>,
    /// Limit the swap of that cgroup too; 0 for none.
    #[arg(long, value_name = "SIZE", value_parser = units::size_or_zero)]
    pub swap_max: Option<u64>,
    /// Write reports to FILE, `-` for standard output, instead of standard error.
    ///
    /// A new FILE is readable by its owner only; an old one is emptied.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub format: Format,
    #[command(flatten)]
    pub trace: Trace,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub hooks: Hooks,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Format {
    /// Print each kill as one line of JSON.
    #[arg(long, conflicts_with = "brief")]
    pub json: bool,
    /// Print each kill as one line of text.
    #[arg(long)]
    pub brief: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// Do not read command lines.
    #[arg(long)]
    pub no_cmdline: bool,
    /// Also observe the kernel's own score of each candidate; slows every scan for a victim.
    #[arg(long)]
    pub kernel_scores: bool,
    /// Memory for the snapshot's candidates between kernel and oomtrace [default: 32M].
    #[arg(long, value_name = "SIZE", value_parser = ring)]
    pub ring: Option<u32>,
    #[command(flatten)]
    pub hooks: Hooks,
}

#[derive(Debug, Args)]
pub(crate) struct Hooks {
    /// Try only these hooks for the decision, in this order.
    #[arg(
        long = "hook",
        value_name = "HOOK",
        value_delimiter = ',',
        help_heading = "Testing"
    )]
    pub only: Vec<Hook>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Hook {
    Fentry,
    Kprobe,
    TpBtf,
    RawTp,
}

impl Trace {
    pub(crate) fn options(&self) -> live::Options {
        let mut options = self.hooks.options();
        options.cmdlines = !self.no_cmdline;
        options.kernel_scores = self.kernel_scores;
        options.ring_bytes = self.ring.unwrap_or(options.ring_bytes);
        options
    }
}

impl Hooks {
    pub(crate) fn options(&self) -> live::Options {
        let mut options = live::Options::default();
        if !self.only.is_empty() {
            options.decision_hooks = self.only.iter().map(|&hook| hook.into()).collect();
        }
        options
    }
}

impl From<Hook> for DecisionHook {
    fn from(hook: Hook) -> Self {
        match hook {
            Hook::Fentry => Self::Fentry,
            Hook::Kprobe => Self::Kprobe,
            Hook::TpBtf => Self::TpBtf,
            Hook::RawTp => Self::RawTp,
        }
    }
}

fn ring(text: &str) -> Result<u32, String> {
    u32::try_from(units::size(text)?)
        .ok()
        .filter(|bytes| (64 << 10..=1 << 30).contains(bytes))
        .ok_or_else(|| "must be between 64K and 1G".to_owned())
}
