//! The waist of the hourglass: one OOM kill, with everything that is known of it.
//!
//! Plain data with public fields, no I/O, and no import from the rest of the crate. Sources build
//! it, views show it. A fact that the source could not know is `None` (a missing key in JSON), never
//! zero; what was lost, truncated or unreadable on the way is named in [`Incident::gaps`].
//!
//! Units are in the names: `_bytes`, `_pages`, `_ns`. `_boot_ns` counts from boot, suspend included.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

mod cgroup;
mod memory;
mod summary;
mod task;
mod text;

pub use cgroup::{Cgroup, CgroupEvents, CgroupVersion};
pub use memory::{Swap, System};
pub use summary::Group;
pub use task::{Candidate, Chosen, Frame, Gfp, Role, SkipReason, Trigger, Victim};
pub use text::Text;

/// One decision of the OOM killer, and what followed from it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Incident {
    /// Names the incident across machines: start of the boot id, then nanoseconds since boot.
    pub id: String,
    /// Where the knowledge comes from.
    pub source: Source,
    /// When the kernel decided.
    pub time: Time,
    /// The machine.
    pub host: Host,
    /// What ran out: the reach of the decision. `None` where nothing tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// What the kernel did about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The kernel's own words, `Out of memory` or `Memory cgroup out of memory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Who asked for the memory that was not there. Asking is not guilt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Trigger>,
    /// Id (in `cgroups`) of the cgroup whose limit was hit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_cgroup: Option<u64>,
    /// Every candidate's memory cgroup and all their ancestors, parents before children.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cgroups: Vec<Cgroup>,
    /// Memory of the host as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<System>,
    /// Every process of the host, kernel threads apart, in the order of the kernel's list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
    /// Kernel threads passed over in the walk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_threads: Option<u32>,
    /// The process the kernel chose, before any group or sharer joined it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Chosen>,
    /// `oom_control.totalpages`: the whole of which `oom_score_adj` takes thousandths. For a cgroup
    /// its limit plus the swap it may use, for the host RAM plus swap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_pages: Option<u64>,
    /// Every process that was marked, in the order of the kernel's marks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub victims: Vec<Victim>,
    /// How long the snapshot held up the kill, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_ns: Option<u64>,
    /// What was lost, truncated or unreadable, in words and counts. Empty means complete.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
}

/// Where an incident comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Source {
    /// Kind of source.
    pub kind: SourceKind,
    /// For a traced incident: the hook in use for each moment, such as
    /// `"decision": "fentry oom_kill_process"`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rungs: BTreeMap<String, String>,
}

/// Kind of [`Source`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// Traced in the running kernel.
    #[default]
    Live,
    /// Read from a recording.
    Recording,
    /// Read from a kernel log.
    KernelLog,
}

/// When the kernel decided.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Time {
    /// Wall clock, RFC 3339 in UTC with microseconds, such as `2026-11-23T09:41:07.120394Z`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall: Option<String>,
    /// Nanoseconds since boot, suspend included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_ns: Option<u64>,
}

/// The machine an incident happened on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Host {
    /// `uname -n`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Text>,
    /// `/proc/sys/kernel/random/boot_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// `uname -r`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Text>,
    /// `uname -m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// Bytes in a page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_size: Option<u64>,
    /// Possible CPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// `MemTotal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ram_bytes: Option<u64>,
    /// `SwapTotal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_total_bytes: Option<u64>,
}

/// What ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The host (`CONSTRAINT_NONE`).
    Global,
    /// A memory cgroup reached its limit (`CONSTRAINT_MEMCG`).
    Memcg,
    /// The NUMA nodes of a cpuset (`CONSTRAINT_CPUSET`).
    Cpuset,
    /// The NUMA nodes of a memory policy (`CONSTRAINT_MEMORY_POLICY`).
    Mempolicy,
    /// Nothing: somebody pressed Alt-SysRq-F or wrote `f` to `/proc/sysrq-trigger` (`order` −1).
    Sysrq,
}

/// What the kernel did about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// At least one process was sent SIGKILL.
    Killed,
    /// The chosen process was dying already; it was given reserves, nobody was killed.
    AlreadyDying,
    /// There was nobody to kill.
    NoKillableProcess,
    /// The kernel panicked (`vm.panic_on_oom`, or nobody left to kill).
    Panic,
}

/// Something this incident should hold and does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// What is missing, in one word: `candidates`, `cgroups`, `victims`, `decision`, `snapshot`, …
    pub what: String,
    /// How many, where that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub count: Option<u64>,
    /// Why, in words.
    pub why: String,
}

impl Incident {
    /// The cgroup of this id.
    pub fn cgroup(&self, id: u64) -> Option<&Cgroup> {
        self.cgroups.iter().find(|cgroup| cgroup.id == id)
    }

    /// Whether `cgroup` is `ancestor` or lies below it. `None` when a link of the chain is unknown.
    pub fn is_within(&self, cgroup: u64, ancestor: u64) -> Option<bool> {
        let mut at = cgroup;
        for _ in 0..=self.cgroups.len() {
            if at == ancestor {
                return Some(true);
            }
            match self.cgroup(at)?.parent {
                Some(parent) => at = parent,
                None => return Some(false),
            }
        }
        None
    }

    /// Whether nothing is known to be missing.
    pub fn is_complete(&self) -> bool {
        self.gaps.is_empty()
    }
}
