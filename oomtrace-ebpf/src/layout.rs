//! The kernel struct members that the kernel side reads, by name.
//!
//! rustc emits no CO-RE relocations, so the programs carry no offsets. User space looks each entry
//! of [`LAYOUT`] up in the running kernel's BTF, by presence and never by version, and hands the
//! resulting table over as a frozen read-only global before the programs are loaded. What the kernel
//! does not have is [`ABSENT`], and the verifier then drops the code that would have read it.

/// An entry of the table that the running kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// Offset that a direct load is compiled with: this plus the number of the entry. User space puts the real
/// one in its place. No load of the programs' own reaches so far.
pub const STAND_IN: usize = 0x7000;

/// Where the value of an entry comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Offset in bytes of a member. The path may pass through nested and anonymous structs and
    /// unions; alternatives, newest name first, are separated by `|`.
    Offset(&'static str, &'static str),
    /// Size in bytes of a type.
    Size(&'static str),
    /// Something that takes a decision; user space knows the name.
    Derived(&'static str),
}

/// One entry of the table.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Name of the constant that indexes the table.
    pub name: &'static str,
    /// Where its value comes from.
    pub source: Source,
    /// Whether the programs are useless without it.
    pub required: bool,
}

macro_rules! layout {
    (@required required) => { true };
    (@required optional) => { false };
    ($($(#[$doc:meta])* $name:ident = $kind:ident $source:expr;)*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "only numbers the entries")]
        enum Index { $($name,)* COUNT_ }
        $($(#[$doc])* pub const $name: usize = Index::$name as usize;)*
        /// Number of entries.
        pub const COUNT: usize = Index::COUNT_ as usize;
        /// The table, in the order of the constants.
        pub const LAYOUT: [Entry; COUNT] = [$(Entry {
            name: stringify!($name),
            source: $source,
            required: layout!(@required $kind),
        },)*];
    };
}

use Source::{Derived, Offset, Size};

layout! {
    /// Ring of all process leaders through `init_task`; new ones join at the tail.
    TASK_TASKS = required Offset("task_struct", "tasks");
    /// BTF id of `struct task_struct`.
    TASK_BTF_ID = required Derived("task_btf_id");
    /// `PF_` flags.
    TASK_FLAGS = required Offset("task_struct", "flags");
    /// NULL for kernel threads and after `exit_mm`.
    TASK_MM = required Offset("task_struct", "mm");
    /// Shared by the threads of a process.
    TASK_SIGNAL = required Offset("task_struct", "signal");
    /// Thread id.
    TASK_PID = required Offset("task_struct", "pid");
    /// Process id.
    TASK_TGID = required Offset("task_struct", "tgid");
    /// Parent, ptrace aside.
    TASK_REAL_PARENT = required Offset("task_struct", "real_parent");
    /// Leader of the thread group.
    TASK_GROUP_LEADER = required Offset("task_struct", "group_leader");
    /// Objective credentials; `task_uid` reads these.
    TASK_REAL_CRED = required Offset("task_struct", "real_cred");
    /// The css_set.
    TASK_CGROUPS = required Offset("task_struct", "cgroups");
    /// Name, 16 bytes, NUL-terminated.
    TASK_COMM = required Offset("task_struct", "comm");
    /// Its second half.
    TASK_COMM_8 = required Derived("task_comm_8");
    /// Boot-time start of the task; `real_start_time` before v5.5 (cf25e24db61c).
    TASK_START_BOOTTIME = required Offset("task_struct", "start_boottime|real_start_time");
    /// NUMA nodes the task may use; absent without CONFIG_CPUSETS.
    TASK_MEMS_ALLOWED = optional Offset("task_struct", "mems_allowed");
    /// Set while a vfork child still shares its parent's mm.
    TASK_VFORK_DONE = optional Offset("task_struct", "vfork_done");
    /// `struct pid` of the thread.
    TASK_THREAD_PID = optional Offset("task_struct", "thread_pid");
    /// Link in `signal->thread_head`.
    TASK_THREAD_NODE = required Offset("task_struct", "thread_node");

    /// `oom_score_adj`, s16.
    SIGNAL_OOM_SCORE_ADJ = required Offset("signal_struct", "oom_score_adj");
    /// Non-NULL once the process is an OOM victim.
    SIGNAL_OOM_MM = required Offset("signal_struct", "oom_mm");
    /// Set by swapoff and KSM.
    SIGNAL_OOM_FLAG_ORIGIN = optional Offset("signal_struct", "oom_flag_origin");
    /// List of the process's threads.
    SIGNAL_THREAD_HEAD = required Offset("signal_struct", "thread_head");

    /// Real uid.
    CRED_UID = required Offset("cred", "uid");

    /// Depth of the pid namespace, 0 the initial one.
    PID_LEVEL = optional Offset("pid", "level");
    /// One `upid` for each level.
    PID_NUMBERS = optional Offset("pid", "numbers");
    /// Stride of `pid.numbers`.
    UPID_SIZE = optional Size("upid");
    /// The number itself.
    UPID_NR = optional Offset("upid", "nr");

    /// First of the four memory counters, by `RSS_`: `mm.rss_stat.count[0]` up to v6.1,
    /// `mm.rss_stat[0].count` since f1a7941243c1 "mm: convert mm's rss stats into percpu_counter" (in v6.2).
    MM_RSS_0 = required Derived("mm_rss_0");
    /// The second.
    MM_RSS_1 = required Derived("mm_rss_1");
    /// The third.
    MM_RSS_2 = required Derived("mm_rss_2");
    /// The fourth.
    MM_RSS_3 = required Derived("mm_rss_3");
    /// Pointer to the CPUs' shares of the first; absent up to v6.1, as the next three.
    MM_SHARES_0 = optional Derived("mm_shares_0");
    /// Of the second.
    MM_SHARES_1 = optional Derived("mm_shares_1");
    /// Of the third.
    MM_SHARES_2 = optional Derived("mm_shares_2");
    /// Of the fourth.
    MM_SHARES_3 = optional Derived("mm_shares_3");
    /// Bytes of page tables.
    MM_PGTABLES_BYTES = required Offset("mm_struct", "pgtables_bytes");
    /// Pages of address space.
    MM_TOTAL_VM = required Offset("mm_struct", "total_vm");
    /// Where the arguments of the program begin, in user memory.
    MM_ARG_START = optional Offset("mm_struct", "arg_start");
    /// Where they end.
    MM_ARG_END = optional Offset("mm_struct", "arg_end");
    /// `MMF_` flags; a bitmap in a struct of its own since v6.18, at the same place.
    MM_FLAGS = required Offset("mm_struct", "flags");

    /// The memory controller's slot in `css_set.subsys`; its index comes from
    /// `enum cgroup_subsys_id`. Absent without CONFIG_MEMCG.
    CSS_SET_MEMORY = optional Derived("css_set_memory");
    /// The cgroup that a css belongs to.
    CSS_CGROUP = optional Offset("cgroup_subsys_state", "cgroup");
    /// Parent css, NULL at the root.
    CSS_PARENT = optional Offset("cgroup_subsys_state", "parent");
    /// The directory.
    CGROUP_KN = optional Offset("cgroup", "kn");
    /// Depth.
    CGROUP_LEVEL = optional Offset("cgroup", "level");
    /// The hierarchy.
    CGROUP_ROOT = optional Offset("cgroup", "root");
    /// 0 for the v2 hierarchy.
    CGROUP_ROOT_HIERARCHY_ID = optional Offset("cgroup_root", "hierarchy_id");
    /// Equals the inode number (since v5.5, 67c0496e87d1).
    KERNFS_ID = optional Offset("kernfs_node", "id");
    /// Last component of the path.
    KERNFS_NAME = optional Offset("kernfs_node", "name");

    /// `memory` counter: pages in use.
    MEMCG_USAGE = optional Offset("mem_cgroup", "memory.usage");
    /// Hard limit.
    MEMCG_MAX = optional Offset("mem_cgroup", "memory.max");
    /// Throttling limit.
    MEMCG_HIGH = optional Offset("mem_cgroup", "memory.high|high");
    /// Best-effort protection.
    MEMCG_LOW = optional Offset("mem_cgroup", "memory.low");
    /// Hard protection.
    MEMCG_MIN = optional Offset("mem_cgroup", "memory.min");
    /// Highest usage seen.
    MEMCG_PEAK = optional Offset("mem_cgroup", "memory.watermark");
    /// Failed charges; not counted on v2 since v6.18.
    MEMCG_FAILCNT = optional Offset("mem_cgroup", "memory.failcnt");
    /// v2 swap, or v1 memory plus swap: one union.
    MEMCG_SWAP_USAGE = optional Offset("mem_cgroup", "swap.usage");
    /// Its limit.
    MEMCG_SWAP_MAX = optional Offset("mem_cgroup", "swap.max");
    /// Its failures.
    MEMCG_SWAP_FAILCNT = optional Offset("mem_cgroup", "swap.failcnt");
    /// v1 kernel memory.
    MEMCG_KMEM_USAGE = optional Offset("mem_cgroup", "kmem.usage");
    /// v1 swappiness, int.
    MEMCG_SWAPPINESS = optional Offset("mem_cgroup", "swappiness");
    /// `memory.oom.group`, bool.
    MEMCG_OOM_GROUP = optional Offset("mem_cgroup", "oom_group");
    /// v1 `memory.oom_control`, int or bool.
    MEMCG_OOM_KILL_DISABLE = optional Offset("mem_cgroup", "oom_kill_disable");
    /// Event counters, hierarchical.
    MEMCG_EVENTS_AT = optional Offset("mem_cgroup", "memory_events");
    /// Event counters of this cgroup alone.
    MEMCG_EVENTS_LOCAL_AT = optional Offset("mem_cgroup", "memory_events_local");
    /// How many of them there are.
    MEMCG_EVENTS_COUNT = optional Derived("memcg_events_count");

    /// Which check narrowed the choice.
    OC_CONSTRAINT = required Offset("oom_control", "constraint");
    /// Allocation flags.
    OC_GFP_MASK = required Offset("oom_control", "gfp_mask");
    /// Allocation order.
    OC_ORDER = required Offset("oom_control", "order");
    /// The whole against which `oom_score_adj` is a share.
    OC_TOTALPAGES = required Offset("oom_control", "totalpages");
    /// The task about to die.
    OC_CHOSEN = required Offset("oom_control", "chosen");
    /// Its score.
    OC_CHOSEN_POINTS = required Offset("oom_control", "chosen_points");
    /// NULL for a host-wide OOM; absent without CONFIG_MEMCG.
    OC_MEMCG = optional Offset("oom_control", "memcg");
    /// NULL unless a memory policy or the caller narrowed the nodes.
    OC_NODEMASK = required Offset("oom_control", "nodemask");
}

/// Slots of the `CONFIG` global (an array of `u64`): what is not an offset.
pub mod config {
    /// Stop a walk after this many processes.
    pub const MAX_ROWS: usize = 0;
    /// Stop a walk after this many nanoseconds.
    pub const MAX_NS: usize = 1;
    /// Not 0: add up the per-CPU parts of the memory counters.
    pub const EXACT: usize = 2;
    /// Possible CPUs.
    pub const CPUS: usize = 3;
    /// Not 0: `mark_victim` hands over a `task_struct`, not a pid.
    pub const MARK_HAS_TASK: usize = 4;
    /// Not 0: the reclaim tracepoints hand over (gfp, order, memcg), not (order, gfp).
    pub const RECLAIM_GFP_FIRST: usize = 5;
    /// Not 0: keep the kernel's own score of each candidate.
    pub const KERNEL_POINTS: usize = 6;
    /// Number of slots.
    pub const COUNT: usize = 8;
}

/// Slots of the `SETTINGS` map (an array of `u64`): what may become known only after the programs are
/// loaded. Addresses are 0 while unknown.
pub mod setting {
    /// Address of `__per_cpu_offset`.
    pub const PER_CPU_OFFSET: u32 = 0;
    /// Address of the host's count of free pages.
    pub const FREE_PAGES: u32 = 1;
    /// Address of `nr_swap_pages`.
    pub const NR_SWAP_PAGES: u32 = 2;
    /// Address of `total_swap_pages`.
    pub const TOTAL_SWAP_PAGES: u32 = 3;
    /// Not 0: `__oom_kill_process` is hooked, so a mark without it is not a kill.
    pub const KILL_HOOK: u32 = 4;
    /// Number of slots.
    pub const COUNT: u32 = 8;
}

/// Stand-ins for kfunc calls: the programs call a helper of this number, and user space rewrites each
/// such call into a call of the kernel function, whose BTF id only the running kernel knows.
pub mod kfunc {
    /// `bpf_rdonly_cast` (since v6.2, a35b9af4ec2c).
    pub const RDONLY_CAST: u32 = 0x6f6f_6d01;
    /// Number and name of each.
    pub const ALL: [(u32, &str); 1] = [(RDONLY_CAST, "bpf_rdonly_cast")];
}
