//! The maps, and what is kept between two programs of one decision.
//!
//! The kernel makes one OOM decision at a time, under `oom_lock`, so one slot of state is enough and
//! needs no locking. It lives in map memory rather than in registers because the verifier can then
//! forget its value at each turn of a loop, which is what lets a loop over an unknown number of tasks
//! converge.

use aya_ebpf::{
    Global,
    macros::map,
    maps::{Array, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
};
use oomtrace_ebpf::{
    event::{self, Begin, Cmdline, ROWS_PER_CHUNK, Row, Rows},
    layout::{self, config, setting},
};

/// Distinct cgroups that one snapshot keeps track of.
pub(crate) const MAX_CGROUPS: u32 = 8_192;
/// Processes of one snapshot whose leader has exited.
pub(crate) const MAX_HEADLESS: u32 = 16_384;
/// CPUs whose shares of the memory counters can be added up.
pub(crate) const MAX_CPUS: u32 = 512;

/// Offsets of kernel struct members, by `layout`'s constants; set before load, then frozen.
#[unsafe(no_mangle)]
static LAYOUT: Global<[u32; layout::COUNT]> = Global::new([layout::ABSENT; layout::COUNT]);

/// Everything else that only user space knows, by `config`'s constants.
#[unsafe(no_mangle)]
static CONFIG: Global<[u64; config::COUNT]> = Global::new([0; config::COUNT]);

/// Decisions, cgroups, snapshots, victims: never displaced by candidates.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(2 << 20, 0);

/// Candidates.
#[map]
pub(crate) static ROWS: RingBuf = RingBuf::with_byte_size(32 << 20, 0);

/// Counts that survive a full ring, by `event::counter`'s constants.
#[map]
pub(crate) static COUNTERS: Array<u64> = Array::with_max_entries(event::counter::COUNT, 0);

/// What becomes known after load, by `setting`'s constants.
#[map]
static SETTINGS: Array<u64> = Array::with_max_entries(setting::COUNT, 0);

#[map]
static STATE: Array<State> = Array::with_max_entries(1, 0);

#[map]
static CHUNK: Array<Chunk> = Array::with_max_entries(1, 0);

#[map]
static BEGIN: Array<Begin> = Array::with_max_entries(1, 0);

#[map]
static CGROUP: Array<event::Cgroup> = Array::with_max_entries(1, 0);

#[map]
static VICTIM: Array<event::Victim> = Array::with_max_entries(1, 0);

/// `__per_cpu_offset`, read once a snapshot.
#[map]
pub(crate) static CPU_OFFSETS: Array<[u64; MAX_CPUS as usize]> = Array::with_max_entries(1, 0);

/// Cgroups found in this snapshot (addresses of their css), in the order they were found.
#[map]
pub(crate) static FOUND: Array<u64> = Array::with_max_entries(MAX_CGROUPS, 0);

/// The incident in which a css was last found.
#[map]
pub(crate) static SEEN: LruHashMap<u64, u64> = LruHashMap::with_max_entries(MAX_CGROUPS, 0);

/// Leaders without an mm, whose threads are looked at after the walk.
#[map]
pub(crate) static HEADLESS: Array<u64> = Array::with_max_entries(MAX_HEADLESS, 0);

/// The last reclaim of each thread.
#[map]
pub(crate) static RECLAIM: LruHashMap<u32, Reclaim> = LruHashMap::with_max_entries(4_096, 0);

/// The kernel's own score of each task (by address) in the running scan.
#[map]
pub(crate) static POINTS: LruHashMap<u64, Points> = LruHashMap::with_max_entries(131_072, 0);

/// What each process was started as; the ones started longest ago are forgotten first.
#[map]
pub(crate) static CMDLINES: LruHashMap<u32, Cmdline> =
    LruHashMap::with_max_entries(event::CMDLINES, 0);

/// Room for one command line: too large for the stack, and execs happen on all CPUs at once.
#[map]
pub(crate) static CMDLINE: PerCpuArray<Cmdline> = PerCpuArray::with_max_entries(1, 0);

/// The programs that continue a walk where the kernel has no loop of its own.
#[map]
pub(crate) static STEPS: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// What one decision's programs hand to each other.
#[repr(C)]
pub(crate) struct State {
    /// Number of the running or last incident.
    pub(crate) incident: u64,
    /// Boot time at which its snapshot began.
    pub(crate) start_ns: u64,
    /// Thread that runs the OOM killer.
    pub(crate) by_pid: u32,
    /// Its process.
    pub(crate) by_tgid: u32,
    /// Not 0 between the decision and its end.
    pub(crate) open: u32,
    /// Process that `__oom_kill_process` is killing.
    pub(crate) killing_tgid: u32,
    /// Victims counted in this incident.
    pub(crate) victims: u32,
    /// Of these, records lost.
    pub(crate) victims_lost: u32,
    /// Rows filled.
    pub(crate) rows: u32,
    /// Rows lost.
    pub(crate) rows_lost: u32,
    /// Rows waiting in the chunk.
    pub(crate) pending: u32,
    /// Kernel threads passed over.
    pub(crate) kernel_threads: u32,
    /// Entries of `FOUND` in use.
    pub(crate) found: u32,
    /// Entries of `FOUND` already sent.
    pub(crate) cgroups: u32,
    /// Cgroup records lost.
    pub(crate) cgroups_lost: u32,
    /// Entries of `HEADLESS` in use.
    pub(crate) headless: u32,
    /// Entries of `HEADLESS` already looked at.
    pub(crate) headless_done: u32,
    /// `SNAPSHOT_` bits.
    pub(crate) flags: u32,
    /// Part of a snapshot made in steps: rows, headless processes, cgroups, done.
    pub(crate) phase: u32,
    /// Not 0: `CPU_OFFSETS` is filled.
    pub(crate) exact: u32,
    /// Where the walk stands: a task, as an address.
    pub(crate) cursor: u64,
    /// Where it began and ends: process 0.
    pub(crate) head: u64,
    /// Not 0 while a thread is inside `out_of_memory`.
    pub(crate) scanning_pid: u32,
    /// Number of that scan.
    pub(crate) scan: u64,
    /// The css found last; most neighbours in the list share it.
    pub(crate) last_css: u64,
}

/// A bulk record under construction.
#[repr(C)]
pub(crate) struct Chunk {
    pub(crate) head: Rows,
    pub(crate) rows: [Row; ROWS_PER_CHUNK],
}

/// What a thread last did in reclaim.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Reclaim {
    pub(crate) kind: u32,
    pub(crate) gfp: u32,
    pub(crate) order: i32,
    pub(crate) passes: u32,
    pub(crate) began_ns: u64,
    pub(crate) spent_ns: u64,
}

