//! The processes of the host, in the kernel's own order, which decides ties.
//!
//! Three walks along the ring `init_task.tasks`, by what the kernel offers: `bpf_loop` with direct
//! loads, `bpf_loop` with probe reads, and nothing but bounded loops and tail calls. The kernel's
//! task iterator would do as well, but its loops cost the verifier a hundred times more.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use oomtrace_ebpf::{
    event::{
        ROWS_PER_CHUNK, SNAPSHOT_ABORTED, SNAPSHOT_CAPPED, SNAPSHOT_HEADLESS_CAPPED,
        SNAPSHOT_TIMED_OUT, STATE_LEADER_GONE, STATE_TORN,
    },
    layout::{self as at, config},
};

use crate::{
    emit,
    kernel::{Address, Direct, Mem, Probe, follow, get, task_at},
    probe::{cgroups::note, row},
    state::{Chunk, HEADLESS, MAX_HEADLESS, State, chunk, config, offset, state},
};

/// `PF_KTHREAD` (include/linux/sched.h).
const PF_KTHREAD: u32 = 0x0020_0000;
/// Threads of a headless process that are looked at for one that still has an mm.
const MAX_THREADS: u32 = 64;
/// Turns of one bounded loop; the verifier follows each.
const STEPS_PER_CALL: u32 = 4_000;

/// Takes one task of the list. Returns whether the walk may go on.
#[inline(always)]
fn visit<M: Mem>(task: Address, state: &mut State, chunk: &mut Chunk) -> bool {
    if get::<M, u32, { at::TASK_FLAGS }>(task) & PF_KTHREAD != 0 {
        state.kernel_threads += 1;
        return true;
    }
    let mm = follow::<M, { at::TASK_MM }>(task);
    if mm.is_null() {
        put_aside(state, task as u64);
        return true;
    }
    append::<M>(task, task, mm, state, chunk)
}

/// Keeps a leader that has no mm for later.
#[inline(always)]
fn put_aside(state: &mut State, task: u64) {
    let at = state.headless;
    if let Some(slot) = HEADLESS.get_ptr_mut(at) {
        // SAFETY: the element exists.
        unsafe { *slot = task };
        state.headless = at + 1;
    } else {
        state.flags |= SNAPSHOT_HEADLESS_CAPPED;
    }
}

/// Adds a row to the chunk. Returns whether the walk may go on.
#[inline(always)]
fn append<M: Mem>(
    leader: Address,
    holder: Address,
    mm: Address,
    state: &mut State,
    chunk: &mut Chunk,
) -> bool {
    let slot = state.pending as usize & (ROWS_PER_CHUNK - 1);
    let row = &mut chunk.rows[slot];
    let css = row::fill::<M>(leader, holder, mm, row);
    if get::<M, u64, { at::TASK_MM }>(holder) != row.mm {
        row::mark(row, STATE_TORN);
    }
    if leader as u64 != holder as u64 {
        row::mark(row, STATE_LEADER_GONE);
    }
    note(state, css as u64);
    state.rows += 1;
    state.pending = slot as u32 + 1;
    if state.pending < ROWS_PER_CHUNK as u32 {
        return true;
    }
    emit::flush(state, chunk);
    within_limits(state)
}

/// Whether neither the cap nor the time is up.
#[inline(always)]
fn within_limits(state: &mut State) -> bool {
    if u64::from(state.rows) >= config(config::MAX_ROWS) {
        state.flags |= SNAPSHOT_CAPPED;
        return false;
    }
    if emit::now().wrapping_sub(state.start_ns) > config(config::MAX_NS) {
        state.flags |= SNAPSHOT_TIMED_OUT;
        return false;
    }
    true
}

/// Puts the cursor on a task to climb from.
#[inline(always)]
pub(crate) fn start(state: &mut State, from: u64) {
    state.cursor = from;
}

/// Climbs one generation towards process 0, whose place in the ring of tasks is the list's head, and
/// from there to the first process. Returns whether there is more to climb.
#[inline(always)]
fn climb(state: &mut State) -> bool {
    let task = state.cursor as Address;
    if get::<Probe, u32, { at::TASK_PID }>(task) == 0 {
        state.head = state.cursor;
        state.cursor = next_of::<Probe>(task);
        return false;
    }
    state.cursor = get::<Probe, u64, { at::TASK_REAL_PARENT }>(task);
    true
}

