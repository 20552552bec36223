//! Questions that several views ask of an incident, answered from its own numbers.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::{Candidate, Incident, Role, SkipReason, Text, Victim};

/// Processes taken together: by name, or by cgroup.
#[derive(Clone, Debug)]
pub struct Group<'a, K> {
    /// What they have in common.
    pub key: K,
    /// How many there are.
    pub processes: usize,
    /// Resident memory in sum, each address space once. A page that several address spaces map is
    /// counted in each, as the kernel does. `None` where it is not known of any.
    pub resident_bytes: Option<u64>,
    /// Swapped out in sum, each address space once.
    pub swap_bytes: Option<u64>,
    /// Processes whose resident memory is not known: the sum is more than `resident_bytes`.
    pub unknown: usize,
    /// The one that holds most.
    pub largest: &'a Candidate,
    /// How many of them the kernel could choose, as far as is known.
    pub choosable: usize,
    /// Highest score of those.
    pub top_score: Option<i64>,
}

impl<K> Group<'_, K> {
    /// Resident and swapped memory together, as far as known.
    pub fn held_bytes(&self) -> Option<u64> {
        sum(self.resident_bytes, self.swap_bytes)
    }
}

impl Incident {
    /// The process that won the comparison, as it stood in the comparison.
    pub fn chosen_candidate(&self) -> Option<&Candidate> {
        let chosen = self.chosen?;
        let tgid = self.chosen_victim().map(|victim| victim.tgid);
        self.candidates
            .iter()
            .find(|c| c.pid == chosen.pid)
            .or_else(|| self.candidates.iter().find(|c| Some(c.tgid) == tgid))
    }

    /// The victim that won the comparison, as it stood when it was marked.
    pub fn chosen_victim(&self) -> Option<&Victim> {
        self.victims.iter().find(|v| v.role == Role::Chosen)
    }

    /// The processes within reach of the decision: those of the cgroup whose limit was hit and all
    /// below it, those that may use the nodes that ran short, or everybody.
    pub fn in_reach(&self) -> Vec<&Candidate> {
        let mut within = BTreeMap::new();
        let mut inside = |cgroup: u64| match self.oom_cgroup {
            None => true,
            Some(limit) => *within
                .entry(cgroup)
                .or_insert_with(|| self.is_within(cgroup, limit) != Some(false)),
        };
        self.candidates
            .iter()
            .filter(|c| match c.skip_reason {
                Some(SkipReason::OutsideCgroup | SkipReason::OtherNodes) => false,
                _ => c.eligible == Some(true) || c.cgroup.is_none_or(&mut inside),
            })
            .collect()
    }

    /// The processes that could be chosen, highest score first; on a tie the chosen one, then the
    /// later one, as the kernel decides it. Those without a known score are left out.
    pub fn ranking(&self) -> Vec<&Candidate> {
        let mut ranked: Vec<(usize, &Candidate)> = self
            .in_reach()
            .into_iter()
            .filter(|c| c.may_be_chosen() && c.compared_score().is_some())
            .enumerate()
            .collect();
        let chosen = self.chosen_candidate().map(|chosen| chosen.tgid);
        ranked.sort_by_key(|(at, c)| Reverse((c.compared_score(), Some(c.tgid) == chosen, *at)));
        ranked.into_iter().map(|(_, c)| c).collect()
    }

    /// The processes in reach by name, the most memory first.
    pub fn by_name(&self) -> Vec<Group<'_, &Text>> {
        grouped(self.in_reach().into_iter().map(|c| (&c.comm, c)))
    }

    /// The processes in reach by the cgroup that they are in directly, the most memory first.
    pub fn by_cgroup(&self) -> Vec<Group<'_, u64>> {
        let known = self.in_reach().into_iter();
        grouped(known.filter_map(|c| Some((c.cgroup?, c))))
    }

    /// All processes in reach together. `None` without any.
    pub fn all_in_reach(&self) -> Option<Group<'_, ()>> {
        grouped(self.in_reach().into_iter().map(|c| ((), c))).pop()
    }

    /// Pages that an `oom_score_adj` adds to a score. The kernel divides first: with less than
    /// 1,000 pages in all, it adds nothing.
    pub fn adj_pages(&self, oom_score_adj: i32) -> Option<i64> {
        let thousandth = i64::try_from(self.total_pages? / 1000).ok()?;
        i64::from(oom_score_adj).checked_mul(thousandth)
    }

    /// Whether the kernel took whoever asked, without a comparison
    /// (sysctl `vm.oom_kill_allocating_task`).
    pub fn took_the_asker(&self) -> bool {
        let said = |m: &String| m.contains("oom_kill_allocating_task");
        self.chosen.is_some_and(|chosen| chosen.score.is_none())
            && self.message.as_ref().is_some_and(said)
    }
}

