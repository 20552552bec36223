//! The memory cgroups of the candidates, and all their ancestors.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_kernel_str};
use oomtrace_ebpf::{
    event::{
        ABSENT_U32, ABSENT_U64, CGROUP_NAME_LEN, CGROUP_OOM_GROUP, CGROUP_OOM_KILL_DISABLE,
        CGROUP_ROOT, CGROUP_V2, Cgroup, KIND_CGROUP, MEMCG_EVENTS, SNAPSHOT_CGROUPS_CAPPED,
        counter,
    },
    layout as at,
};

use crate::{
    emit::{self, Wake},
    kernel::{Address, Probe, follow, get, get_or, has},
    probe::{
        candidates::{repeat, repeat_bounded},
        row::cgroup_id,
    },
    state::{FOUND, MAX_CGROUPS, SEEN, State, cgroup, offset, state},
};

/// How far up a group is looked for; deeper trees exist, but not with a group that far up.
const MAX_GROUP_DEPTH: u32 = 32;

/// Notes a css, once a snapshot.
#[inline(always)]
pub(crate) fn note(state: &mut State, css: u64) {
    if css == 0 || css == state.last_css {
        return;
    }
    state.last_css = css;
    // SAFETY: the element is compared at once.
    if unsafe { SEEN.get(css) }.is_some_and(|seen| *seen == state.incident) {
        return;
    }
    let found = state.found;
    if found >= MAX_CGROUPS {
        state.flags |= SNAPSHOT_CGROUPS_CAPPED;
        return;
    }
    let incident = state.incident;
    // If it cannot be remembered it may be sent twice; user space knows it by its id.
    let _ = SEEN.insert(css, incident, 0);
    if let Some(slot) = FOUND.get_ptr_mut(found) {
        // SAFETY: the element exists.
        unsafe { *slot = css };
        state.found = found + 1;
    }
}

/// Sends the next cgroup that was found, and notes its parent. Returns whether there are more.
#[inline(always)]
fn send_next(state: &mut State) -> bool {
    let index = state.cgroups;
    if index >= state.found || index >= MAX_CGROUPS {
        return false;
    }
    state.cgroups = index + 1;
    let (Some(css), Some(record)) = (FOUND.get(index), cgroup()) else {
        return false;
    };
    let css = *css as Address;
    let parent = follow::<Probe, { at::CSS_PARENT }>(css);
    fill(css, parent, record);
    record.header = emit::header::<Cgroup>(KIND_CGROUP, state.incident);
    // Masked so that the verifier knows a bound.
    let name_len = record.name_len & (CGROUP_NAME_LEN as u32 - 1);
    let size = (size_of::<Cgroup>() - CGROUP_NAME_LEN) as u32 + name_len;
    record.header.size = size;
    if !emit::event(record, size, counter::CGROUPS_LOST, Wake::No) {
        state.cgroups_lost += 1;
    }
    note(state, parent as u64);
    true
}

#[inline(always)]
fn fill(css: Address, parent: Address, record: &mut Cgroup) {
    record.id = cgroup_id::<Probe>(css);
    record.parent = if parent.is_null() {
        0
    } else {
        cgroup_id::<Probe>(parent)
    };
    let dir = follow::<Probe, { at::CSS_CGROUP }>(css);
    record.level = get_or::<Probe, u32, { at::CGROUP_LEVEL }>(dir, ABSENT_U32);
    record.flags = flags(css, dir, parent);

    record.usage = counter_of::<{ at::MEMCG_USAGE }>(css);
    record.max = counter_of::<{ at::MEMCG_MAX }>(css);
    record.high = counter_of::<{ at::MEMCG_HIGH }>(css);
    record.low = counter_of::<{ at::MEMCG_LOW }>(css);
    record.min = counter_of::<{ at::MEMCG_MIN }>(css);
    record.peak = counter_of::<{ at::MEMCG_PEAK }>(css);
    record.failcnt = counter_of::<{ at::MEMCG_FAILCNT }>(css);
    record.swap_usage = counter_of::<{ at::MEMCG_SWAP_USAGE }>(css);
    record.swap_max = counter_of::<{ at::MEMCG_SWAP_MAX }>(css);
    record.swap_failcnt = counter_of::<{ at::MEMCG_SWAP_FAILCNT }>(css);
    record.kmem_usage = counter_of::<{ at::MEMCG_KMEM_USAGE }>(css);
    record.swappiness = if has(at::MEMCG_SWAPPINESS) {
        u64::from(get::<Probe, u32, { at::MEMCG_SWAPPINESS }>(css))
    } else {
        ABSENT_U64
    };
    record.events = events(css, at::MEMCG_EVENTS_AT);
    record.events_local = events(css, at::MEMCG_EVENTS_LOCAL_AT);
    record.reserved = 0;
    name(dir, record);
}

