//! Command lines, kept from the moment they exist: a victim's is gone before anybody can look.
//!
//! # Kernel
//! Tracepoint `sched:sched_process_exec`, raw arguments `(struct task_struct *, pid_t, struct
//! linux_binprm *)`; the new program's arguments have just been written, so they are in memory.

use aya_ebpf::{
    helpers::generated::{bpf_get_current_pid_tgid, bpf_get_current_task, bpf_probe_read_user},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use oomtrace_ebpf::{
    event::{CMDLINE_LEN, Cmdline, counter},
    layout as at,
};

use crate::{
    emit,
    kernel::{Address, Probe, follow, get, has},
    state::{CMDLINE, CMDLINES},
};

/// A process became another program.
#[raw_tracepoint]
fn exec(_ctx: RawTracePointContext) -> u32 {
    if !has(at::MM_ARG_START) || !has(at::MM_ARG_END) {
        return 0;
    }
    let Some(record) = CMDLINE.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own element; the tracepoint does not nest.
    let record = unsafe { &mut *record };
    // SAFETY: takes nothing.
    let task = unsafe { bpf_get_current_task() } as Address;
    let mm = follow::<Probe, { at::TASK_MM }>(task);
    let start = get::<Probe, u64, { at::MM_ARG_START }>(mm);
    let length = get::<Probe, u64, { at::MM_ARG_END }>(mm).wrapping_sub(start);
    let length = if length > CMDLINE_LEN as u64 {
        CMDLINE_LEN as u64
    } else {
        length
    };
    // SAFETY: at most the size of `text` is written, and a fault zeroes it.
    let status = unsafe {
        bpf_probe_read_user(
            record.text.as_mut_ptr().cast(),
            length as u32,
            start as *const _,
        )
    };
    if status != 0 {
        return 0;
    }
    record.len = length;
    let leader = follow::<Probe, { at::TASK_GROUP_LEADER }>(task);
    record.start_boot_ns = get::<Probe, u64, { at::TASK_START_BOOTTIME }>(leader);
    // SAFETY: takes nothing.
    let tgid = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
    // A full map forgets the process that was started longest ago.
    // Two CPUs at once may count as one; user space leaves room for that.
    emit::count(counter::EXECS, 1);
    let record: &Cmdline = record;
    let _ = CMDLINES.insert(tgid, record, 0);
    0
}
