use serde::{Deserialize, Serialize};

use super::Text;

/// The thread whose allocation could not be met. It invoked the OOM killer; that is no guilt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trigger {
    /// Thread id, in the initial pid namespace as every pid here.
    pub pid: u32,
    /// Process id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tgid: Option<u32>,
    /// Name of the thread.
    pub comm: Text,
    /// Command line of the process, arguments separated by spaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<Text>,
    /// Id of its memory cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<u64>,
    /// Its own `oom_score_adj`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// What kind of memory it asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gfp: Option<Gfp>,
    /// How much: 2^order contiguous pages; −1 for sysrq-f.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<i32>,
    /// Kernel stack, innermost frame first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stack: Vec<Frame>,
    /// Time the thread spent in direct reclaim before the decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reclaim_stall_ns: Option<u64>,
}

/// Allocation flags.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gfp {
    /// As the kernel holds them; the bits move between versions.
    pub raw: u32,
    /// Names by the table of the kernel that it came from, compound names first. Empty when that
    /// table is not known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

/// One frame of a kernel stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Frame {
    /// Address.
    pub addr: u64,
    /// Function.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symbol: Option<String>,
    /// Bytes into the function.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

/// One process of the host at the moment of the decision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Candidate {
    /// The thread that holds the memory: the number by which the kernel prints and kills. Equals
    /// `tgid` unless the leader has exited.
    pub pid: u32,
    /// Process id.
    pub tgid: u32,
    /// Parent process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ppid: Option<u32>,
    /// When it started, nanoseconds since boot; with `tgid` its identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_boot_ns: Option<u64>,
    /// Real user id in the initial user namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Name of the thread `pid`.
    pub comm: Text,
    /// Command line, arguments separated by spaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<Text>,
    /// Id of its memory cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<u64>,
    /// `/proc/PID/oom_score_adj`, −1000 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// Resident anonymous memory, as the kernel counted it for this decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anon_bytes: Option<u64>,
    /// Resident file pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_bytes: Option<u64>,
    /// Resident shared memory, tmpfs included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shmem_bytes: Option<u64>,
    /// Swapped out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_bytes: Option<u64>,
    /// Page tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pgtables_bytes: Option<u64>,
    /// Address space; says nothing about memory used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_vm_bytes: Option<u64>,
    /// Whether the four memory figures are exact sums (`true`) or the shared counter that kernels
    /// 6.2 to 6.19 score by, which lags by some pages for each CPU (`false`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss_exact: Option<bool>,
    /// Badness by the rules of that kernel, in pages: what the kernel compares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<i64>,
    /// The kernel's own figure for the same, where it could be observed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_score: Option<i64>,
    /// Whether the kernel could choose it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eligible: Option<bool>,
    /// If not, why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_reason: Option<SkipReason>,
    /// Pid in its innermost pid namespace, where that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_pid: Option<u32>,
    /// Equal numbers share one address space: their memory counts once. Absent for a process with one
    /// of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mm: Option<u32>,
}

impl Candidate {
    /// Resident memory: anonymous, file and shared pages together.
    pub fn rss_bytes(&self) -> Option<u64> {
        self.anon_bytes?
            .checked_add(self.file_bytes?)?
            .checked_add(self.shmem_bytes?)
    }

    /// What the kernel weighs, `oom_score_adj` apart: resident, swapped and page tables.
    pub fn weighed_bytes(&self) -> Option<u64> {
        self.rss_bytes()?
            .checked_add(self.swap_bytes?)?
            .checked_add(self.pgtables_bytes?)
    }
}

/// Why the kernel could not choose a process (mm/oom_kill.c, `oom_evaluate_task`, `oom_badness`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// Process 1 of the initial pid namespace.
    Init,
    /// Not in the cgroup whose limit was hit, nor below it.
    OutsideCgroup,
    /// May not use the NUMA nodes that ran short.
    OtherNodes,
    /// `oom_score_adj` is −1000.
    Protected,
    /// No memory of its own any more: it is exiting.
    NoMemory,
    /// A victim already, its memory reaped or given up on.
    AlreadyReaped,
    /// A victim already and still dying; only sysrq passes over it.
    AlreadyVictim,
    /// Between `vfork` and `exec`: the memory is its parent's.
    Vfork,
}

/// The process that won the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// Thread id, as in [`Candidate::pid`].
    pub pid: u32,
    /// `oom_control.chosen_points`. Absent where the kernel did not compare: sysctl
    /// `vm.oom_kill_allocating_task` chooses without a score.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub score: Option<i64>,
}

/// A process that the kernel marked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Victim {
    /// Thread id, as the kernel prints it in `Killed process`.
    pub pid: u32,
    /// Process id.
    pub tgid: u32,
    /// When it started, nanoseconds since boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_boot_ns: Option<u64>,
    /// Name.
    pub comm: Text,
    /// Command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<Text>,
    /// Real user id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Id of its memory cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<u64>,
    /// Its `oom_score_adj`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// Resident anonymous memory when it was marked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anon_bytes: Option<u64>,
    /// Resident file pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_bytes: Option<u64>,
    /// Resident shared memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shmem_bytes: Option<u64>,
    /// Swapped out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_bytes: Option<u64>,
    /// Page tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pgtables_bytes: Option<u64>,
    /// Address space.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_vm_bytes: Option<u64>,
    /// Why it is among the victims.
    pub role: Role,
    /// Whether a SIGKILL was seen to be sent: `Some(false)` for a process that was dying already,
    /// `None` where the hook in use cannot tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub killed: Option<bool>,
    /// When it was marked, nanoseconds after the decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub killed_ns: Option<u64>,
}

/// Why a process is among the victims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It won the comparison.
    #[default]
    Chosen,
    /// It lives in the same `memory.oom.group`.
    GroupMember,
    /// It shares the address space of the chosen one.
    MmSharer,
}
