//! Why this process and no other: the kernel's arithmetic, done aloud.

use std::collections::{BTreeMap, BTreeSet};

use crate::incident::{Candidate, Incident, SkipReason};
use crate::view::units::{bytes, count, many, path, process};

/// The kernel did not compare at all.
pub(super) fn allocating_task(incident: &Incident) -> Option<String> {
    incident.took_the_asker().then(|| {
        "The kernel compared nobody: sysctl vm.oom_kill_allocating_task is on, so it killed the \
         process that asked. The scores below played no part."
            .into()
    })
}

/// The sum behind the score of the chosen one.
pub(super) fn score(incident: &Incident) -> Option<String> {
    let chosen = incident.chosen_candidate()?;
    let score = incident.chosen?.score?;
    let who = process(&chosen.comm, chosen.pid);
    let Some(parts) = Parts::of(incident, chosen) else {
        return Some(format!("{who} had the highest score: {}.", count(score)));
    };
    let Parts {
        resident,
        swap,
        tables,
        adj,
        adj_pages,
    } = parts;
    let adj_share = match adj {
        0 => "oom_score_adj 0".into(),
        _ => format!(
            "{} for oom_score_adj {adj} ({adj} × {})",
            count(adj_pages),
            count(incident.total_pages? / 1000)
        ),
    };
    let total =
        i128::from(resident) + i128::from(swap) + i128::from(tables) + i128::from(adj_pages);
    let check = match i128::from(score) - total {
        0 => String::new(),
        off => format!(
            " (that makes {}; the kernel's own figure is off by {}, as the counters move on)",
            count(total),
            count(off)
        ),
    };
    Some(format!(
        "{who} had the highest score, {} pages = {} resident + {} swapped + {} page tables + \
         {adj_share}{check}.",
        count(score),
        count(resident),
        count(swap),
        count(tables)
    ))
}

/// Parts of a score, in pages.
struct Parts {
    resident: u64,
    swap: u64,
    tables: u64,
    adj: i32,
    adj_pages: i64,
}

impl Parts {
    /// `None` unless every part is known.
    fn of(incident: &Incident, candidate: &Candidate) -> Option<Self> {
        let pages = |bytes: u64| bytes.checked_div(incident.host.page_size?);
        let adj = candidate.oom_score_adj?;
        Some(Self {
            resident: pages(candidate.rss_bytes()?)?,
            swap: pages(candidate.swap_bytes?)?,
            tables: pages(candidate.pgtables_bytes?)?,
            adj,
            adj_pages: if adj == 0 {
                0
            } else {
                incident.adj_pages(adj)?
            },
        })
    }
}

/// Who came next, and by how much.
pub(super) fn runner_up(incident: &Incident) -> Option<String> {
    let chosen = incident.chosen_candidate()?;
    let score = incident.chosen?.score?;
    let second = incident
        .ranking()
        .into_iter()
        .find(|c| c.tgid != chosen.tgid && !c.shares_memory_with(chosen))?;
    let next = process(&second.comm, second.pid);
    let points = second.compared_score()?;
    let behind = score.checked_sub(points).filter(|behind| *behind >= 0)?;
    Some(match behind {
        0 => format!(
            "{next} had the same score, {}: on a tie the kernel takes the later one in its list.",
            count(points)
        ),
        _ => {
            let pages = incident.host.page_size.zip(u64::try_from(behind).ok());
            let size = pages.and_then(|(page, behind)| behind.checked_mul(page));
            let size = size.map_or_else(String::new, |size| format!(" ({})", bytes(size)));
            format!(
                "Next in line was {next} with {}, {} less{size}.",
                count(points),
                count(behind)
            )
        }
    })
}

