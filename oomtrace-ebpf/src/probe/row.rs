//! One process, read into a [`Row`].

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use oomtrace_ebpf::{
    event::{
        ABSENT_I64, ABSENT_U32, ABSENT_U64, COMM_LEN, Row, STATE_EXACT, STATE_FLAG_ORIGIN,
        STATE_IN_VFORK, STATE_MM_OOM_SKIP, STATE_NO_MM, STATE_OOM_VICTIM,
    },
    layout::{self as at, config, setting},
};

use crate::{
    kernel::{Address, Mem, Probe, follow, get, get_or, has},
    state::{CPU_OFFSETS, MAX_CPUS, POINTS, State, config, offset, setting, state},
};

/// `MMF_OOM_SKIP`, bit 21 in every version read (include/linux/mm_types.h).
const MMF_OOM_SKIP: u64 = 1 << 21;

/// Reads a process. `leader` stands for the process, `holder` is the thread that has the mm (the
/// leader itself unless that has exited).
///
/// Returns the css of its memory cgroup, NULL if there is none.
#[inline(always)]
pub(crate) fn fill<M: Mem>(
    leader: Address,
    holder: Address,
    mm: Address,
    row: &mut Row,
) -> Address {
    row.pid = get::<M, u32, { at::TASK_PID }>(holder);
    row.tgid = get::<M, u32, { at::TASK_TGID }>(leader);
    row.flags = get::<M, u32, { at::TASK_FLAGS }>(holder);
    row.start_boot_ns = get::<M, u64, { at::TASK_START_BOOTTIME }>(leader);
    row.comm = comm::<M>(holder);
    row.mems_allowed = get_or::<M, u64, { at::TASK_MEMS_ALLOWED }>(holder, ABSENT_U64);
    row.state = 0;

    let signal = follow::<M, { at::TASK_SIGNAL }>(leader);
    row.oom_score_adj = i32::from(get::<M, i16, { at::SIGNAL_OOM_SCORE_ADJ }>(signal));
    if get::<M, u64, { at::SIGNAL_OOM_MM }>(signal) != 0 {
        mark(row, STATE_OOM_VICTIM);
    }
    if get_or::<M, u8, { at::SIGNAL_OOM_FLAG_ORIGIN }>(signal, 0) != 0 {
        mark(row, STATE_FLAG_ORIGIN);
    }

    let parent = follow::<M, { at::TASK_REAL_PARENT }>(leader);
    row.ppid = get::<M, u32, { at::TASK_TGID }>(parent);
    let cred = follow::<M, { at::TASK_REAL_CRED }>(holder);
    row.uid = get::<M, u32, { at::CRED_UID }>(cred);
    row.ns_pid = ns_pid::<M>(leader);

    row.mm = mm as u64;
    row.kernel_points = ABSENT_I64;
    row.rss_exact = [ABSENT_I64; 4];
    if mm.is_null() {
        mark(row, STATE_NO_MM);
        row.rss = [ABSENT_I64; 4];
        row.pgtables_bytes = ABSENT_I64;
        row.total_vm_pages = ABSENT_U64;
    } else {
        counters::<M>(mm, row);
        if has(at::TASK_VFORK_DONE)
            && get::<M, u64, { at::TASK_VFORK_DONE }>(holder) != 0
            && get::<M, u64, { at::TASK_MM }>(parent) == row.mm
        {
            mark(row, STATE_IN_VFORK);
        }
    }
    if config(config::KERNEL_POINTS) != 0 {
        kernel_points(leader, row);
    }
    memory_css::<M>(leader, row)
}

/// The memory counters of an mm.
///
/// An exiting task can give its mm back while it is read: nothing protects that memory, and it may by
/// then hold another mm. The caller looks at `task->mm` again afterwards.
#[inline(always)]
fn counters<M: Mem>(mm: Address, row: &mut Row) {
    if has(at::MM_SHARES_0) {
        row.rss = [
            get::<M, i64, { at::MM_RSS_0 }>(mm),
            get::<M, i64, { at::MM_RSS_1 }>(mm),
            get::<M, i64, { at::MM_RSS_2 }>(mm),
            get::<M, i64, { at::MM_RSS_3 }>(mm),
        ];
    } else {
        // Four atomics in a row, up to v6.1, whose verifier does not see through the typedef of an
        // array's elements.
        row.rss = Probe::read(mm, offset(at::MM_RSS_0));
    }
    row.pgtables_bytes = get::<M, i64, { at::MM_PGTABLES_BYTES }>(mm);
    row.total_vm_pages = get::<M, u64, { at::MM_TOTAL_VM }>(mm);
    if get::<M, u64, { at::MM_FLAGS }>(mm) & MMF_OOM_SKIP != 0 {
        mark(row, STATE_MM_OOM_SKIP);
    }
    if config(config::EXACT) != 0 && has(at::MM_SHARES_0) {
        let parts = [
            get::<M, u64, { at::MM_SHARES_0 }>(mm),
            get::<M, u64, { at::MM_SHARES_1 }>(mm),
            get::<M, u64, { at::MM_SHARES_2 }>(mm),
            get::<M, u64, { at::MM_SHARES_3 }>(mm),
        ];
        if add_cpu_shares(parts, row) {
            mark(row, STATE_EXACT);
        }
    }
}

