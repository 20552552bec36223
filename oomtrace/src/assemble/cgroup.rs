use std::collections::HashMap;

use oomtrace_ebpf::event::{
    self, ABSENT_U64, CGROUP_OOM_GROUP, CGROUP_OOM_KILL_DISABLE, CGROUP_ROOT, CGROUP_V2,
    MEMCG_EVENTS,
};

use crate::{
    incident::{Cgroup, CgroupEvents, CgroupVersion, Gap, Text},
    record::{Parts, Session},
};

/// The cgroups, parents before children, each with its path.
pub(super) fn tree(session: &Session, parts: &Parts, gaps: &mut Vec<Gap>) -> Vec<Cgroup> {
    let by_id: HashMap<u64, &event::Cgroup> = parts
        .cgroups
        .iter()
        .map(|record| (record.id, record))
        .collect();
    let mut orphans = 0;
    let mut placed: Vec<(usize, Cgroup)> = by_id
        .values()
        .filter_map(|record| {
            let (path, depth) = path_of(record, &by_id).or_else(|| {
                orphans += 1;
                None
            })?;
            Some((depth, convert(session, record, path)))
        })
        .collect();
    placed.sort_by(|(a_depth, a), (b_depth, b)| (a_depth, &a.path).cmp(&(b_depth, &b.path)));
    if orphans != 0 {
        gaps.push(Gap {
            what: "cgroups".into(),
            count: Some(orphans),
            why: "an ancestor's record is missing, so their paths are unknown".into(),
        });
    }
    placed.into_iter().map(|(_, cgroup)| cgroup).collect()
}

/// Whether the cgroup of this id, or one above it, is killed as a whole.
pub(crate) fn has_oom_group(cgroups: &[event::Cgroup], id: u64) -> bool {
    let mut at = id;
    for _ in 0..=cgroups.len() {
        let Some(record) = cgroups.iter().find(|record| record.id == at) else {
            return false;
        };
        if record.flags & CGROUP_OOM_GROUP != 0 {
            return true;
        }
        at = record.parent;
    }
    false
}

/// Path below the root of the hierarchy, and depth.
fn path_of(record: &event::Cgroup, by_id: &HashMap<u64, &event::Cgroup>) -> Option<(Text, usize)> {
    let mut names: Vec<&[u8]> = Vec::new();
    let mut at = record;
    while at.flags & CGROUP_ROOT == 0 {
        names.push(at.name.get(..at.name_len as usize)?);
        at = by_id.get(&at.parent)?;
        if names.len() > by_id.len() {
            return None;
        }
    }
    if names.is_empty() {
        return Some(("/".into(), 0));
    }
    let mut path = Vec::new();
    for name in names.iter().rev() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    Some((Text::new(path), names.len()))
}

fn convert(session: &Session, record: &event::Cgroup, path: Text) -> Cgroup {
    let page = session.host.page_size.unwrap_or(4096);
    let root = record.flags & CGROUP_ROOT != 0;
    let v2 = record.flags & CGROUP_V2 != 0;
    let size = |pages: u64| (pages != ABSENT_U64).then(|| pages.saturating_mul(page));
    // "No limit" is PAGE_COUNTER_MAX, LONG_MAX / PAGE_SIZE (include/linux/page_counter.h).
    let limit = |pages: u64| (pages < i64::MAX as u64 / page).then(|| pages * page);
    let set = |pages: u64| size(pages).filter(|&bytes| bytes != 0);
    let count = |value: u64| (value != ABSENT_U64).then_some(value);
    // The root of the v2 hierarchy is not charged.
    let accounted = !(root && v2);
    Cgroup {
        id: record.id,
        path,
        version: Some(if v2 {
            CgroupVersion::V2
        } else {
            CgroupVersion::V1
        }),
        parent: (!root).then_some(record.parent),
        usage_bytes: size(record.usage).filter(|_| accounted),
        max_bytes: limit(record.max),
        high_bytes: limit(record.high),
        low_bytes: set(record.low),
        min_bytes: set(record.min),
        peak_bytes: size(record.peak).filter(|_| accounted),
        swap_bytes: size(record.swap_usage).filter(|_| v2 && accounted),
        swap_max_bytes: limit(record.swap_max).filter(|_| v2),
        memsw_bytes: size(record.swap_usage).filter(|_| !v2),
        memsw_max_bytes: limit(record.swap_max).filter(|_| !v2),
        kmem_bytes: size(record.kmem_usage).filter(|_| !v2),
        failcnt: count(record.failcnt).filter(|_| accounted && (!v2 || session.counts_v2_failures)),
        swappiness: count(record.swappiness).filter(|_| !v2),
        events: events(&session.memcg_events, &record.events).filter(|_| accounted),
        events_local: events(&session.memcg_events, &record.events_local).filter(|_| accounted),
        oom_group: v2.then_some(record.flags & CGROUP_OOM_GROUP != 0),
        oom_kill_disable: (!v2).then_some(record.flags & CGROUP_OOM_KILL_DISABLE != 0),
    }
}

fn events(names: &[String], counts: &[u64; MEMCG_EVENTS]) -> Option<CgroupEvents> {
    let count = |name: &str| {
        let at = names.iter().position(|known| known == name)?;
        counts.get(at).copied().filter(|&count| count != ABSENT_U64)
    };
    let events = CgroupEvents {
        low: count("low"),
        high: count("high"),
        max: count("max"),
        oom: count("oom"),
        oom_kill: count("oom_kill"),
        oom_group_kill: count("oom_group_kill"),
    };
    (events != CgroupEvents::default()).then_some(events)
}
