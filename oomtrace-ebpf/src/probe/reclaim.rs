//! What a thread went through before it gave up: its last reclaim.
//!
//! Where the decision itself cannot be hooked, this is how gfp, order and the reach of the shortage
//! are known. Reclaim is the slow path already, so the cost does not show.
//!
//! # Kernel
//! Tracepoints `vmscan:mm_vmscan_direct_reclaim_begin` and `vmscan:mm_vmscan_memcg_reclaim_begin`, with
//! raw arguments `(int order, gfp_t)` up to v6.18 and `(gfp_t, int order, struct mem_cgroup *)` after.

use aya_ebpf::{
    EbpfContext, helpers::generated::bpf_get_current_pid_tgid, macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use oomtrace_ebpf::{
    event::{RECLAIM_DIRECT, RECLAIM_MEMCG},
    layout::config,
};

use crate::{
    emit,
    state::{RECLAIM, Reclaim, config},
};

/// A zone ran short.
#[raw_tracepoint]
fn reclaim_direct(ctx: RawTracePointContext) -> u32 {
    begin(&ctx, RECLAIM_DIRECT);
    0
}

/// A cgroup ran short.
#[raw_tracepoint]
fn reclaim_memcg(ctx: RawTracePointContext) -> u32 {
    begin(&ctx, RECLAIM_MEMCG);
    0
}

/// Either pass is over.
#[raw_tracepoint]
fn reclaim_end(_ctx: RawTracePointContext) -> u32 {
    // SAFETY: takes nothing.
    let pid = unsafe { bpf_get_current_pid_tgid() } as u32;
    if let Some(last) = RECLAIM.get_ptr_mut(pid) {
        // SAFETY: only this thread writes its own entry.
        let last = unsafe { &mut *last };
        if last.began_ns != 0 {
            last.spent_ns += emit::now().wrapping_sub(last.began_ns);
            last.began_ns = 0;
        }
    }
    0
}

/// Volatile, or the compiler reads one argument at an offset that it chooses at run time, which the
/// verifier refuses.
#[inline(always)]
fn argument(ctx: &RawTracePointContext, n: usize) -> u64 {
    // SAFETY: the tracepoint has at least two arguments.
    unsafe { ctx.as_ptr().cast::<u64>().add(n).read_volatile() }
}

#[inline(always)]
fn begin(ctx: &RawTracePointContext, kind: u32) {
    let (first, second) = (argument(ctx, 0), argument(ctx, 1));
    let (gfp, order) = if config(config::RECLAIM_GFP_FIRST) != 0 {
        (first, second)
    } else {
        (second, first)
    };
    let (gfp, order) = (gfp as u32, order as i32);
    // SAFETY: takes nothing.
    let pid = unsafe { bpf_get_current_pid_tgid() } as u32;
    if let Some(last) = RECLAIM.get_ptr_mut(pid) {
        // SAFETY: only this thread writes its own entry.
        let last = unsafe { &mut *last };
        last.kind = kind;
        last.gfp = gfp;
        last.order = order;
        last.passes += 1;
        last.began_ns = emit::now();
        return;
    }
    let first = Reclaim {
        kind,
        gfp,
        order,
        passes: 1,
        began_ns: emit::now(),
        spent_ns: 0,
    };
    // A full map forgets the thread that reclaimed longest ago.
    let _ = RECLAIM.insert(pid, first, 0);
}
