//! What the kernel did about it, where that is more than one kill.

use std::collections::BTreeMap;

use crate::incident::{Candidate, Cgroup, Incident, Outcome, Role, SkipReason, Victim};
use crate::view::units::{many, path, process};

/// Says so when nobody was killed.
pub(super) fn without_a_kill(incident: &Incident) -> Option<String> {
    match incident.outcome? {
        Outcome::Killed => None,
        Outcome::AlreadyDying => {
            let who = incident.victims.first().map_or_else(
                || "The process".to_owned(),
                |victim| process(&victim.comm, victim.pid),
            );
            Some(format!(
                "Nobody was killed: {who} was dying already, so the kernel let it use the last \
                 reserves to finish and waits for its memory."
            ))
        }
        Outcome::NoKillableProcess => Some(format!(
            "Nobody was killed: there was no process that the kernel may choose.{}",
            skipped(incident)
        )),
        Outcome::Panic => Some(format!(
            "The kernel panicked instead of going on.{}",
            skipped(incident)
        )),
    }
}

/// ` Passed over: 3 protected, 2 outside the cgroup.`, where that was everybody.
fn skipped(incident: &Incident) -> String {
    if incident.candidates.iter().any(Candidate::may_be_chosen) {
        return String::new();
    }
    let mut reasons: BTreeMap<SkipReason, usize> = BTreeMap::new();
    for reason in incident.candidates.iter().filter_map(|c| c.skip_reason) {
        *reasons.entry(reason).or_default() += 1;
    }
    if reasons.is_empty() {
        return String::new();
    }
    let counts: Vec<String> = reasons
        .into_iter()
        .map(|(reason, n)| format!("{} {}", many(n), skip_words(reason)))
        .collect();
    format!(" Passed over: {}.", counts.join(", "))
}

/// Why a process was passed over, in a word or two.
pub(crate) fn skip_words(reason: SkipReason) -> &'static str {
    match reason {
        SkipReason::Init => "init",
        SkipReason::OutsideCgroup => "outside the cgroup",
        SkipReason::OtherNodes => "on other nodes",
        SkipReason::Protected => "protected (-1000)",
        SkipReason::NoMemory => "exiting",
        SkipReason::AlreadyReaped => "victim before",
        SkipReason::AlreadyVictim => "dying already",
        SkipReason::Vfork => "in vfork",
    }
}

/// The rule that takes a whole cgroup.
pub(super) fn group(incident: &Incident) -> Option<String> {
    let members = incident
        .victims
        .iter()
        .filter(|v| v.role == Role::GroupMember)
        .count();
    if members == 0 {
        return None;
    }
    let home = incident.chosen_candidate().and_then(|c| c.cgroup);
    let home = home.or_else(|| incident.chosen_victim()?.cgroup);
    let within = |id| home.is_some_and(|home| incident.is_within(home, id) == Some(true));
    // Parents come before children: the first is the topmost, which is the one that counts.
    // None above the limit that was hit counts.
    let limit = incident.oom_cgroup;
    let below = |id| limit.is_none_or(|limit| incident.is_within(id, limit) != Some(false));
    let counts = |c: &&Cgroup| c.oom_group == Some(true) && within(c.id) && below(c.id);
    let group = incident.cgroups.iter().find(counts);
    let whose = group.map_or_else(
        || "memory.oom.group is set".to_owned(),
        |group| format!("memory.oom.group is set on {}", path(&group.path)),
    );
    let others = match members {
        1 => "1 other process".to_owned(),
        n => format!("{} other processes", many(n)),
    };
    let spared = group.map_or(0, |group| {
        let inside = |id: u64| incident.is_within(id, group.id) == Some(true);
        let protected = incident
            .candidates
            .iter()
            .filter(|c| c.oom_score_adj == Some(-1000));
        protected.filter(|c| c.cgroup.is_some_and(inside)).count()
    });
    let spared = match spared {
        0 => String::new(),
        n => format!(" Spared for oom_score_adj -1000: {}.", many(n)),
    };
    Some(format!(
        "{whose}: once one process of it is chosen, the kernel kills all of it. {others} died for \
         that, whatever they scored.{spared}"
    ))
}

/// Those that died for sharing the memory of the chosen one.
pub(super) fn sharers(incident: &Incident) -> Option<String> {
    let sharers: Vec<&Victim> = incident
        .victims
        .iter()
        .filter(|v| v.role == Role::MmSharer)
        .collect();
    let names: Vec<String> = sharers
        .iter()
        .take(3)
        .map(|v| process(&v.comm, v.pid))
        .collect();
    let rest = match sharers.len().saturating_sub(names.len()) {
        0 => String::new(),
        n => format!(" and {} more", many(n)),
    };
    (!names.is_empty()).then(|| {
        format!(
            "{}{rest} shared the memory of the chosen process (one address space) and had to die \
             with it, or nothing would have been freed.",
            names.join(", ")
        )
    })
}
