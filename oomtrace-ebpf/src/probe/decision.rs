//! The decision: `oom_control`, who asked and through which stack; then the snapshot.
//!
//! # Kernel
//! `static void oom_kill_process(struct oom_control *oc, const char *message)` (mm/oom_kill.c), whole
//! in every build looked at, 4.18 to 7.3. Entered under `oom_lock`, after the choice and before the
//! report, the SIGKILL and anything that gives memory back.
//!
//! Where no program may attach there, `oom:mark_victim` (see [`super::victim`]) begins the incident;
//! it comes after the report and the SIGKILL and has no `oom_control`.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{
        bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_stack, bpf_probe_read_kernel_str,
    },
    macros::{fentry, fexit, kprobe, kretprobe},
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use oomtrace_ebpf::{
    event::{
        ABSENT_I64, ABSENT_U32, ABSENT_U64, Begin, Close, HOOK_FENTRY, HOOK_KPROBE, KIND_BEGIN,
        KIND_CLOSE, KIND_SNAPSHOT, RECLAIM_NONE, STACK_FRAMES, Snapshot, WALK_DIRECT, WALK_PROBE,
        WALK_TAIL, counter,
    },
    layout::{self as at, setting},
};

use crate::{
    emit::{self, Wake},
    kernel::{Address, Probe, follow, get, get_or},
    probe::{
        candidates::{
            self, headless_bounded, headless_loop, step_bounded, walk_direct, walk_probe,
        },
        cgroups::{note, send_bounded, send_loop},
        row::{cgroup_id, comm, css_of, load_cpu_offsets},
    },
    state::{RECLAIM, STEPS, State, begin, chunk, setting, state},
};

/// fentry, direct loads.
#[fentry]
fn decision_fentry_direct(ctx: FEntryContext) -> u32 {
    open(
        &ctx,
        HOOK_FENTRY,
        WALK_DIRECT,
        Control::new(ctx.arg(0), ctx.arg(1)),
    );
    snapshot_direct();
    0
}

/// fentry, probe reads.
#[fentry]
fn decision_fentry_probe(ctx: FEntryContext) -> u32 {
    open(
        &ctx,
        HOOK_FENTRY,
        WALK_PROBE,
        Control::new(ctx.arg(0), ctx.arg(1)),
    );
    snapshot_probe();
    0
}

/// fentry, tail calls.
#[fentry]
fn decision_fentry_tail(ctx: FEntryContext) -> u32 {
    open(
        &ctx,
        HOOK_FENTRY,
        WALK_TAIL,
        Control::new(ctx.arg(0), ctx.arg(1)),
    );
    continue_with_tail_call(&ctx);
    0
}

/// One step of [`decision_fentry_tail`].
#[fentry]
fn step_fentry(ctx: FEntryContext) -> u32 {
    snapshot_step(&ctx);
    0
}

/// kprobe, probe reads.
#[kprobe]
fn decision_kprobe_probe(ctx: ProbeContext) -> u32 {
    open(&ctx, HOOK_KPROBE, WALK_PROBE, Control::of_probe(&ctx));
    snapshot_probe();
    0
}

/// kprobe, tail calls.
#[kprobe]
fn decision_kprobe_tail(ctx: ProbeContext) -> u32 {
    open(&ctx, HOOK_KPROBE, WALK_TAIL, Control::of_probe(&ctx));
    continue_with_tail_call(&ctx);
    0
}

/// One step of [`decision_kprobe_tail`].
#[kprobe]
fn step_kprobe(ctx: ProbeContext) -> u32 {
    snapshot_step(&ctx);
    0
}

/// The decision has been carried out.
#[fexit]
fn close_fexit(_ctx: FExitContext) -> u32 {
    close();
    0
}

/// The same without trampolines.
#[kretprobe]
fn close_kretprobe(_ctx: RetProbeContext) -> u32 {
    close();
    0
}

/// The arguments of `oom_kill_process`; both NULL where the hook does not see them.
pub(crate) struct Control {
    oc: Address,
    message: Address,
}

impl Control {
    #[inline(always)]
    fn new(oc: Address, message: Address) -> Self {
        Self { oc, message }
    }

    #[inline(always)]
    fn of_probe(ctx: &ProbeContext) -> Self {
        Self::new(
            ctx.arg(0).unwrap_or(core::ptr::null()),
            ctx.arg(1).unwrap_or(core::ptr::null()),
        )
    }

    /// For hooks that see neither.
    #[inline(always)]
    pub(crate) fn unseen() -> Self {
        Self::new(core::ptr::null(), core::ptr::null())
    }
}

