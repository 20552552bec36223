use serde::{Deserialize, Serialize};

use super::Text;

/// One memory cgroup at the moment of the decision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cgroup {
    /// Inode number of its directory; the id that `candidates` and `victims` refer to.
    pub id: u64,
    /// Path below the root of its hierarchy; `/` for the root.
    pub path: Text,
    /// Hierarchy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<CgroupVersion>,
    /// Id of its parent; absent for the root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<u64>,
    /// Memory charged to it and all below. Absent for the v2 root, which is not accounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_bytes: Option<u64>,
    /// `memory.max` (v1 `limit_in_bytes`); absent without a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// `memory.high`; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high_bytes: Option<u64>,
    /// `memory.low`; absent when 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low_bytes: Option<u64>,
    /// `memory.min`; absent when 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_bytes: Option<u64>,
    /// `memory.peak` (v1 `max_usage_in_bytes`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
    /// v2: swap charged to it and all below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_bytes: Option<u64>,
    /// v2 `memory.swap.max`; absent without a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_max_bytes: Option<u64>,
    /// v1: memory and swap together (`memory.memsw.usage_in_bytes`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memsw_bytes: Option<u64>,
    /// v1 `memory.memsw.limit_in_bytes`; absent without a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memsw_max_bytes: Option<u64>,
    /// v1: kernel memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kmem_bytes: Option<u64>,
    /// Failed charges against the limit (v1 `memory.failcnt`; not counted for v2 since 6.18).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failcnt: Option<u64>,
    /// v1 `memory.swappiness`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swappiness: Option<u64>,
    /// `memory.events`, hierarchical.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<CgroupEvents>,
    /// `memory.events.local`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_local: Option<CgroupEvents>,
    /// `memory.oom.group`: all of it dies together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_group: Option<bool>,
    /// v1 `memory.oom_control`: the OOM killer is off, tasks wait instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kill_disable: Option<bool>,
}

/// Hierarchy of a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupVersion {
    /// The `memory` hierarchy of cgroup v1.
    #[serde(rename = "v1")]
    V1,
    /// The unified hierarchy.
    #[serde(rename = "v2")]
    V2,
}

/// Counts of `memory.events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CgroupEvents {
    /// Usage reached `low` although it was protected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low: Option<u64>,
    /// Throttled at `high`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<u64>,
    /// Usage was about to pass `max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
    /// The limit was reached and an allocation was about to fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom: Option<u64>,
    /// Processes killed by any OOM killer of the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kill: Option<u64>,
    /// Times the group was killed as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_group_kill: Option<u64>,
}
