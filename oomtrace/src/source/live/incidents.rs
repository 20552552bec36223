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
        self.newest = self.newest.max(number);
        let open = self.open.entry(number).or_insert_with(|| Open {
            parts: Parts {
                number,
                ..Parts::default()
            },
            touched: now,
        });
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
