//! Every record that a probe can send, with sizes and offsets asserted beside each.
//!
//! Fixed-width integers and byte arrays only, no padding, native byte order (a recording names the
//! byte order in its host entry). A value the kernel side could not read holds the sentinel named in
//! the field's documentation, never a silent zero.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A `u64` the kernel side could not read.
pub const ABSENT_U64: u64 = u64::MAX;
/// An `i64` the kernel side could not read.
pub const ABSENT_I64: i64 = i64::MIN;
/// A `u32` the kernel side could not read.
pub const ABSENT_U32: u32 = u32::MAX;

/// `kind` of a [`Begin`].
pub const KIND_BEGIN: u32 = 1;
/// `kind` of a [`Rows`] header.
pub const KIND_ROWS: u32 = 2;
/// `kind` of a [`Cgroup`].
pub const KIND_CGROUP: u32 = 3;
/// `kind` of a [`Snapshot`].
pub const KIND_SNAPSHOT: u32 = 4;
/// `kind` of a [`Victim`].
pub const KIND_VICTIM: u32 = 5;
/// `kind` of a [`Close`].
pub const KIND_CLOSE: u32 = 6;

/// Length of `comm` in the kernel (`TASK_COMM_LEN`, include/linux/sched.h).
pub const COMM_LEN: usize = 16;
/// Longest kernel stack kept, in frames.
pub const STACK_FRAMES: usize = 48;
/// Rows in one bulk record.
pub const ROWS_PER_CHUNK: usize = 64;
/// Longest cgroup name kept, in bytes. `NAME_MAX` is 255.
pub const CGROUP_NAME_LEN: usize = 256;
/// Slots for `memory_events`; the meaning of each comes from BTF (`enum memcg_memory_event`).
pub const MEMCG_EVENTS: usize = 12;

/// What every record starts with.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// One of the `KIND_` constants.
    pub kind: u32,
    /// Bytes of the whole record, header included.
    pub size: u32,
    /// Number of the incident since the programs were loaded, from 1.
    pub incident: u64,
    /// `bpf_ktime_get_boot_ns`: nanoseconds since boot, suspend included.
    pub time_ns: u64,
}
const _: () = assert!(size_of::<Header>() == 24);

/// [`Begin::hook`]: `oom_kill_process(oc, message)`, entered with a typed argument.
pub const HOOK_FENTRY: u32 = 1;
/// [`Begin::hook`]: the same function through a kprobe.
pub const HOOK_KPROBE: u32 = 2;
/// [`Begin::hook`]: the tracepoint `oom:mark_victim`, typed.
pub const HOOK_TP_BTF: u32 = 3;
/// [`Begin::hook`]: the tracepoint `oom:mark_victim`, raw.
pub const HOOK_RAW_TP: u32 = 4;

/// [`Begin::walk`]: `bpf_loop` over the task list, direct loads (since 6.2).
pub const WALK_DIRECT: u32 = 1;
/// [`Begin::walk`]: `bpf_loop` over the task list, probe reads (since 5.17).
pub const WALK_PROBE: u32 = 2;
/// [`Begin::walk`]: bounded loop with tail calls, probe reads (5.8 on).
pub const WALK_TAIL: u32 = 3;

/// [`Begin::reclaim_kind`]: no reclaim tracepoint was seen for the triggering thread.
pub const RECLAIM_NONE: u32 = 0;
/// [`Begin::reclaim_kind`]: `mm_vmscan_direct_reclaim_begin`, so a zone ran short.
pub const RECLAIM_DIRECT: u32 = 1;
/// [`Begin::reclaim_kind`]: `mm_vmscan_memcg_reclaim_begin`, so a cgroup limit was hit.
pub const RECLAIM_MEMCG: u32 = 2;

