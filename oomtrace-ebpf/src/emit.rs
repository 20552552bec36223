//! Submitting records, and counting what did not fit.

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{bpf_ktime_get_boot_ns, bpf_ringbuf_output},
    maps::RingBuf,
};
use oomtrace_ebpf::event::{self, Header, Row, Rows, counter};

use crate::state::{COUNTERS, Chunk, EVENTS, ROWS, State};

/// Boot time in nanoseconds, suspend included.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: takes nothing.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// The start of a record of type `T`.
#[inline(always)]
pub(crate) fn header<T>(kind: u32, incident: u64) -> Header {
    Header {
        kind,
        size: size_of::<T>() as u32,
        incident,
        time_ns: now(),
    }
}

/// Adds to a count that is never lost.
#[inline(always)]
pub(crate) fn count(slot: u32, by: u64) {
    if let Some(value) = COUNTERS.get_ptr_mut(slot) {
        // SAFETY: the element exists; decisions are serialised, so nothing is added in between.
        unsafe { *value += by };
    }
}

/// Whether the reader is to be woken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// More is about to follow.
    No,
    /// This is worth a look.
    Yes,
}

/// Sends `size` bytes of `record` through the reserved ring; counts the loss under `lost`.
#[inline(always)]
pub(crate) fn event<T>(record: &T, size: u32, lost: u32, wake: Wake) -> bool {
    let sent = output(&EVENTS, (&raw const *record).cast(), size, wake);
    if !sent {
        count(lost, 1);
    }
    sent
}

/// Sends the rows that wait in the chunk.
#[inline(always)]
pub(crate) fn flush(state: &mut State, chunk: &mut Chunk) {
    let pending = state.pending;
    if pending == 0 || pending > event::ROWS_PER_CHUNK as u32 {
        return;
    }
    let size = size_of::<Rows>() as u32 + pending * size_of::<Row>() as u32;
    chunk.head = Rows {
        header: Header {
            kind: event::KIND_ROWS,
            size,
            incident: state.incident,
            time_ns: now(),
        },
        first: state.rows.wrapping_sub(pending),
        count: pending,
    };
    if !output(&ROWS, (&raw const *chunk).cast(), size, Wake::No) {
        state.rows_lost += pending;
        count(counter::ROWS_LOST, u64::from(pending));
    }
    state.pending = 0;
}

#[inline(always)]
fn output(ring: &RingBuf, data: *const u8, size: u32, wake: Wake) -> bool {
    let flags = if wake == Wake::Yes {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    };
    // SAFETY: the verifier checks that `size` bytes can be read at `data`.
    let status = unsafe {
        bpf_ringbuf_output(
            (&raw const *ring).cast_mut().cast(),
            data.cast_mut().cast(),
            u64::from(size),
            u64::from(flags),
        )
    };
    status == 0
}
