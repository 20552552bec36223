//! What the running kernel has: offsets, prototypes, flag names. The only file on this side that knows
//! how kernels differ; it asks whether a thing is there, never for a version, with one exception that
//! is named where it stands.

use std::path::Path;

use oomtrace_ebpf::layout::{self, ABSENT, LAYOUT, Source, config, kfunc};

use super::btf::{self, Btf};
use crate::error::{Error, Result};

/// Where the kernel shows its types.
pub(super) const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// Functions that programs attach to.
const FUNCTIONS: [&str; 5] = [
    "oom_kill_process",
    "__oom_kill_process",
    "mark_oom_victim",
    "out_of_memory",
    "oom_badness",
];

/// The tracepoint that programs attach to by type.
const TRACEPOINT: &str = "btf_trace_mark_victim";

/// Functions and tracepoints whose prototypes matter, beside the structs of the layout.
const NAMES: [&str; 11] = [
    "css_set",
    "page_counter",
    "percpu_counter",
    "cgroup_subsys_id",
    "memcg_memory_event",
    TRACEPOINT,
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
    /// Names and BTF ids of what programs attach to.
    targets: Vec<btf::Named>,
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
        let btf = Btf::open(path, structs.chain(NAMES).chain(FUNCTIONS))?;
        let layout = layout_of(&btf)?;
        // 5898aa8f9a0b (in v7.0) made the killer use exact sums and left no trace in BTF, so here alone
        // the release decides.
        let has_percpu = layout[layout::MM_SHARES_0] != ABSENT;
        let scores_exact = has_percpu && major_version(release) >= 7;
        let mut config = [0; config::COUNT];
        config[config::EXACT] = u64::from(scores_exact);
        config[config::CPUS] = u64::from(cpus);
        config[config::MARK_HAS_TASK] = u64::from(first_is_pointer(&btf, TRACEPOINT));
        config[config::RECLAIM_GFP_FIRST] = u64::from(reclaim_takes_gfp_first(&btf));
        Ok(Self {
            layout,
            config,
            kfuncs: kfuncs(&btf),
            targets: targets(&btf),
            scores_exact,
            memcg_events: memcg_events(&btf),
            gfp_bits: gfp_bits(&btf),
            // Came with the end of that count, in v6.18.
            counts_v2_failures: btf.member("page_counter", "track_failcnt").is_none(),
        })
    }

    /// The kernel's types as the loader wants them: it looks up the id of what a program attaches to.
    ///
    /// The loader's own way there is to read all hundred thousand types, which takes longer than all
    /// the rest of arming. These have only the types that are looked up, each at its id.
    pub(super) fn attach_types(&self) -> Result<aya::Btf> {
        let bytes = btf::sparse(&self.targets);
        aya::Btf::parse(&bytes, aya::Endianness::default()).map_err(|error| Error::Bpf {
            what: "name what the programs attach to".into(),
            source: Some(Box::new(error)),
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
    match what {
        "mm_rss_0" => mm_rss(btf, 0),
        "mm_rss_1" => mm_rss(btf, 1),
        "mm_rss_2" => mm_rss(btf, 2),
        "mm_rss_3" => mm_rss(btf, 3),
        "mm_shares_0" => mm_shares(btf, 0),
        "mm_shares_1" => mm_shares(btf, 1),
        "mm_shares_2" => mm_shares(btf, 2),
        "mm_shares_3" => mm_shares(btf, 3),
        "task_comm_8" => Some(btf.member("task_struct", "comm")?.offset + 8),
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

/// Where a memory counter is: up to v6.1 in a struct with an array of atomics, since then in an array of
/// percpu counters.
fn mm_rss(btf: &Btf, which: u32) -> Option<u32> {
    if let Some(plain) = btf.member("mm_struct", "rss_stat.count") {
        let stride = btf.size(btf.element_type(plain.type_id)?)?;
        return Some(plain.offset + which * stride);
    }
    let count = btf.member("percpu_counter", "count")?.offset;
    Some(percpu_counter(btf, which)? + count)
}

/// Where the pointer to its per-CPU shares is.
fn mm_shares(btf: &Btf, which: u32) -> Option<u32> {
    if btf.member("mm_struct", "rss_stat.count").is_some() {
        return None;
    }
    let shares = btf.member("percpu_counter", "counters")?.offset;
    Some(percpu_counter(btf, which)? + shares)
}

fn percpu_counter(btf: &Btf, which: u32) -> Option<u32> {
    let first = btf.member("mm_struct", "rss_stat")?.offset;
    Some(first + which * btf.size_of("percpu_counter")?)
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

fn targets(btf: &Btf) -> Vec<btf::Named> {
    let functions = FUNCTIONS
        .iter()
        .map(|&name| (name, btf::KIND_FUNC, btf.function(name)));
    let tracepoint = (TRACEPOINT, btf::KIND_TYPEDEF, btf.typedef(TRACEPOINT));
    functions
        .chain([tracepoint])
        .filter_map(|(name, kind, id)| {
            Some(btf::Named {
                name,
                kind,
                id: id?,
            })
        })
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