/// Adds each CPU's share to the shared counters. Returns whether the shares could be found.
#[inline(always)]
fn add_cpu_shares(parts: [u64; 4], row: &mut Row) -> bool {
    let mut sum = row.rss;
    let Some(offsets) = CPU_OFFSETS.get(0) else {
        return false;
    };
    if state().is_none_or(|state| state.exact == 0) {
        return false;
    }
    // One allocation for all four since 14ef95be6f55 "kernel/fork: group allocation/free of per-cpu
    // counters for mm struct" (in v6.6).
    let together =
        parts[1] == parts[0] + 4 && parts[2] == parts[0] + 8 && parts[3] == parts[0] + 12;
    let cpus = config(config::CPUS) as u32;
    let mut cpu = 0;
    while cpu < MAX_CPUS {
        if cpu >= cpus {
            break;
        }
        let here = offsets[cpu as usize];
        if together {
            let share: [i32; 4] = Probe::read((parts[0] + here) as Address, 0);
            sum[0] += i64::from(share[0]);
            sum[1] += i64::from(share[1]);
            sum[2] += i64::from(share[2]);
            sum[3] += i64::from(share[3]);
        } else {
            sum[0] += i64::from(Probe::read::<i32>((parts[0] + here) as Address, 0));
            sum[1] += i64::from(Probe::read::<i32>((parts[1] + here) as Address, 0));
            sum[2] += i64::from(Probe::read::<i32>((parts[2] + here) as Address, 0));
            sum[3] += i64::from(Probe::read::<i32>((parts[3] + here) as Address, 0));
        }
        cpu += 1;
    }
    row.rss_exact = sum;
    true
}

/// Reads the table of per-CPU offsets; once a snapshot.
#[inline(always)]
pub(crate) fn load_cpu_offsets(state: &mut State) {
    state.exact = 0;
    let table = setting(setting::PER_CPU_OFFSET);
    if config(config::EXACT) == 0 || table == 0 {
        return;
    }
    state.exact = 1;
    if let Some(offsets) = CPU_OFFSETS.get_ptr_mut(0) {
        let size = (config(config::CPUS) as u32 * 8).min(MAX_CPUS * 8);
        // SAFETY: the element is at least `size` bytes; a fault zeroes it.
        unsafe {
            bpf_probe_read_kernel(offsets.cast(), size, table as *const c_void);
        }
    }
}

/// `comm`, whole.
#[inline(always)]
pub(crate) fn comm<M: Mem>(task: Address) -> [u8; COMM_LEN] {
    let words = [
        get::<M, u64, { at::TASK_COMM }>(task),
        get::<M, u64, { at::TASK_COMM_8 }>(task),
    ];
    // SAFETY: both are sixteen bytes, and any bytes are a `comm`.
    unsafe { core::mem::transmute::<[u64; 2], [u8; COMM_LEN]>(words) }
}

/// Pid in the innermost namespace; absent for a process of the initial one.
#[inline(always)]
fn ns_pid<M: Mem>(leader: Address) -> u32 {
    if !has(at::TASK_THREAD_PID) || !has(at::PID_NUMBERS) {
        return ABSENT_U32;
    }
    let pid = follow::<M, { at::TASK_THREAD_PID }>(leader);
    let level = get::<M, u32, { at::PID_LEVEL }>(pid);
    if level == 0 || level > 32 {
        return ABSENT_U32;
    }
    let nr = offset(at::PID_NUMBERS) + level * offset(at::UPID_SIZE) + offset(at::UPID_NR);
    Probe::read(pid, nr)
}

/// The kernel's own score, if this scan produced one.
#[inline(always)]
fn kernel_points(leader: Address, row: &mut Row) {
    let key = leader as u64;
    // SAFETY: the element is copied out at once.
    if let (Some(points), Some(state)) = (unsafe { POINTS.get(key) }, state())
        && points.scan == state.scan
    {
        row.kernel_points = points.points;
    }
}

/// Sets the id of the memory cgroup of `task`, and returns its css.
#[inline(always)]
fn memory_css<M: Mem>(task: Address, row: &mut Row) -> Address {
    let css = css_of::<M>(task);
    row.cgroup = cgroup_id::<M>(css);
    css
}

/// The css of the memory controller for `task`; NULL without one.
#[inline(always)]
pub(crate) fn css_of<M: Mem>(task: Address) -> Address {
    if !has(at::CSS_SET_MEMORY) {
        return core::ptr::null();
    }
    follow::<M, { at::CSS_SET_MEMORY }>(follow::<M, { at::TASK_CGROUPS }>(task))
}

/// The id of the cgroup of a css; 0 if any link is missing, for a read through NULL gives zero. No test
/// on the way: each would double what the verifier has to look at.
#[inline(always)]
pub(crate) fn cgroup_id<M: Mem>(css: Address) -> u64 {
    if !has(at::CSS_CGROUP) || !has(at::CGROUP_KN) || !has(at::KERNFS_ID) {
        return 0;
    }
    let dir = follow::<M, { at::CSS_CGROUP }>(css);
    get::<M, u64, { at::KERNFS_ID }>(follow::<M, { at::CGROUP_KN }>(dir))
}

/// Sets a bit in memory that the verifier does not follow, so that what comes after is looked at once and
/// not once for each combination of bits.
#[inline(always)]
pub(crate) fn mark(row: &mut Row, bit: u32) {
    // SAFETY: a field of a live record.
    unsafe {
        let state = &raw mut row.state;
        state.write_volatile(state.read_volatile() | bit);
    }
}
