//! The kernel's own score of each candidate, as a witness of ours. Opt-in.
//!
//! # Kernel
//! `long oom_badness(struct task_struct *p, unsigned long totalpages)` (mm/oom_kill.c) also runs for
//! each read of `/proc/PID/oom_score`, so only calls of the thread inside `out_of_memory` count. Split
//! by the compiler in 5.10 (`oom_badness.part.0`), where this stays without effect.

use aya_ebpf::{
    helpers::generated::bpf_get_current_pid_tgid,
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};

use crate::state::{POINTS, Points, state};

/// A scan begins.
#[fentry]
fn scan_begin(_ctx: FEntryContext) -> u32 {
    if let Some(state) = state() {
        // SAFETY: takes nothing.
        state.scanning_pid = unsafe { bpf_get_current_pid_tgid() } as u32;
        state.scan += 1;
    }
    0
}

/// It is over.
#[fexit]
fn scan_end(_ctx: FExitContext) -> u32 {
    if let Some(state) = state() {
        state.scanning_pid = 0;
    }
    0
}

/// One candidate was scored.
#[fexit]
fn scored(ctx: FExitContext) -> u32 {
    let Some(state) = state() else { return 0 };
    // SAFETY: takes nothing.
    if state.scanning_pid == 0 || state.scanning_pid != unsafe { bpf_get_current_pid_tgid() } as u32
    {
        return 0;
    }
    let key: u64 = ctx.arg(0);
    // Two arguments, then what was returned.
    let points = Points {
        scan: state.scan,
        points: ctx.arg(2),
    };
    // A full map forgets the candidate scored longest ago.
    let _ = POINTS.insert(key, points, 0);
    0
}