/// Begins an incident and sends what is known before the walk.
#[inline(always)]
pub(crate) fn open(ctx: &impl EbpfContext, hook: u32, walk: u32, control: Control) {
    let (Some(state), Some(record)) = (state(), begin()) else {
        return;
    };
    reset(state);
    record.header = emit::header::<Begin>(KIND_BEGIN, state.incident);
    state.start_ns = record.header.time_ns;
    record.hook = hook;
    record.walk = walk;
    if control.oc.is_null() {
        without_control(record);
    } else {
        with_control(control.oc, record, state);
    }
    record.message = [0; 48];
    if !control.message.is_null() {
        // SAFETY: the helper writes at most the size of `message`.
        unsafe {
            bpf_probe_read_kernel_str(
                record.message.as_mut_ptr().cast(),
                48,
                control.message.cast::<c_void>(),
            );
        }
    }
    trigger(record, state);
    reclaim(record, state);
    host(record);
    stack(ctx, record);
    emit::event(
        record,
        size_of::<Begin>() as u32,
        counter::BEGIN_LOST,
        Wake::No,
    );
    // Climbing from the trigger leads to process 0, whatever its namespace.
    // SAFETY: takes nothing.
    candidates::start(state, unsafe { bpf_get_current_task() });
    load_cpu_offsets(state);
}

#[inline(always)]
fn reset(state: &mut State) {
    state.incident += 1;
    emit::count(counter::INCIDENTS, 1);
    // SAFETY: takes nothing.
    let id = unsafe { bpf_get_current_pid_tgid() };
    state.by_pid = id as u32;
    state.by_tgid = (id >> 32) as u32;
    state.open = 1;
    state.killing_tgid = 0;
    state.victims = 0;
    state.victims_lost = 0;
    state.rows = 0;
    state.rows_lost = 0;
    state.pending = 0;
    state.kernel_threads = 0;
    state.found = 0;
    state.cgroups = 0;
    state.cgroups_lost = 0;
    state.headless = 0;
    state.headless_done = 0;
    state.flags = 0;
    state.last_css = 0;
    state.head = 0;
    state.phase = 0;
}

#[inline(always)]
fn with_control(oc: Address, record: &mut Begin, state: &mut State) {
    record.constraint = get::<Probe, u32, { at::OC_CONSTRAINT }>(oc);
    record.gfp = get::<Probe, u32, { at::OC_GFP_MASK }>(oc);
    record.order = get::<Probe, i32, { at::OC_ORDER }>(oc);
    record.totalpages = get::<Probe, u64, { at::OC_TOTALPAGES }>(oc);
    record.chosen_points = get::<Probe, i64, { at::OC_CHOSEN_POINTS }>(oc);
    let chosen = follow::<Probe, { at::OC_CHOSEN }>(oc);
    record.chosen_pid = if chosen.is_null() {
        ABSENT_U32
    } else {
        get::<Probe, u32, { at::TASK_PID }>(chosen)
    };
    let memcg = get_or::<Probe, u64, { at::OC_MEMCG }>(oc, 0);
    record.oom_cgroup = if memcg == 0 {
        0
    } else {
        cgroup_id::<Probe>(memcg as Address)
    };
    note(state, memcg);
    let nodemask = get::<Probe, u64, { at::OC_NODEMASK }>(oc);
    record.nodemask = if nodemask == 0 {
        u64::MAX
    } else {
        Probe::read::<u64>(nodemask as Address, 0)
    };
}

#[inline(always)]
fn without_control(record: &mut Begin) {
    record.constraint = ABSENT_U32;
    record.gfp = ABSENT_U32;
    record.order = i32::MIN;
    record.totalpages = ABSENT_U64;
    record.chosen_points = ABSENT_I64;
    record.chosen_pid = ABSENT_U32;
    record.oom_cgroup = ABSENT_U64;
    record.nodemask = u64::MAX;
}

#[inline(always)]
fn trigger(record: &mut Begin, state: &mut State) {
    // SAFETY: takes nothing.
    let task = unsafe { bpf_get_current_task() } as Address;
    let leader = follow::<Probe, { at::TASK_GROUP_LEADER }>(task);
    let signal = follow::<Probe, { at::TASK_SIGNAL }>(task);
    record.pid = state.by_pid;
    record.tgid = state.by_tgid;
    record.uid = get::<Probe, u32, { at::CRED_UID }>(follow::<Probe, { at::TASK_REAL_CRED }>(task));
    record.oom_score_adj = i32::from(get::<Probe, i16, { at::SIGNAL_OOM_SCORE_ADJ }>(signal));
    record.start_boot_ns = get::<Probe, u64, { at::TASK_START_BOOTTIME }>(leader);
    record.comm = comm::<Probe>(task);
    record.mems_allowed = get_or::<Probe, u64, { at::TASK_MEMS_ALLOWED }>(task, ABSENT_U64);
    let css = css_of::<Probe>(leader);
    record.cgroup = if css.is_null() {
        ABSENT_U64
    } else {
        cgroup_id::<Probe>(css)
    };
    note(state, css as u64);
}

