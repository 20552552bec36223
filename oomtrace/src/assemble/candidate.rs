use std::collections::{HashMap, HashSet};

use oomtrace_ebpf::event::{
    ABSENT_I64, ABSENT_U32, ABSENT_U64, RSS_ANON, RSS_FILE, RSS_SHMEM, RSS_SWAP, Row, STATE_EXACT,
    STATE_FLAG_ORIGIN, STATE_IN_VFORK, STATE_MM_OOM_SKIP, STATE_NO_MM, STATE_OOM_VICTIM,
    STATE_TORN,
};

use crate::{
    incident::{Candidate, Incident, Scope, SkipReason, Text},
    record::{Notes, Parts, Session},
};

/// `OOM_SCORE_ADJ_MIN` (include/uapi/linux/oom.h).
const OOM_SCORE_ADJ_MIN: i32 = -1000;

/// The candidates in the kernel's order, weighed by its rules.
pub(super) fn all(session: &Session, parts: &Parts, incident: &Incident) -> Vec<Candidate> {
    let marked: HashSet<u32> = parts.victims.iter().map(|victim| victim.row.pid).collect();
    let inside = Inside::new(incident);
    let shared = shared_mms(&parts.rows);
    parts
        .rows
        .iter()
        .map(|row| {
            let mut candidate = from_row(session, &parts.notes, row);
            candidate.mm = shared.get(&row.mm).copied();
            // A snapshot at the mark itself finds the victim marked already.
            let fresh_victim = incident.chosen.is_none() && marked.contains(&row.pid);
            let reason = skip_reason(row, incident, &inside, fresh_victim, parts);
            candidate.skip_reason = reason.unwrap_or(None);
            candidate.eligible = reason.map(|reason| reason.is_none());
            candidate.score = score(session, incident, row, &candidate);
            candidate
        })
        .collect()
}

/// Numbers for the address spaces that more than one process uses, from 1.
fn shared_mms(rows: &[Row]) -> HashMap<u64, u32> {
    let mut users: HashMap<u64, u32> = HashMap::new();
    for row in rows.iter().filter(|row| row.mm != 0) {
        *users.entry(row.mm).or_default() += 1;
    }
    let mut numbers = HashMap::new();
    for row in rows {
        if users.get(&row.mm).is_some_and(|&count| count > 1) {
            let next = u32::try_from(numbers.len() + 1).unwrap_or(u32::MAX);
            numbers.entry(row.mm).or_insert(next);
        }
    }
    numbers
}

/// One process, not yet weighed.
pub(super) fn from_row(session: &Session, notes: &Notes, row: &Row) -> Candidate {
    let page = session.host.page_size.unwrap_or(4096);
    let torn = row.state & STATE_TORN != 0;
    let exact = row.state & STATE_EXACT != 0;
    let counters = if exact { row.rss_exact } else { row.rss };
    let pages = |which: usize| {
        let value = counters[which];
        (value != ABSENT_I64 && !torn)
            .then(|| u64::try_from(value).unwrap_or(0).saturating_mul(page))
    };
    let no_mm = row.state & STATE_NO_MM != 0;
    Candidate {
        pid: row.pid,
        tgid: row.tgid,
        ppid: (row.ppid != ABSENT_U32).then_some(row.ppid),
        start_boot_ns: (row.start_boot_ns != ABSENT_U64).then_some(row.start_boot_ns),
        uid: (row.uid != ABSENT_U32).then_some(row.uid),
        comm: Text::from_padded(&row.comm),
        cmdline: notes.cmdlines.get(&(row.tgid, row.start_boot_ns)).cloned(),
        cgroup: (row.cgroup != ABSENT_U64 && row.cgroup != 0).then_some(row.cgroup),
        oom_score_adj: (row.oom_score_adj != i32::MIN).then_some(row.oom_score_adj),
        anon_bytes: pages(RSS_ANON),
        file_bytes: pages(RSS_FILE),
        shmem_bytes: pages(RSS_SHMEM),
        swap_bytes: pages(RSS_SWAP),
        pgtables_bytes: (row.pgtables_bytes != ABSENT_I64 && !torn)
            .then(|| u64::try_from(row.pgtables_bytes).unwrap_or(0)),
        total_vm_bytes: (row.total_vm_pages != ABSENT_U64 && !torn)
            .then(|| row.total_vm_pages.saturating_mul(page)),
        rss_exact: (!no_mm && !torn && row.rss[0] != ABSENT_I64).then_some(exact),
        score: None,
        kernel_score: (row.kernel_points != ABSENT_I64).then_some(row.kernel_points),
        eligible: None,
        skip_reason: None,
        ns_pid: (row.ns_pid != ABSENT_U32).then_some(row.ns_pid),
        mm: None,
    }
}