/// Whether `oom_score_adj` turned the choice.
pub(super) fn adjusted(incident: &Incident) -> Option<String> {
    incident.chosen?.score?;
    let chosen = incident.chosen_candidate()?;
    let plain = |c: &Candidate| {
        let adj = c.oom_score_adj?;
        c.compared_score()?.checked_sub(if adj == 0 {
            0
        } else {
            incident.adj_pages(adj)?
        })
    };
    let mut ranking = incident.ranking();
    // Latest first among equals, so the first highest is the kernel's.
    ranking.sort_by_key(|c| std::cmp::Reverse(plain(c)));
    let other = ranking.first().filter(|c| c.tgid != chosen.tgid)?;
    let (would, was) = (plain(other)?, plain(chosen)?);
    if would <= was || other.shares_memory_with(chosen) {
        return None;
    }
    let effect = |c: &Candidate| {
        let adj = c.oom_score_adj.filter(|adj| *adj != 0)?;
        let pages = incident.adj_pages(adj)?;
        let verb = if pages < 0 { "takes" } else { "adds" };
        let from = if pages < 0 { "from" } else { "to" };
        let who = process(&c.comm, c.pid);
        Some(format!(
            "{adj} {verb} {} {from} {who}",
            count(i128::from(pages).abs())
        ))
    };
    let effects: Vec<String> = [chosen, other].into_iter().filter_map(effect).collect();
    Some(format!(
        "oom_score_adj decided: {}. Without it {} would have been chosen, with {} against {}.",
        effects.join(", "),
        process(&other.comm, other.pid),
        count(would),
        count(was)
    ))
}

/// Says so where `oom_score_adj` was set but could not count.
pub(super) fn powerless_adjustment(incident: &Incident) -> Option<String> {
    let total = incident.total_pages.filter(|total| *total < 1000)?;
    let set = |c: &&Candidate| c.may_be_chosen() && c.oom_score_adj.is_some_and(|adj| adj != 0);
    let of = incident.in_reach().into_iter().find(set)?;
    Some(format!(
        "oom_score_adj ({} of {}) has no effect here: the kernel multiplies it by a thousandth of \
         the limit, and that is 0 for less than 1,000 pages ({}).",
        of.oom_score_adj?,
        process(&of.comm, of.pid),
        count(total)
    ))
}

/// Those that hold more than the chosen one and were passed over, a sentence for each reason.
pub(super) fn passed_over(incident: &Incident) -> Vec<String> {
    if incident.took_the_asker() {
        return Vec::new();
    }
    let Some(bar) = incident
        .chosen_candidate()
        .and_then(Candidate::weighed_bytes)
    else {
        return Vec::new();
    };
    let mut larger: BTreeMap<SkipReason, Vec<&Candidate>> = BTreeMap::new();
    let near: BTreeSet<u32> = incident.in_reach().iter().map(|c| c.tgid).collect();
    let outside = incident.oom_cgroup.map(|_| SkipReason::OutsideCgroup);
    for candidate in &incident.candidates {
        // The cgroup is the plainer reason, whichever the kernel looks at first.
        let far = outside.filter(|_| !near.contains(&candidate.tgid));
        if let Some(reason) = far.or(candidate.skip_reason)
            && candidate.weighed_bytes() > Some(bar)
        {
            larger.entry(reason).or_default().push(candidate);
        }
    }
    larger
        .into_iter()
        .filter_map(|(reason, candidates)| {
            let most = candidates.iter().max_by_key(|c| c.weighed_bytes())?;
            let more = match candidates.len() - 1 {
                0 => String::new(),
                1 => " (and 1 more like it)".into(),
                n => format!(" (and {} more like it)", many(n)),
            };
            Some(format!(
                "{} is larger ({}) but could not be chosen{more}: {}.",
                process(&most.comm, most.pid),
                bytes(most.weighed_bytes()?),
                because(incident, reason)
            ))
        })
        .collect()
}

fn because(incident: &Incident, reason: SkipReason) -> String {
    match reason {
        SkipReason::Init => "it is process 1 of the host".into(),
        SkipReason::OutsideCgroup => {
            let limited = incident.oom_cgroup.and_then(|id| incident.cgroup(id));
            let inside = limited.map_or_else(|| "it".to_owned(), |cgroup| path(&cgroup.path));
            format!("it is outside, and a cgroup limit kills only inside {inside}")
        }
        SkipReason::OtherNodes => "it may not use the NUMA nodes that ran short".into(),
        SkipReason::Protected => "its oom_score_adj is -1000, which forbids it".into(),
        SkipReason::NoMemory => "it is exiting and has no memory of its own any more".into(),
        SkipReason::AlreadyReaped => "it was a victim before, and its memory was dealt with".into(),
        SkipReason::AlreadyVictim => "it is a victim already, and still dying".into(),
        SkipReason::Vfork => "it is between vfork and exec, on the memory of its parent".into(),
    }
}