/// Takes the process under the cursor and moves on. Returns whether the walk may go on.
#[inline(always)]
fn step<M: Walk>(state: &mut State, chunk: &mut Chunk) -> bool {
    if state.cursor == state.head {
        return false;
    }
    let task = M::task(state.cursor);
    // Only process 0 has this number, and it is the head: what was read was no task.
    if get::<M, u32, { at::TASK_TGID }>(task) == 0 {
        state.flags |= SNAPSHOT_ABORTED;
        return false;
    }
    let next = next_of::<M>(task);
    state.cursor = next;
    M::touch_task(next);
    let go_on = visit::<M>(task, state, chunk);
    M::touch_parts(next);
    go_on
}

/// The process after another in the list.
#[inline(always)]
fn next_of<M: Mem>(task: Address) -> u64 {
    get::<M, u64, { at::TASK_TASKS }>(task).wrapping_sub(u64::from(offset(at::TASK_TASKS)))
}

/// How a walk gets from a number to a task that it can read.
///
/// Following the list is bound by memory: each process spans a dozen cold cache lines. So while one is
/// read, the next one's are asked for.
trait Walk: Mem {
    fn task(address: u64) -> Address;

    /// Asks for the lines of a task.
    #[inline(always)]
    fn touch_task(_address: u64) {}

    /// Asks for the lines of what a task points to.
    #[inline(always)]
    fn touch_parts(_address: u64) {}
}

/// Loads for the sake of the cache alone.
#[inline(always)]
fn touch<const ENTRY: usize>(base: Address) {
    let _ = get::<Direct, u64, ENTRY>(base);
}

impl Walk for Direct {
    #[inline(always)]
    fn task(address: u64) -> Address {
        task_at(address)
    }

    #[inline(always)]
    fn touch_task(address: u64) {
        let task = task_at(address);
        touch::<{ at::TASK_TASKS }>(task);
        touch::<{ at::TASK_START_BOOTTIME }>(task);
        touch::<{ at::TASK_SIGNAL }>(task);
        touch::<{ at::TASK_COMM }>(task);
        touch::<{ at::TASK_CGROUPS }>(task);
    }

    #[inline(always)]
    fn touch_parts(address: u64) {
        let task = task_at(address);
        let mm = follow::<Self, { at::TASK_MM }>(task);
        touch::<{ at::MM_PGTABLES_BYTES }>(mm);
        touch::<{ at::MM_RSS_0 }>(mm);
        touch::<{ at::MM_FLAGS }>(mm);
        touch::<{ at::SIGNAL_OOM_MM }>(follow::<Self, { at::TASK_SIGNAL }>(task));
    }
}

impl Walk for Probe {
    #[inline(always)]
    fn task(address: u64) -> Address {
        address as Address
    }
}

/// Moves the cursor over one thread of a headless process. Returns whether to look further.
#[inline(always)]
fn pass_over(state: &mut State, head: u64) -> bool {
    let link = state.cursor;
    if link == head || link == 0 {
        return false;
    }
    if get::<Probe, u64, { at::TASK_MM }>(thread_of(link)) != 0 {
        return false;
    }
    state.cursor = Probe::read::<u64>(link as Address, 0);
    true
}

/// The thread of a link in `signal->thread_head`.
#[inline(always)]
fn thread_of(link: u64) -> Address {
    link.wrapping_sub(u64::from(offset(at::TASK_THREAD_NODE))) as Address
}

/// Looks for a live thread of one process whose leader has exited; a process without one is recorded
/// as holding no memory. Returns whether there are more such processes.
#[inline(always)]
fn headless(state: &mut State, chunk: &mut Chunk) -> bool {
    let index = state.headless_done;
    if index >= state.headless || index >= MAX_HEADLESS {
        return false;
    }
    state.headless_done = index + 1;
    let Some(leader) = HEADLESS.get(index) else {
        return false;
    };
    let leader = *leader as Address;
    let signal = get::<Probe, u64, { at::TASK_SIGNAL }>(leader);
    let head = signal.wrapping_add(u64::from(offset(at::SIGNAL_THREAD_HEAD)));
    state.cursor = Probe::read::<u64>(head as Address, 0);
    let mut turns = 0;
    while turns < MAX_THREADS {
        if !pass_over(state, head) {
            break;
        }
        turns += 1;
    }
    // Read again: the list may have ended, or the thread may have let go of its memory meanwhile.
    let link = state.cursor;
    let mut holder = leader;
    let mut mm = core::ptr::null();
    if link != head && link != 0 {
        mm = follow::<Probe, { at::TASK_MM }>(thread_of(link));
    }
    if !mm.is_null() {
        holder = thread_of(link);
    }
    append::<Probe>(leader, holder, mm, state, chunk)
}