/// Badness in pages (`oom_badness`, mm/oom_kill.c): what is resident, swapped out or page table, plus
/// `oom_score_adj` thousandths of the whole. The division comes first, as in the kernel.
fn score(session: &Session, incident: &Incident, row: &Row, candidate: &Candidate) -> Option<i64> {
    if matches!(
        candidate.skip_reason,
        Some(SkipReason::Init | SkipReason::Protected | SkipReason::NoMemory | SkipReason::Vfork)
    ) {
        return None;
    }
    if row.state & STATE_FLAG_ORIGIN != 0 {
        return Some(i64::MAX);
    }
    let page = session.host.page_size?;
    let weighed = i64::try_from(candidate.weighed_bytes()? / page).ok()?;
    let share = i64::try_from(incident.total_pages? / 1000).ok()?;
    Some(weighed.wrapping_add(i64::from(candidate.oom_score_adj?).wrapping_mul(share)))
}

/// Why the kernel could not choose a process, in the order of its own tests; `None` when not enough is
/// known to say, `Some(None)` when it could.
fn skip_reason(
    row: &Row,
    incident: &Incident,
    inside: &Inside,
    fresh_victim: bool,
    parts: &Parts,
) -> Option<Option<SkipReason>> {
    let no = |reason| Some(Some(reason));
    if row.tgid == 1 && row.ns_pid == ABSENT_U32 {
        return no(SkipReason::Init);
    }
    match incident.scope {
        None => return None,
        Some(Scope::Memcg) => match inside.holds(row.cgroup) {
            Some(true) => {}
            Some(false) => return no(SkipReason::OutsideCgroup),
            None => return None,
        },
        Some(Scope::Cpuset | Scope::Mempolicy) => {
            let begin = parts.begin.as_ref()?;
            let needed = if incident.scope == Some(Scope::Mempolicy) {
                begin.nodemask
            } else {
                begin.mems_allowed
            };
            if row.mems_allowed != ABSENT_U64 && row.mems_allowed & needed == 0 {
                return no(SkipReason::OtherNodes);
            }
        }
        Some(Scope::Global | Scope::Sysrq) => {}
    }
    if row.state & STATE_NO_MM != 0 {
        return no(SkipReason::NoMemory);
    }
    if row.state & STATE_OOM_VICTIM != 0 && !fresh_victim {
        return no(if row.state & STATE_MM_OOM_SKIP != 0 {
            SkipReason::AlreadyReaped
        } else {
            SkipReason::AlreadyVictim
        });
    }
    if row.oom_score_adj == OOM_SCORE_ADJ_MIN {
        return no(SkipReason::Protected);
    }
    if row.state & STATE_MM_OOM_SKIP != 0 {
        return no(SkipReason::AlreadyReaped);
    }
    if row.state & STATE_IN_VFORK != 0 {
        return no(SkipReason::Vfork);
    }
    Some(None)
}

/// Which cgroups lie under the limit that was hit.
struct Inside(Option<HashMap<u64, bool>>);

impl Inside {
    fn new(incident: &Incident) -> Self {
        Self(incident.oom_cgroup.map(|top| {
            incident
                .cgroups
                .iter()
                .filter_map(|cgroup| Some((cgroup.id, incident.is_within(cgroup.id, top)?)))
                .collect()
        }))
    }

    fn holds(&self, cgroup: u64) -> Option<bool> {
        self.0.as_ref()?.get(&cgroup).copied()
    }
}