#[inline(always)]
fn reclaim(record: &mut Begin, state: &mut State) {
    record.reclaim_kind = RECLAIM_NONE;
    record.reclaim_order = 0;
    record.reclaim_gfp = 0;
    record.reclaim_passes = 0;
    record.reclaim_ns = ABSENT_U64;
    let pid = state.by_pid;
    if let Some(last) = RECLAIM.get_ptr_mut(pid) {
        // SAFETY: only this thread writes its own entry.
        let last = unsafe { &mut *last };
        record.reclaim_kind = last.kind;
        record.reclaim_order = last.order;
        record.reclaim_gfp = last.gfp;
        record.reclaim_passes = last.passes;
        record.reclaim_ns = last.spent_ns;
        last.passes = 0;
        last.spent_ns = 0;
    }
}

#[inline(always)]
fn host(record: &mut Begin) {
    record.free_pages = word(setting(setting::FREE_PAGES));
    record.swap_free_pages = word(setting(setting::NR_SWAP_PAGES));
    record.swap_total_pages = word(setting(setting::TOTAL_SWAP_PAGES));
}

#[inline(always)]
fn word(address: u64) -> i64 {
    if address == 0 {
        ABSENT_I64
    } else {
        Probe::read::<i64>(address as Address, 0)
    }
}

#[inline(always)]
fn stack(ctx: &impl EbpfContext, record: &mut Begin) {
    // SAFETY: takes nothing.
    record.cpu = unsafe { aya_ebpf::helpers::generated::bpf_get_smp_processor_id() };
    // SAFETY: the helper writes at most the size of `stack`.
    let bytes = unsafe {
        bpf_get_stack(
            ctx.as_ptr(),
            record.stack.as_mut_ptr().cast(),
            (STACK_FRAMES * 8) as u32,
            0,
        )
    };
    record.stack_len = if bytes < 0 {
        bytes as i32
    } else {
        (bytes / 8) as i32
    };
}

/// The rest of a snapshot with direct loads.
#[inline(always)]
pub(crate) fn snapshot_direct() {
    walk_direct();
    headless_loop();
    send_loop();
    seal();
}

/// The rest of a snapshot with probe reads.
#[inline(always)]
pub(crate) fn snapshot_probe() {
    walk_probe();
    headless_loop();
    send_loop();
    seal();
}

/// Hands over to the step program. Comes back only when there is none.
#[inline(always)]
pub(crate) fn continue_with_tail_call<C: EbpfContext>(ctx: &C) {
    if let Some(state) = state() {
        candidates::climb_bounded(state);
    }
    // SAFETY: the array holds a program of the same type and target.
    unsafe { STEPS.tail_call(ctx, 0) };
}

/// One step of a snapshot without loops in the kernel: some rows, or some cgroups, or the end.
#[inline(always)]
pub(crate) fn snapshot_step<C: EbpfContext>(ctx: &C) {
    let Some(state) = state() else { return };
    let over = match state.phase {
        0 => step_bounded(),
        1 => headless_bounded(),
        _ => send_bounded(),
    };
    state.phase += u32::from(over);
    if state.phase >= 3 {
        seal();
        return;
    }
    // SAFETY: as in `continue_with_tail_call`.
    unsafe { STEPS.tail_call(ctx, 0) };
    // The kernel allows 33 tail calls; what is done is sealed, what is not is said.
    state.flags |= oomtrace_ebpf::event::SNAPSHOT_CAPPED;
    seal();
}

/// Sends the last rows and the sum of the snapshot.
#[inline(always)]
fn seal() {
    let (Some(state), Some(chunk)) = (state(), chunk()) else {
        return;
    };
    emit::flush(state, chunk);
    let record = Snapshot {
        header: emit::header::<Snapshot>(KIND_SNAPSHOT, state.incident),
        rows: state.rows,
        rows_lost: state.rows_lost,
        kernel_threads: state.kernel_threads,
        cgroups: state.cgroups,
        cgroups_lost: state.cgroups_lost,
        flags: state.flags,
        took_ns: emit::now().wrapping_sub(state.start_ns),
    };
    emit::event(
        &record,
        size_of::<Snapshot>() as u32,
        counter::SNAPSHOTS_LOST,
        Wake::Yes,
    );
}

#[inline(always)]
fn close() {
    let Some(state) = state() else { return };
    if state.open == 0 {
        return;
    }
    state.open = 0;
    state.killing_tgid = 0;
    let record = Close {
        header: emit::header::<Close>(KIND_CLOSE, state.incident),
        victims: state.victims,
        victims_lost: state.victims_lost,
    };
    emit::event(
        &record,
        size_of::<Close>() as u32,
        counter::CLOSES_LOST,
        Wake::Yes,
    );
}
