use oomtrace_ebpf::event::{ABSENT_U32, ABSENT_U64, Begin};

use super::{known, reclaim_scope};
use crate::{
    incident::{Cgroup, CgroupVersion, Gap, Incident, Scope},
    record::Session,
};

/// Charges are made in batches of this many pages (`MEMCG_CHARGE_BATCH`, include/linux/memcontrol.h),
/// so a cgroup at its limit may show a little less.
const CHARGE_BATCH_PAGES: u64 = 64;

/// Sets what ran out, whose limit it was, and the whole that `oom_score_adj` refers to.
pub(super) fn decide(
    incident: &mut Incident,
    session: &Session,
    begin: &Begin,
    gaps: &mut Vec<Gap>,
) {
    if begin.constraint != ABSENT_U32 {
        incident.scope = match begin.constraint {
            _ if begin.order == -1 => Some(Scope::Sysrq),
            0 => Some(Scope::Global),
            1 => Some(Scope::Cpuset),
            2 => Some(Scope::Mempolicy),
            3 => Some(Scope::Memcg),
            _ => None,
        };
        incident.oom_cgroup = known(begin.oom_cgroup).filter(|&id| id != 0);
        incident.total_pages = known(begin.totalpages);
        return;
    }
    gaps.push(Gap {
        what: "oom_control".into(),
        count: None,
        why: "no hook on oom_kill_process here: what ran out is taken from the stack and the cgroups' \
              usage; what was asked for and the kernel's own score of the victim may be unknown"
            .into(),
    });
    incident.scope = scope_of_stack(incident).or_else(|| reclaim_scope(begin));
    if incident.scope == Some(Scope::Sysrq)
        && let Some(trigger) = &mut incident.trigger
    {
        trigger.order = Some(-1);
    }
    if incident.scope == Some(Scope::Memcg) {
        incident.oom_cgroup = full_ancestor(incident, session, begin);
    }
    incident.total_pages = total_pages(incident, session);
}

fn scope_of_stack(incident: &Incident) -> Option<Scope> {
    let stack = &incident.trigger.as_ref()?.stack;
    stack.iter().find_map(|frame| {
        let symbol = frame.symbol.as_deref()?;
        if symbol.starts_with("mem_cgroup_out_of_memory") {
            Some(Scope::Memcg)
        } else if symbol.starts_with("moom_callback") {
            Some(Scope::Sysrq)
        } else if symbol.starts_with("__alloc_pages") || symbol.starts_with("__alloc_frozen_pages")
        {
            Some(Scope::Global)
        } else {
            None
        }
    })
}

/// The first cgroup at its limit on the way up from the trigger, as a charge tries them
/// (`page_counter_try_charge`, mm/page_counter.c).
fn full_ancestor(incident: &Incident, session: &Session, begin: &Begin) -> Option<u64> {
    let batch = CHARGE_BATCH_PAGES * session.host.page_size?;
    let mut at = (begin.cgroup != ABSENT_U64).then_some(begin.cgroup);
    while let Some(cgroup) = at.and_then(|id| incident.cgroup(id)) {
        if let (Some(usage), Some(max)) = (cgroup.usage_bytes, cgroup.max_bytes)
            && usage + batch >= max
        {
            return Some(cgroup.id);
        }
        // v1 can also run into the limit on memory and swap together.
        if let (Some(usage), Some(max)) = (cgroup.memsw_bytes, cgroup.memsw_max_bytes)
            && usage + batch >= max
        {
            return Some(cgroup.id);
        }
        at = cgroup.parent;
    }
    None
}

/// `constrained_alloc` (mm/oom_kill.c): a limit plus the swap that may be used beside it, or RAM plus
/// swap.
fn total_pages(incident: &Incident, session: &Session) -> Option<u64> {
    let page = session.host.page_size?;
    let swap = session.host.swap_total_bytes?;
    let bytes = match incident.scope? {
        Scope::Global | Scope::Sysrq => session.host.ram_bytes? + swap,
        Scope::Memcg => {
            let cgroup = incident.cgroup(incident.oom_cgroup?)?;
            cgroup.max_bytes? + usable_swap(cgroup, swap)?
        }
        Scope::Cpuset | Scope::Mempolicy => return None,
    };
    Some((bytes / page).max(1))
}

fn usable_swap(cgroup: &Cgroup, swap: u64) -> Option<u64> {
    match cgroup.version? {
        CgroupVersion::V2 => Some(cgroup.swap_max_bytes.unwrap_or(u64::MAX).min(swap)),
        CgroupVersion::V1 if cgroup.swappiness? == 0 => Some(0),
        CgroupVersion::V1 => {
            let memsw = cgroup.memsw_max_bytes.unwrap_or(u64::MAX);
            Some(memsw.saturating_sub(cgroup.max_bytes?).min(swap))
        }
    }
}