/// `bpf_loop` callbacks: 0 to go on, 1 to stop.
unsafe extern "C" fn climb_callback(_turn: u64, _context: *mut c_void) -> i64 {
    match state() {
        Some(state) => i64::from(!climb(state)),
        None => 1,
    }
}

unsafe extern "C" fn step_direct_callback(_turn: u64, _context: *mut c_void) -> i64 {
    match (state(), chunk()) {
        (Some(state), Some(chunk)) => i64::from(!step::<Direct>(state, chunk)),
        _ => 1,
    }
}

unsafe extern "C" fn step_probe_callback(_turn: u64, _context: *mut c_void) -> i64 {
    match (state(), chunk()) {
        (Some(state), Some(chunk)) => i64::from(!step::<Probe>(state, chunk)),
        _ => 1,
    }
}

unsafe extern "C" fn headless_callback(_turn: u64, _context: *mut c_void) -> i64 {
    match (state(), chunk()) {
        (Some(state), Some(chunk)) => i64::from(!headless(state, chunk)),
        _ => 1,
    }
}

/// Calls `callback` until it says stop.
#[inline(always)]
pub(crate) fn repeat(turns: u32, callback: unsafe extern "C" fn(u64, *mut c_void) -> i64) {
    // SAFETY: the callbacks take no context.
    unsafe { bpf_loop(turns, callback as *mut c_void, core::ptr::null_mut(), 0) };
}

/// Walks with `bpf_loop` and direct loads.
#[inline(always)]
pub(crate) fn walk_direct() {
    repeat(4_096, climb_callback);
    repeat(1 << 22, step_direct_callback);
}

/// Walks with `bpf_loop` and probe reads.
#[inline(always)]
pub(crate) fn walk_probe() {
    repeat(4_096, climb_callback);
    repeat(1 << 22, step_probe_callback);
}

/// Processes whose leader has exited, with `bpf_loop`.
#[inline(always)]
pub(crate) fn headless_loop() {
    repeat(MAX_HEADLESS, headless_callback);
}

/// Climbs to process 0 in a bounded loop.
#[inline(always)]
pub(crate) fn climb_bounded(state: &mut State) {
    let mut turns = 0;
    while turns < 256 {
        if !climb(state) {
            break;
        }
        turns += 1;
    }
}

/// A part of the walk in a bounded loop. Returns whether the walk is over.
#[inline(always)]
pub(crate) fn step_bounded() -> bool {
    repeat_bounded::<STEPS_PER_CALL>(oomtrace_step)
}

/// Some of the processes whose leader has exited, in a bounded loop. Returns whether all are done.
#[inline(always)]
pub(crate) fn headless_bounded() -> bool {
    repeat_bounded::<STEPS_PER_CALL>(oomtrace_headless)
}

/// Calls `body` until it says stop. Returns whether it did.
#[inline(always)]
pub(crate) fn repeat_bounded<const TURNS: u32>(body: extern "C" fn() -> u64) -> bool {
    let mut turns = 0;
    while turns < TURNS {
        if body() != 0 {
            return true;
        }
        turns += 1;
    }
    false
}

/// A function of its own, which the verifier looks at once however often it is called: otherwise it
/// would follow every turn of the loop and give up after a few hundred.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn oomtrace_step() -> u64 {
    match (state(), chunk()) {
        (Some(state), Some(chunk)) => u64::from(!step::<Probe>(state, chunk)),
        _ => 1,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn oomtrace_headless() -> u64 {
    match (state(), chunk()) {
        (Some(state), Some(chunk)) => u64::from(!headless(state, chunk)),
        _ => 1,
    }
}