impl Candidate {
    /// Whether the kernel could choose it, as far as is known.
    pub fn may_be_chosen(&self) -> bool {
        self.eligible != Some(false) && self.skip_reason.is_none()
    }

    /// The figure that the kernel compared: its own where observed, else by its rules.
    pub fn compared_score(&self) -> Option<i64> {
        self.kernel_score.or(self.score)
    }

    /// Resident and swapped memory together, as far as known.
    pub fn held_bytes(&self) -> Option<u64> {
        sum(self.rss_bytes(), self.swap_bytes)
    }

    /// Whether both use one address space.
    pub fn shares_memory_with(&self, other: &Self) -> bool {
        self.tgid != other.tgid && self.mm.is_some() && self.mm == other.mm
    }
}

/// Adds what is known.
fn sum(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.saturating_add(b)),
        (known, None) | (None, known) => known,
    }
}

fn grouped<'a, K: Ord + Copy>(
    members: impl Iterator<Item = (K, &'a Candidate)>,
) -> Vec<Group<'a, K>> {
    let mut groups: BTreeMap<K, Group<'a, K>> = BTreeMap::new();
    let mut counted = BTreeSet::new();
    for (key, candidate) in members {
        let group = groups.entry(key).or_insert_with(|| Group {
            key,
            processes: 0,
            resident_bytes: None,
            swap_bytes: None,
            unknown: 0,
            largest: candidate,
            choosable: 0,
            top_score: None,
        });
        group.processes += 1;
        if candidate.held_bytes() > group.largest.held_bytes() {
            group.largest = candidate;
        }
        if candidate.may_be_chosen() {
            group.choosable += 1;
            group.top_score = group.top_score.max(candidate.compared_score());
        }
        if candidate.mm.is_some_and(|mm| !counted.insert((key, mm))) {
            continue;
        }
        group.unknown += usize::from(candidate.rss_bytes().is_none());
        group.resident_bytes = sum(group.resident_bytes, candidate.rss_bytes());
        group.swap_bytes = sum(group.swap_bytes, candidate.swap_bytes);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(|group| Reverse(group.held_bytes()));
    groups
}

#[cfg(test)]
mod tests {
    use super::{Candidate, Incident};

    fn process(tgid: u32, comm: &str, pages: u64) -> Candidate {
        Candidate {
            pid: tgid,
            tgid,
            comm: comm.into(),
            anon_bytes: Some(pages * 4096),
            file_bytes: Some(0),
            shmem_bytes: Some(0),
            swap_bytes: Some(0),
            score: i64::try_from(pages).ok(),
            ..Candidate::default()
        }
    }

    #[test]
    fn one_address_space_counts_once() {
        let incident = Incident {
            candidates: vec![
                Candidate {
                    mm: Some(1),
                    ..process(1, "a", 10)
                },
                Candidate {
                    mm: Some(1),
                    ..process(2, "a", 10)
                },
                Candidate {
                    mm: Some(2),
                    ..process(3, "a", 5)
                },
            ],
            ..Incident::default()
        };
        let groups = incident.by_name();
        assert_eq!(groups[0].processes, 3);
        assert_eq!(groups[0].resident_bytes, Some(15 * 4096));
    }

    #[test]
    fn the_later_of_equals_ranks_first() {
        let incident = Incident {
            candidates: vec![process(1, "a", 10), process(2, "b", 10), process(3, "c", 9)],
            ..Incident::default()
        };
        let ranks: Vec<u32> = incident.ranking().iter().map(|c| c.tgid).collect();
        assert_eq!(ranks, [2, 1, 3]);
    }

    #[test]
    fn unknown_memory_is_not_zero() {
        let incident = Incident {
            candidates: vec![Candidate {
                anon_bytes: None,
                ..process(1, "a", 10)
            }],
            ..Incident::default()
        };
        let groups = incident.by_name();
        assert_eq!((groups[0].resident_bytes, groups[0].unknown), (None, 1));
    }
}