/// The decision: `oom_control` as the kernel holds it, who asked, and through which stack.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Begin {
    /// The common start.
    pub header: Header,
    /// One of the `HOOK_` constants.
    pub hook: u32,
    /// One of the `WALK_` constants.
    pub walk: u32,
    /// `oom_control.constraint`: 0 none, 1 cpuset, 2 memory policy, 3 memcg; [`ABSENT_U32`].
    pub constraint: u32,
    /// `oom_control.gfp_mask`; [`ABSENT_U32`].
    pub gfp: u32,
    /// `oom_control.order` (−1 for sysrq-f); `i32::MIN` when absent.
    pub order: i32,
    /// `chosen->pid`; [`ABSENT_U32`].
    pub chosen_pid: u32,
    /// `oom_control.totalpages`; [`ABSENT_U64`].
    pub totalpages: u64,
    /// `oom_control.chosen_points`; [`ABSENT_I64`].
    pub chosen_points: i64,
    /// Id of the cgroup `oom_control.memcg`: 0 for a host-wide OOM, [`ABSENT_U64`] if unknown.
    pub oom_cgroup: u64,
    /// First word of `*oom_control.nodemask`; all ones when there is none.
    pub nodemask: u64,
    /// First word of the trigger's `mems_allowed`; [`ABSENT_U64`].
    pub mems_allowed: u64,
    /// The `message` argument of `oom_kill_process`, NUL-padded; empty when absent.
    pub message: [u8; 48],

    /// The thread that asked for memory.
    pub pid: u32,
    /// Its process.
    pub tgid: u32,
    /// Its real uid in the initial user namespace.
    pub uid: u32,
    /// `oom_score_adj` of its process; `i32::MIN` when absent.
    pub oom_score_adj: i32,
    /// `start_boottime` of its thread group leader; [`ABSENT_U64`].
    pub start_boot_ns: u64,
    /// Id of its memory cgroup; 0 without one.
    pub cgroup: u64,
    /// Its `comm`.
    pub comm: [u8; COMM_LEN],

    /// One of the `RECLAIM_` constants: the last reclaim this thread began.
    pub reclaim_kind: u32,
    /// Allocation order of that reclaim.
    pub reclaim_order: i32,
    /// gfp mask of that reclaim.
    pub reclaim_gfp: u32,
    /// Reclaim passes of this thread since its previous incident.
    pub reclaim_passes: u32,
    /// Time spent in those passes, in nanoseconds; [`ABSENT_U64`] when not measured.
    pub reclaim_ns: u64,

    /// Free pages of the host (`vm_zone_stat[NR_FREE_PAGES]`); [`ABSENT_I64`].
    pub free_pages: i64,
    /// Free swap pages of the host (`nr_swap_pages`); [`ABSENT_I64`].
    pub swap_free_pages: i64,
    /// Swap pages of the host (`total_swap_pages`); [`ABSENT_I64`].
    pub swap_total_pages: i64,

    /// Frames in `stack`; negative is the error of `bpf_get_stack`.
    pub stack_len: i32,
    /// CPU that ran the program.
    pub cpu: u32,
    /// Kernel stack of the trigger, innermost first, raw addresses.
    pub stack: [u64; STACK_FRAMES],
}
const _: () = assert!(offset_of!(Begin, pid) == 136);
const _: () = assert!(size_of::<Begin>() == 136 + 96 + 8 + 8 * STACK_FRAMES);

/// [`Row::state`]: `signal->oom_flag_origin` (swapoff, KSM): scored as infinitely bad.
pub const STATE_FLAG_ORIGIN: u32 = 1 << 0;
/// [`Row::state`]: `signal->oom_mm` is set: already a victim.
pub const STATE_OOM_VICTIM: u32 = 1 << 1;
/// [`Row::state`]: `MMF_OOM_SKIP` on the mm.
pub const STATE_MM_OOM_SKIP: u32 = 1 << 2;
/// [`Row::state`]: between `vfork` and `exec`, sharing the parent's mm.
pub const STATE_IN_VFORK: u32 = 1 << 3;
/// [`Row::state`]: no thread of the process has an mm left.
pub const STATE_NO_MM: u32 = 1 << 4;
/// [`Row::state`]: `pid` is not the leader: the leader has exited, this thread holds the mm.
pub const STATE_LEADER_GONE: u32 = 1 << 5;
/// [`Row::state`]: `rss_exact` holds per-CPU sums.
pub const STATE_EXACT: u32 = 1 << 6;
/// [`Row::state`]: the mm changed while it was read; the counters are not to be trusted.
pub const STATE_TORN: u32 = 1 << 7;
/// `state` of a [`Victim`]: marked by `__oom_kill_process`, so a SIGKILL was sent.
pub const STATE_KILLED: u32 = 1 << 8;
/// `state` of a [`Victim`]: nothing tells whether a SIGKILL was sent (`mark_victim` alone was seen).
pub const STATE_KILL_UNSEEN: u32 = 1 << 9;

/// Index into `rss`: `MM_FILEPAGES` (include/linux/mm_types_task.h).
pub const RSS_FILE: usize = 0;
/// Index into `rss`: `MM_ANONPAGES`.
pub const RSS_ANON: usize = 1;
/// Index into `rss`: `MM_SWAPENTS`.
pub const RSS_SWAP: usize = 2;
/// Index into `rss`: `MM_SHMEMPAGES`.
pub const RSS_SHMEM: usize = 3;

