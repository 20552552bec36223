//! Incidents under way: collects records by incident and says when one is complete.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    assemble::has_oom_group,
    record::{Parts, Record},
};

/// Where the end of a decision is not seen: how long after its last record a group may still grow.
const GROUP_QUIET: Duration = Duration::from_millis(50);
/// How long to wait for a record that may have been lost.
const LOST: Duration = Duration::from_secs(2);

/// Decisions without any record that are reported one by one; the kernel side counts all of them.
const MOST_SKIPPED: u64 = 1_000;

/// Incidents under way.
pub(super) struct Incidents {
    sees_close: bool,
    open: BTreeMap<u64, Open>,
    newest: u64,
}

struct Open {
    parts: Parts,
    touched: Instant,
}

impl Open {
    fn new(number: u64, now: Instant) -> Self {
        Self {
            parts: Parts {
                number,
                ..Parts::default()
            },
            touched: now,
        }
    }
}

impl Incidents {
    pub(super) fn new(sees_close: bool) -> Self {
        Self {
            sees_close,
            open: BTreeMap::new(),
            newest: 0,
        }
    }

    /// Takes one record.
    pub(super) fn push(&mut self, record: Record, now: Instant) {
        let number = record.header().incident;
        if number == 0 {
            // Reserves for a task that was dying anyway, outside any decision: not a kill. The
            // kernel side counts it.
            return;
        }
        if !matches!(record, Record::Rows(..)) {
            self.see(number, now);
        }
        let open = self
            .open
            .entry(number)
            .or_insert_with(|| Open::new(number, now));
        open.touched = now;
        let parts = &mut open.parts;
        match record {
            Record::Begin(begin) => parts.begin = Some(begin),
            Record::Rows(_, rows) => parts.rows.extend(rows),
            Record::Cgroup(cgroup) => parts.cgroups.push(*cgroup),
            Record::Snapshot(snapshot) => parts.snapshot = Some(snapshot),
            Record::Victim(victim) => parts.victims.push(*victim),
            Record::Close(close) => parts.close = Some(close),
        }
    }

    /// Notes that a record of the reserved ring was of this incident, so those before are over. The
    /// bulk ring tells no such thing: it is drained later, and may hold rows of a decision whose
    /// predecessor's last records have not been read.
    fn see(&mut self, number: u64, now: Instant) {
        // Numbers come one by one, so a number that was skipped is a decision of which every record
        // was lost so far. It is passed on as one big gap.
        for skipped in self.newest + 1..number.min(self.newest + MOST_SKIPPED) {
            self.open
                .entry(skipped)
                .or_insert_with(|| Open::new(skipped, now));
        }
        self.newest = self.newest.max(number);
    }

    /// Removes what is complete, or will not become so. To be called with all rings drained.
    pub(super) fn take_ready(&mut self, now: Instant) -> Vec<Parts> {
        let ready: Vec<u64> = self
            .open
            .iter()
            .filter(|(number, open)| self.due(**number, open).is_none_or(|due| due <= now))
            .map(|(&number, _)| number)
            .collect();
        ready
            .into_iter()
            .filter_map(|number| Some(self.open.remove(&number)?.parts))
            .collect()
    }

    /// Removes everything.
    pub(super) fn take_all(&mut self) -> Vec<Parts> {
        std::mem::take(&mut self.open)
            .into_values()
            .map(|open| open.parts)
            .collect()
    }

    /// When to look again without having been woken.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.open
            .iter()
            .filter_map(|(&number, open)| self.due(number, open))
            .min()
    }

    /// When an incident counts as complete; `None` is now.
    fn due(&self, number: u64, open: &Open) -> Option<Instant> {
        let parts = &open.parts;
        // The kernel makes one decision at a time, so a later one means that this is over.
        if number < self.newest || parts.close.is_some() && parts.snapshot.is_some() {
            return None;
        }
        if self.sees_close || parts.snapshot.is_none() {
            return Some(open.touched + LOST);
        }
        let grouped = parts
            .victims
            .first()
            .is_some_and(|victim| has_oom_group(&parts.cgroups, victim.row.cgroup));
        grouped.then(|| open.touched + GROUP_QUIET)
    }
}

#[cfg(test)]
mod tests {
    use oomtrace_ebpf::event::{Close, Header, Snapshot};

    use super::*;

    fn header(incident: u64) -> Header {
        Header {
            incident,
            ..Header::default()
        }
    }

    fn snapshot(incident: u64) -> Record {
        Record::Snapshot(Snapshot {
            header: header(incident),
            rows: 0,
            rows_lost: 0,
            kernel_threads: 0,
            cgroups: 0,
            cgroups_lost: 0,
            flags: 0,
            took_ns: 0,
        })
    }

    fn close(incident: u64) -> Record {
        Record::Close(Close {
            header: header(incident),
            victims: 0,
            victims_lost: 0,
        })
    }

    fn numbers(parts: &[Parts]) -> Vec<u64> {
        parts.iter().map(|parts| parts.number).collect()
    }

    #[test]
    fn with_an_end_in_sight_an_incident_waits_for_it() {
        let now = Instant::now();
        let mut incidents = Incidents::new(true);
        incidents.push(snapshot(1), now);
        assert!(incidents.take_ready(now).is_empty());
        incidents.push(close(1), now);
        assert_eq!(numbers(&incidents.take_ready(now)), [1]);
    }

    #[test]
    fn without_one_the_snapshot_is_the_end() {
        let now = Instant::now();
        let mut incidents = Incidents::new(false);
        incidents.push(snapshot(1), now);
        assert_eq!(numbers(&incidents.take_ready(now)), [1]);
        assert_eq!(incidents.deadline(), None);
    }

    #[test]
    fn a_lost_end_is_waited_for_only_so_long() {
        let now = Instant::now();
        let mut incidents = Incidents::new(true);
        incidents.push(snapshot(1), now);
        assert_eq!(incidents.deadline(), Some(now + LOST));
        assert_eq!(numbers(&incidents.take_ready(now + LOST)), [1]);
    }

    #[test]
    fn a_later_decision_ends_the_one_before() {
        let now = Instant::now();
        let mut incidents = Incidents::new(true);
        incidents.push(snapshot(1), now);
        incidents.push(snapshot(2), now);
        assert_eq!(numbers(&incidents.take_ready(now)), [1]);
    }

    #[test]
    fn rows_of_a_later_decision_end_nothing() {
        let now = Instant::now();
        let mut incidents = Incidents::new(true);
        incidents.push(snapshot(1), now);
        incidents.push(Record::Rows(header(2), Vec::new()), now);
        assert!(incidents.take_ready(now).is_empty());
        incidents.push(close(1), now);
        assert_eq!(numbers(&incidents.take_ready(now)), [1]);
    }

    #[test]
    fn a_decision_of_which_nothing_came_is_not_silent() {
        let now = Instant::now();
        let mut incidents = Incidents::new(true);
        incidents.push(snapshot(3), now);
        incidents.push(close(3), now);
        assert_eq!(numbers(&incidents.take_ready(now)), [1, 2, 3]);
    }

    #[test]
    fn a_mark_outside_any_decision_is_no_incident() {
        let now = Instant::now();
        let mut incidents = Incidents::new(true);
        incidents.push(close(0), now);
        assert!(incidents.take_all().is_empty());
    }
}
