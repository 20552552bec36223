//! Every task that the kernel marks as a victim, members of a group included.
//!
//! # Kernel
//! `static void mark_oom_victim(struct task_struct *tsk)` (mm/oom_kill.c), whole in every build looked
//! at. The tracepoint `oom:mark_victim` inside it takes `(int pid)` or, by 72ba14deb40a "mm: update
//! mark_victim tracepoints fields" (in v6.9, backported), `(struct task_struct *, uid_t)`.
//! `static void __oom_kill_process(struct task_struct *victim, const char *message)` sends the SIGKILL;
//! a mark without it was given to a task that was dying anyway.

use aya_ebpf::{
    helpers::generated::bpf_get_current_pid_tgid,
    macros::{btf_tracepoint, fentry, kprobe, raw_tracepoint},
    programs::{BtfTracePointContext, FEntryContext, ProbeContext, RawTracePointContext},
};
use oomtrace_ebpf::{
    event::{
        ABSENT_I64, ABSENT_U32, ABSENT_U64, HOOK_RAW_TP, HOOK_TP_BTF, KIND_VICTIM, Row,
        STATE_KILL_UNSEEN, STATE_KILLED, Victim, WALK_DIRECT, WALK_PROBE, WALK_TAIL, counter,
    },
    layout::{self as at, config, setting},
};

use crate::{
    emit::{self, Wake},
    kernel::{Address, Probe, follow, get},
    probe::{
        cgroups::in_oom_group,
        decision::{
            Control, continue_with_tail_call, open, snapshot_direct, snapshot_probe, snapshot_step,
        },
        row::{css_of, fill},
    },
    state::{RECLAIM, config, setting, state, victim},
};

/// `mark_oom_victim`, typed.
#[fentry]
fn victim_fentry(ctx: FEntryContext) -> u32 {
    send(ctx.arg(0));
    0
}

/// `mark_oom_victim` by registers.
#[kprobe]
fn victim_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(task) = ctx.arg::<Address>(0) {
        send(task);
    }
    0
}

/// `__oom_kill_process`, typed.
#[fentry]
fn kill_fentry(ctx: FEntryContext) -> u32 {
    killing(get::<Probe, u32, { at::TASK_TGID }>(ctx.arg(0)));
    0
}

/// `__oom_kill_process` by registers.
#[kprobe]
fn kill_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(task) = ctx.arg::<Address>(0) {
        killing(get::<Probe, u32, { at::TASK_TGID }>(task));
    }
    0
}

/// `oom:mark_victim` as the decision, typed, direct loads.
#[btf_tracepoint]
fn decision_tp_btf_direct(ctx: BtfTracePointContext) -> u32 {
    let task: Address = ctx.arg(0);
    if begins_incident(task) {
        open(&ctx, HOOK_TP_BTF, WALK_DIRECT, Control::unseen());
        // The victim first: what comes after may fill the ring.
        send(task);
        snapshot_direct();
    } else {
        send(task);
    }
    0
}

/// The same with probe reads.
#[btf_tracepoint]
fn decision_tp_btf_probe(ctx: BtfTracePointContext) -> u32 {
    let task: Address = ctx.arg(0);
    if begins_incident(task) {
        open(&ctx, HOOK_TP_BTF, WALK_PROBE, Control::unseen());
        send(task);
        snapshot_probe();
    } else {
        send(task);
    }
    0
}

/// `oom:mark_victim` as the decision, raw, probe reads.
#[raw_tracepoint]
fn decision_raw_tp_probe(ctx: RawTracePointContext) -> u32 {
    if begin_raw(&ctx, WALK_PROBE) {
        snapshot_probe();
    }
    0
}

/// The same with tail calls.
#[raw_tracepoint]
fn decision_raw_tp_tail(ctx: RawTracePointContext) -> u32 {
    if begin_raw(&ctx, WALK_TAIL) {
        continue_with_tail_call(&ctx);
    }
    0
}

/// One step of [`decision_raw_tp_tail`].
#[raw_tracepoint]
fn step_raw_tp(ctx: RawTracePointContext) -> u32 {
    snapshot_step(&ctx);
    0
}

/// Sends the victim; returns whether a snapshot is due.
#[inline(always)]
fn begin_raw(ctx: &RawTracePointContext, walk: u32) -> bool {
    if config(config::MARK_HAS_TASK) == 0 {
        // Only a number: user space finds the row by it. Two marks by one thread cannot be told
        // from a group here, so each begins an incident.
        open(ctx, HOOK_RAW_TP, walk, Control::unseen());
        send_number(ctx.arg(0));
        return true;
    }
    let task: Address = ctx.arg(0);
    let begins = begins_incident(task);
    if begins {
        open(ctx, HOOK_RAW_TP, walk, Control::unseen());
    }
    send(task);
    begins
}

/// Whether a mark is the first of a decision. Members of a group are marked by the same thread, in one
/// go; before its next decision a thread has been through reclaim again.
#[inline(always)]
fn begins_incident(task: Address) -> bool {
    let Some(state) = state() else { return false };
    // SAFETY: takes nothing.
    let pid = unsafe { bpf_get_current_pid_tgid() } as u32;
    if state.open == 0 || state.by_pid != pid {
        return true;
    }
    // SAFETY: only this thread writes its own entry.
    let passes = unsafe { RECLAIM.get(pid) }.map_or(0, |last| last.passes);
    passes != 0 || !in_oom_group(css_of::<Probe>(task as u64 as Address))
}

#[inline(always)]
fn killing(tgid: u32) {
    if let Some(state) = state() {
        state.killing_tgid = tgid;
    }
}

#[inline(always)]
fn send(task: Address) {
    let Some(record) = victim() else { return };
    let leader = follow::<Probe, { at::TASK_GROUP_LEADER }>(task);
    let mm = follow::<Probe, { at::TASK_MM }>(task);
    fill::<Probe>(leader, task, mm, &mut record.row);
    finish(record);
}

#[inline(always)]
fn send_number(pid: u32) {
    let Some(record) = victim() else { return };
    record.row = Row {
        pid,
        tgid: ABSENT_U32,
        ppid: ABSENT_U32,
        uid: ABSENT_U32,
        start_boot_ns: ABSENT_U64,
        cgroup: ABSENT_U64,
        comm: [0; 16],
        rss: [ABSENT_I64; 4],
        rss_exact: [ABSENT_I64; 4],
        pgtables_bytes: ABSENT_I64,
        total_vm_pages: ABSENT_U64,
        mm: 0,
        mems_allowed: ABSENT_U64,
        kernel_points: ABSENT_I64,
        oom_score_adj: i32::MIN,
        flags: 0,
        state: 0,
        ns_pid: ABSENT_U32,
    };
    finish(record);
}

#[inline(always)]
fn finish(record: &mut Victim) {
    let Some(state) = state() else { return };
    let incident = if state.open != 0 { state.incident } else { 0 };
    record.header = emit::header::<Victim>(KIND_VICTIM, incident);
    record.row.state |= if setting(setting::KILL_HOOK) == 0 {
        STATE_KILL_UNSEEN
    } else if state.open != 0 && state.killing_tgid == record.row.tgid {
        STATE_KILLED
    } else {
        0
    };
    // SAFETY: takes nothing.
    let by = unsafe { bpf_get_current_pid_tgid() };
    record.by_pid = by as u32;
    record.by_tgid = (by >> 32) as u32;
    state.victims += 1;
    emit::count(counter::VICTIMS, 1);
    let size = size_of::<Victim>() as u32;
    if !emit::event(record, size, counter::VICTIMS_LOST, Wake::Yes) {
        state.victims_lost += 1;
    }
}
