//! What the running kernel has: offsets, prototypes, flag names. The only file on this side that knows
//! how kernels differ; it asks whether a thing is there, never for a version, with one exception that
//! is named where it stands.

use std::path::Path;

use oomtrace_ebpf::layout::{self, ABSENT, LAYOUT, Source, config, kfunc};

use super::btf::Btf;
use crate::error::{Error, Result};

/// Where the kernel shows its types.
pub(super) const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// Functions and tracepoints whose prototypes matter, beside the structs of the layout.
const NAMES: [&str; 16] = [
    "css_set",
    "page_counter",
    "percpu_counter",
    "cgroup_subsys_id",
    "memcg_memory_event",
    "oom_kill_process",
    "__oom_kill_process",
    "mark_oom_victim",
    "out_of_memory",
    "oom_badness",
    "btf_trace_mark_victim",
    "btf_trace_mm_vmscan_direct_reclaim_begin",
    "btf_trace_mm_vmscan_memcg_reclaim_begin",
    "bpf_rdonly_cast",
    "gfp_t",
    "mm_struct",
];

/// What the programs and the assembly need to know of the running kernel.
pub(super) struct Kernel {
    /// The offset table.
    pub(super) layout: [u32; layout::COUNT],
    /// The part of the configuration that is the kernel's.
    pub(super) config: [u64; config::COUNT],
    /// BTF ids of the kernel functions that the programs call, if the kernel has all of them.
    pub(super) kfuncs: Option<Vec<(u32, u32)>>,
    /// Whether the kernel scores by exact sums.
    pub(super) scores_exact: bool,
    /// `enum memcg_memory_event`, in order.
    pub(super) memcg_events: Vec<String>,
    /// Bits of `gfp_t` and their names.
    pub(super) gfp_bits: Vec<(u32, String)>,
    /// Whether the kernel counts failed charges of cgroup v2 in `failcnt`.
    pub(super) counts_v2_failures: bool,
}

impl Kernel {
    /// Reads the kernel's BTF.
    pub(super) fn read(release: &str, cpus: u32) -> Result<Self> {
        let path = Path::new(BTF_PATH);
        if !path.exists() {
            return Err(Error::KernelLacks {
                what: format!("type information ({BTF_PATH})"),
                remedy:
                    "it takes a kernel built with CONFIG_DEBUG_INFO_BTF=y, as most distributions \
                         have shipped since 2020"
                        .into(),
            });
        }
        let structs = LAYOUT.iter().filter_map(|entry| match entry.source {
            Source::Offset(name, _) | Source::Size(name) => Some(name),
            Source::Derived(_) => None,
        });
        let btf = Btf::open(path, structs.chain(NAMES))?;
        let layout = layout_of(&btf)?;
        // 5898aa8f9a0b "mm: use exact sums in oom_badness" (in v7.0) left no trace in BTF, so here
        // alone the release decides.
        let has_percpu = layout[layout::MM_RSS_PERCPU] != ABSENT;
        let scores_exact = has_percpu && major_version(release) >= 7;
        let mut config = [0; config::COUNT];
        config[config::EXACT] = u64::from(scores_exact);
        config[config::CPUS] = u64::from(cpus);
        config[config::MARK_HAS_TASK] = u64::from(first_is_pointer(&btf, "btf_trace_mark_victim"));
        config[config::RECLAIM_GFP_FIRST] = u64::from(reclaim_takes_gfp_first(&btf));
        Ok(Self {
            layout,
            config,
            kfuncs: kfuncs(&btf),
            scores_exact,
            memcg_events: memcg_events(&btf),
            gfp_bits: gfp_bits(&btf),
            // Came with the end of that count, in v6.18.
            counts_v2_failures: btf.member("page_counter", "track_failcnt").is_none(),
        })
    }

    /// Whether `mark_victim` hands over a task.
    pub(super) fn mark_has_task(&self) -> bool {
        self.config[config::MARK_HAS_TASK] != 0
    }
}

fn layout_of(btf: &Btf) -> Result<[u32; layout::COUNT]> {
    let mut table = [ABSENT; layout::COUNT];
    for (slot, entry) in table.iter_mut().zip(&LAYOUT) {
        let value = match entry.source {
            Source::Offset(name, paths) => paths
                .split('|')
                .find_map(|path| btf.member(name, path))
                .map(|member| member.offset),
            Source::Size(name) => btf.size_of(name),
            Source::Derived(what) => derive(btf, what),
        };
        match value {
            Some(value) => *slot = value,
            None if entry.required => {
                return Err(Error::KernelLacks {
                    what: format!("{} ({:?})", entry.name, entry.source),
                    remedy: "this kernel is older or more unusual than any this version knows"
                        .into(),
                });
            }
            None => {}
        }
    }
    Ok(table)
}