/// The kernel's score of a task.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Points {
    pub(crate) scan: u64,
    pub(crate) points: i64,
}

/// One entry of the offset table, a constant to the verifier.
#[inline(always)]
pub(crate) fn offset(entry: usize) -> u32 {
    // SAFETY: `entry` is one of `layout`'s constants, so within the array; the load is volatile
    // because user space replaces the value before the program is loaded.
    unsafe { core::ptr::read_volatile((&raw const LAYOUT).cast::<u32>().add(entry)) }
}

/// One entry of the configuration, a constant to the verifier.
#[inline(always)]
pub(crate) fn config(entry: usize) -> u64 {
    // SAFETY: as in `offset`.
    unsafe { core::ptr::read_volatile((&raw const CONFIG).cast::<u64>().add(entry)) }
}

/// What user space has found out since the programs were loaded; 0 if it has not.
#[inline(always)]
pub(crate) fn setting(slot: u32) -> u64 {
    SETTINGS.get(slot).copied().unwrap_or(0)
}

macro_rules! slot {
    ($name:ident, $map:ident, $type:ty) => {
        /// The only element of the map.
        #[inline(always)]
        pub(crate) fn $name() -> Option<&'static mut $type> {
            // SAFETY: decisions are serialised by `oom_lock`, so no other program holds it; the
            // element lives as long as the map.
            $map.get_ptr_mut(0).map(|slot| unsafe { &mut *slot })
        }
    };
}

slot!(state, STATE, State);
slot!(chunk, CHUNK, Chunk);
slot!(begin, BEGIN, Begin);
slot!(cgroup, CGROUP, event::Cgroup);
slot!(victim, VICTIM, event::Victim);