/// One process that the kernel weighed, or would have been asked about.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Row {
    /// The thread that holds the mm; the kernel prints and kills by this number.
    pub pid: u32,
    /// The process.
    pub tgid: u32,
    /// `real_parent->tgid`.
    pub ppid: u32,
    /// Real uid in the initial user namespace.
    pub uid: u32,
    /// `start_boottime` of the leader, nanoseconds since boot; [`ABSENT_U64`].
    pub start_boot_ns: u64,
    /// Id of the memory cgroup of the leader (inode of its directory); 0 without one.
    pub cgroup: u64,
    /// `comm` of the thread `pid`.
    pub comm: [u8; COMM_LEN],
    /// Pages by kind (`RSS_`), as the one shared counter says; may be negative; [`ABSENT_I64`].
    pub rss: [i64; 4],
    /// The same with every CPU's share added; meaningful under [`STATE_EXACT`] only.
    pub rss_exact: [i64; 4],
    /// `mm->pgtables_bytes`; [`ABSENT_I64`].
    pub pgtables_bytes: i64,
    /// `mm->total_vm` in pages; [`ABSENT_U64`].
    pub total_vm_pages: u64,
    /// Identity of the mm within this incident: equal means shared. 0 without one.
    pub mm: u64,
    /// First word of `mems_allowed`; [`ABSENT_U64`].
    pub mems_allowed: u64,
    /// `oom_badness` of the kernel itself for this decision; [`ABSENT_I64`].
    pub kernel_points: i64,
    /// `signal->oom_score_adj`.
    pub oom_score_adj: i32,
    /// `task_struct.flags`.
    pub flags: u32,
    /// `STATE_` bits.
    pub state: u32,
    /// Pid in the innermost pid namespace; [`ABSENT_U32`].
    pub ns_pid: u32,
}
const _: () = assert!(size_of::<Row>() == 168);
const _: () = assert!(offset_of!(Row, rss) == 48);

/// Start of a bulk record: `count` [`Row`]s follow.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Rows {
    /// The common start; `size` covers the rows too.
    pub header: Header,
    /// Position of the first row in the walk.
    pub first: u32,
    /// Rows that follow.
    pub count: u32,
}
const _: () = assert!(size_of::<Rows>() == 32);

/// [`Cgroup::flags`]: on the v2 hierarchy.
pub const CGROUP_V2: u32 = 1 << 0;
/// [`Cgroup::flags`]: the root of its hierarchy; usage is not accounted there on v2.
pub const CGROUP_ROOT: u32 = 1 << 1;
/// [`Cgroup::flags`]: `memory.oom.group`.
pub const CGROUP_OOM_GROUP: u32 = 1 << 2;
/// [`Cgroup::flags`]: v1 `oom_kill_disable`.
pub const CGROUP_OOM_KILL_DISABLE: u32 = 1 << 3;

/// One memory cgroup: a candidate's, or an ancestor of one.
///
/// Limits and usage are in pages; "no limit" is the kernel's `PAGE_COUNTER_MAX`. The record is
/// sent cut after `name_len` bytes of the name.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Cgroup {
    /// The common start.
    pub header: Header,
    /// Inode number of the cgroup's directory.
    pub id: u64,
    /// The same of its parent; 0 for the root.
    pub parent: u64,
    /// `CGROUP_` bits.
    pub flags: u32,
    /// Depth, root 0; [`ABSENT_U32`].
    pub level: u32,
    /// `memory.usage`; [`ABSENT_U64`], as every counter here.
    pub usage: u64,
    /// `memory.max`.
    pub max: u64,
    /// `memory.high`.
    pub high: u64,
    /// `memory.low`.
    pub low: u64,
    /// `memory.min`.
    pub min: u64,
    /// `memory.watermark` (peak usage).
    pub peak: u64,
    /// `memory.failcnt`.
    pub failcnt: u64,
    /// v2: swap usage; v1: memory plus swap (`memsw`).
    pub swap_usage: u64,
    /// v2: swap limit; v1: `memsw` limit.
    pub swap_max: u64,
    /// v2: swap failures; v1: `memsw` failures.
    pub swap_failcnt: u64,
    /// v1 kernel memory usage.
    pub kmem_usage: u64,
    /// v1 `memory.swappiness`; [`ABSENT_U64`].
    pub swappiness: u64,
    /// `memory_events`, hierarchical, by `enum memcg_memory_event`; [`ABSENT_U64`].
    pub events: [u64; MEMCG_EVENTS],
    /// `memory_events_local`.
    pub events_local: [u64; MEMCG_EVENTS],
    /// Bytes of `name` that are set.
    pub name_len: u32,
    /// Zero.
    pub reserved: u32,
    /// The last component of the path; empty for the root. Any byte but NUL and `/`.
    pub name: [u8; CGROUP_NAME_LEN],
}
const _: () = assert!(offset_of!(Cgroup, name) == 344);
const _: () = assert!(size_of::<Cgroup>() == 344 + CGROUP_NAME_LEN);