#[inline(always)]
fn counter_of<const ENTRY: usize>(memcg: Address) -> u64 {
    get_or::<Probe, u64, ENTRY>(memcg, ABSENT_U64)
}

#[inline(always)]
fn flags(css: Address, dir: Address, parent: Address) -> u32 {
    let mut flags = 0;
    if has(at::CGROUP_ROOT) && has(at::CGROUP_ROOT_HIERARCHY_ID) {
        let root = follow::<Probe, { at::CGROUP_ROOT }>(dir);
        if get::<Probe, u32, { at::CGROUP_ROOT_HIERARCHY_ID }>(root) == 0 {
            flags |= CGROUP_V2;
        }
    }
    if parent.is_null() {
        flags |= CGROUP_ROOT;
    }
    if get_or::<Probe, u8, { at::MEMCG_OOM_GROUP }>(css, 0) != 0 {
        flags |= CGROUP_OOM_GROUP;
    }
    if get_or::<Probe, u8, { at::MEMCG_OOM_KILL_DISABLE }>(css, 0) != 0 {
        flags |= CGROUP_OOM_KILL_DISABLE;
    }
    flags
}

#[inline(always)]
fn events(memcg: Address, entry: usize) -> [u64; MEMCG_EVENTS] {
    let mut events = [ABSENT_U64; MEMCG_EVENTS];
    if has(entry) && has(at::MEMCG_EVENTS_COUNT) {
        let count = offset(at::MEMCG_EVENTS_COUNT).min(MEMCG_EVENTS as u32);
        // SAFETY: at most the size of `events` is written.
        unsafe {
            bpf_probe_read_kernel(
                events.as_mut_ptr().cast(),
                count * 8,
                memcg.wrapping_add(offset(entry) as usize).cast(),
            );
        }
    }
    events
}

#[inline(always)]
fn name(dir: Address, record: &mut Cgroup) {
    let kn = follow::<Probe, { at::CGROUP_KN }>(dir);
    let text = follow::<Probe, { at::KERNFS_NAME }>(kn);
    // SAFETY: the helper writes at most the size of `name`, NUL included.
    let length = unsafe {
        bpf_probe_read_kernel_str(
            record.name.as_mut_ptr().cast(),
            CGROUP_NAME_LEN as u32,
            text.cast::<c_void>(),
        )
    };
    record.name_len = if length > 0 { (length - 1) as u32 } else { 0 };
}

unsafe extern "C" fn send_callback(_turn: u64, _context: *mut c_void) -> i64 {
    match state() {
        Some(state) => i64::from(!send_next(state)),
        None => 1,
    }
}

/// Sends all that was found, with `bpf_loop`.
#[inline(always)]
pub(crate) fn send_loop() {
    repeat(MAX_CGROUPS, send_callback);
}

/// Sends some of what was found, in a bounded loop. Returns whether all is sent.
#[inline(always)]
pub(crate) fn send_bounded() -> bool {
    repeat_bounded::<2_000>(oomtrace_send)
}

/// See `oomtrace_step`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn oomtrace_send() -> u64 {
    match state() {
        Some(state) => u64::from(!send_next(state)),
        None => 1,
    }
}

/// Whether a cgroup or one above it is killed as a whole (`memory.oom.group`).
#[inline(always)]
pub(crate) fn in_oom_group(css: Address) -> bool {
    if !has(at::MEMCG_OOM_GROUP) {
        return false;
    }
    let mut memcg = css;
    let mut turns = 0;
    while turns < MAX_GROUP_DEPTH {
        if memcg.is_null() {
            return false;
        }
        if get::<Probe, u8, { at::MEMCG_OOM_GROUP }>(memcg) != 0 {
            return true;
        }
        memcg = follow::<Probe, { at::CSS_PARENT }>(memcg);
        turns += 1;
    }
    false
}