fn derive(btf: &Btf, what: &str) -> Option<u32> {
    // Up to v6.1 a struct with an array of atomics, since then an array of percpu counters.
    let plain = || btf.member("mm_struct", "rss_stat.count");
    let percpu = || btf.member("mm_struct", "rss_stat");
    match what {
        "mm_rss" => plain()
            .map(|member| member.offset)
            .or_else(|| Some(percpu()?.offset + btf.member("percpu_counter", "count")?.offset)),
        "mm_rss_stride" => match plain() {
            Some(member) => btf.size(btf.element_type(member.type_id)?),
            None => btf.size_of("percpu_counter"),
        },
        "mm_rss_percpu" => match plain() {
            Some(_) => None,
            None => {
                let count = btf.member("percpu_counter", "count")?.offset;
                btf.member("percpu_counter", "counters")?
                    .offset
                    .checked_sub(count)
            }
        },
        "css_set_memory" => {
            let slots = btf.member("css_set", "subsys")?.offset;
            let (_, index) = btf
                .enumerators("cgroup_subsys_id")?
                .into_iter()
                .find(|(name, _)| name == "memory_cgrp_id")?;
            Some(slots + 8 * index)
        }
        "task_btf_id" => btf.struct_id("task_struct"),
        "memcg_events_count" => btf.elements(btf.member("mem_cgroup", "memory_events")?.type_id),
        _ => None,
    }
}

fn major_version(release: &str) -> u32 {
    release
        .split('.')
        .next()
        .and_then(|major| major.parse().ok())
        .unwrap_or(0)
}

fn first_is_pointer(btf: &Btf, name: &str) -> bool {
    btf.parameters(name)
        .and_then(|parameters| parameters.first().copied())
        .is_some_and(|first| btf.is_pointer(first))
}

fn reclaim_takes_gfp_first(btf: &Btf) -> bool {
    btf.parameters("btf_trace_mm_vmscan_direct_reclaim_begin")
        .and_then(|parameters| btf.type_name(*parameters.first()?))
        .is_some_and(|name| name == "gfp_t")
}

fn kfuncs(btf: &Btf) -> Option<Vec<(u32, u32)>> {
    kfunc::ALL
        .iter()
        .map(|&(number, name)| Some((number, btf.function(name)?)))
        .collect()
}

fn memcg_events(btf: &Btf) -> Vec<String> {
    let mut events = btf.enumerators("memcg_memory_event").unwrap_or_default();
    events.sort_by_key(|&(_, value)| value);
    events
        .into_iter()
        .filter_map(|(name, _)| Some(name.strip_prefix("MEMCG_")?.to_ascii_lowercase()))
        .filter(|name| name != "nr_memory_events")
        .collect()
}

/// `___GFP_…_BIT` is an enum since 772dd0342727 "mm: enumerate all gfp flags" (in v6.9); before, the
/// bits had not moved since v5.9.
fn gfp_bits(btf: &Btf) -> Vec<(u32, String)> {
    let Some(bits) = btf.enum_with("___GFP_DMA_BIT") else {
        return OLD_GFP_BITS
            .iter()
            .map(|&(bit, name)| (1 << bit, name.to_owned()))
            .collect();
    };
    bits.into_iter()
        .filter_map(|(name, bit)| {
            let name = name.strip_prefix("___GFP_")?.strip_suffix("_BIT")?;
            (bit < 32 && !name.starts_with("UNUSED") && name != "LAST")
                .then(|| (1 << bit, format!("__GFP_{name}")))
        })
        .collect()
}

const OLD_GFP_BITS: [(u32, &str); 23] = [
    (0, "__GFP_DMA"),
    (1, "__GFP_HIGHMEM"),
    (2, "__GFP_DMA32"),
    (3, "__GFP_MOVABLE"),
    (4, "__GFP_RECLAIMABLE"),
    (5, "__GFP_HIGH"),
    (6, "__GFP_IO"),
    (7, "__GFP_FS"),
    (8, "__GFP_ZERO"),
    (9, "__GFP_ATOMIC"),
    (10, "__GFP_DIRECT_RECLAIM"),
    (11, "__GFP_KSWAPD_RECLAIM"),
    (12, "__GFP_WRITE"),
    (13, "__GFP_NOWARN"),
    (14, "__GFP_RETRY_MAYFAIL"),
    (15, "__GFP_NOFAIL"),
    (16, "__GFP_NORETRY"),
    (17, "__GFP_MEMALLOC"),
    (18, "__GFP_COMP"),
    (19, "__GFP_NOMEMALLOC"),
    (20, "__GFP_HARDWALL"),
    (21, "__GFP_THISNODE"),
    (22, "__GFP_ACCOUNT"),
];