/// [`Snapshot::flags`]: the walk stopped at its cap of processes.
pub const SNAPSHOT_CAPPED: u32 = 1 << 0;
/// [`Snapshot::flags`]: the walk stopped because its time was up.
pub const SNAPSHOT_TIMED_OUT: u32 = 1 << 1;
/// [`Snapshot::flags`]: there were more cgroups than the programs keep track of.
pub const SNAPSHOT_CGROUPS_CAPPED: u32 = 1 << 2;
/// [`Snapshot::flags`]: the walk ended before the list did, for a reason of the kernel's.
pub const SNAPSHOT_ABORTED: u32 = 1 << 3;
/// [`Snapshot::flags`]: more leaders had exited than the programs keep track of.
pub const SNAPSHOT_HEADLESS_CAPPED: u32 = 1 << 4;

/// The walk is over: what it saw and what it could not send.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Snapshot {
    /// The common start.
    pub header: Header,
    /// Rows filled.
    pub rows: u32,
    /// Rows that found the bulk ring full.
    pub rows_lost: u32,
    /// Kernel threads passed over.
    pub kernel_threads: u32,
    /// Cgroups filled.
    pub cgroups: u32,
    /// Cgroups that found the reserved ring full.
    pub cgroups_lost: u32,
    /// `SNAPSHOT_` bits.
    pub flags: u32,
    /// Time from the start of the program to this record, nanoseconds.
    pub took_ns: u64,
}
const _: () = assert!(size_of::<Snapshot>() == 56);

/// One task the kernel marked as an OOM victim.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Victim {
    /// The common start. `incident` is 0 for a mark outside any decision that was seen.
    pub header: Header,
    /// The marked thread, with the same fields as a candidate.
    pub row: Row,
    /// Thread that was running the OOM killer.
    pub by_pid: u32,
    /// Its process.
    pub by_tgid: u32,
}
const _: () = assert!(size_of::<Victim>() == 24 + 168 + 8);

/// `oom_kill_process` has returned: no further victim belongs to this incident.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Close {
    /// The common start.
    pub header: Header,
    /// Victims counted in the kernel.
    pub victims: u32,
    /// Of these, how many records found the ring full.
    pub victims_lost: u32,
}
const _: () = assert!(size_of::<Close>() == 32);

/// Longest command line kept, in bytes.
pub const CMDLINE_LEN: usize = 256;
/// Command lines kept.
pub const CMDLINES: u32 = 4_096;

/// Value of the `CMDLINES` map, by process: what it was started as.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Cmdline {
    /// `start_boottime` of the process, so that a number used again is not taken for it.
    pub start_boot_ns: u64,
    /// Bytes of `text` that are set.
    pub len: u64,
    /// Arguments, each ended by a NUL.
    pub text: [u8; CMDLINE_LEN],
}
const _: () = assert!(size_of::<Cmdline>() == 16 + CMDLINE_LEN);

/// Slots of the `COUNTERS` map (an array of `u64`), which never lose a count.
pub mod counter {
    /// Incidents begun; the last incident's number.
    pub const INCIDENTS: u32 = 0;
    /// [`super::Begin`] records that found the ring full.
    pub const BEGIN_LOST: u32 = 1;
    /// Victims marked.
    pub const VICTIMS: u32 = 2;
    /// [`super::Victim`] records that found the ring full.
    pub const VICTIMS_LOST: u32 = 3;
    /// Rows that found the bulk ring full.
    pub const ROWS_LOST: u32 = 4;
    /// [`super::Cgroup`] records that found the ring full.
    pub const CGROUPS_LOST: u32 = 5;
    /// [`super::Snapshot`] records that found the ring full.
    pub const SNAPSHOTS_LOST: u32 = 6;
    /// [`super::Close`] records that found the ring full.
    pub const CLOSES_LOST: u32 = 7;
    /// Command lines kept since the programs were loaded, those forgotten since included.
    pub const EXECS: u32 = 8;
    /// Number of slots.
    pub const COUNT: u32 = 16;
}
