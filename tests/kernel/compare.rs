//! An incident against the kernel's own report of the same kill, value by value, exactly.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{Debug, Display},
};

use oomtrace::incident::{Candidate, Incident, Role, Scope, SkipReason, Victim};

use crate::witness::{Choice, Header, Kill, Report, Row};

/// What was compared, and what was found to differ.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) rows: usize,
    pub(crate) values: usize,
    pub(crate) off: Vec<String>,
    /// Figures of a dying victim that had moved on, see [`Terms::late`].
    pub(crate) late: usize,
}

impl Tally {
    /// Counts one comparison.
    pub(crate) fn same<T: PartialEq + Debug>(&mut self, what: impl Display, ours: T, kernel: T) {
        self.values += 1;
        if ours != kernel {
            self.off
                .push(format!("{what}: {ours:?}, kernel {kernel:?}"));
        }
    }

    /// Counts one comparison of figures that may be up to `slack` apart.
    fn near(&mut self, what: impl Display, ours: Option<i64>, kernel: i64, slack: i64) {
        let apart = ours.map_or(0, |ours| (ours - kernel).abs());
        if (1..=slack).contains(&apart) {
            self.values += 1;
            self.late += 1;
        } else {
            self.same(what, ours, Some(kernel));
        }
    }

    /// Counts one condition.
    pub(crate) fn holds(&mut self, what: impl Display, holds: bool) {
        self.values += 1;
        if !holds {
            self.off.push(what.to_string());
        }
    }
}

/// What is known of the kill besides the report.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) page_bytes: u64,
    /// The memory that could be used, in pages: `totalpages` of the kernel.
    pub(crate) total_pages: u64,
    /// Whether the log lost records of this report.
    pub(crate) partial: bool,
    /// Whether each thread holds back counts of its own, as until 6.1. A victim adds them up as soon
    /// as it begins to die: after the table, before or after `mark_victim` and the line of the kill.
    pub(crate) late: bool,
    /// `vm.oom_kill_allocating_task`: nobody's score was compared.
    pub(crate) unscored: bool,
}

/// Compares everything that both sides tell.
pub(crate) fn compare(incident: &Incident, report: &Report, terms: Terms) -> Tally {
    let comparison = Comparison {
        incident,
        report,
        terms,
        weak: is_weak(incident),
    };
    let mut tally = Tally::default();
    comparison.rows(&mut tally);
    comparison.scores(&mut tally);
    match &report.header {
        Some(header) => comparison.header(&mut tally, header),
        // The log lost the beginning.
        None if terms.partial => {}
        None => tally
            .off
            .push("the kernel's report has no header".to_owned()),
    }
    match &report.choice {
        Some(choice) => comparison.choice(&mut tally, choice),
        None => tally
            .off
            .push("the kernel's report has no choice".to_owned()),
    }
    comparison.kills(&mut tally);
    tally
}

/// Which hook took the snapshot.
pub(crate) fn decision_rung(incident: &Incident) -> &str {
    incident
        .source
        .rungs
        .get("decision")
        .map_or("", String::as_str)
}

/// Whether that hook sees no `oom_control`: what only that holds may be absent, though never wrong.
pub(crate) fn is_weak(incident: &Incident) -> bool {
    decision_rung(incident).contains("mark_victim")
}

/// Whether the kernel lists this candidate: it is within reach and still has memory.
pub(crate) fn is_listed(candidate: &Candidate) -> bool {
    use SkipReason::{AlreadyReaped, AlreadyVictim, Protected, Vfork};
    candidate.eligible == Some(true)
        || matches!(
            candidate.skip_reason,
            Some(Protected | AlreadyReaped | AlreadyVictim | Vfork)
        )
}

/// What one thread can hold back: 64 faults of up to 16 pages.
const LATE_PAGES: i64 = 64 * 16;

struct Comparison<'a> {
    incident: &'a Incident,
    report: &'a Report,
    terms: Terms,
    weak: bool,
}

impl Comparison<'_> {
    fn rows(&self, tally: &mut Tally) {
        let ours: BTreeMap<_, _> = (self.incident.candidates.iter())
            .filter(|candidate| is_listed(candidate))
            .map(|candidate| (candidate.pid, candidate))
            .collect();
        let theirs: BTreeSet<_> = self.report.rows.iter().map(|row| row.pid).collect();
        if !self.terms.partial && self.report.damaged == 0 {
            let extra: Vec<_> = ours.keys().filter(|pid| !theirs.contains(pid)).collect();
            tally.holds(
                format!("not in the kernel's table: {extra:?}"),
                extra.is_empty(),
            );
        }
        for row in &self.report.rows {
            match ours.get(&row.pid) {
                Some(candidate) => self.row(tally, candidate, row),
                None => tally.off.push(format!(
                    "pid {} ({}) is in the kernel's table only",
                    row.pid,
                    row.name.escape_ascii()
                )),
            }
        }
    }

    fn row(&self, tally: &mut Tally, ours: &Candidate, kernel: &Row) {
        tally.rows += 1;
        let pid = kernel.pid;
        tally.same(
            format!("name of {pid}"),
            shown(ours.comm.as_bytes()),
            shown(&kernel.name),
        );
        for (column, &value) in &kernel.values {
            let our_value = match column.as_str() {
                // Printed as a signed number.
                "uid" => ours.uid.map(|uid| i64::from(uid.cast_signed())),
                "tgid" => Some(i64::from(ours.tgid)),
                "total_vm" => self.pages(ours.total_vm_bytes),
                "rss" => self.pages(ours.rss_bytes()),
                "rss_anon" => self.pages(ours.anon_bytes),
                "rss_file" => self.pages(ours.file_bytes),
                "rss_shmem" => self.pages(ours.shmem_bytes),
                "pgtables_bytes" => ours.pgtables_bytes.and_then(|bytes| bytes.try_into().ok()),
                "swapents" => self.pages(ours.swap_bytes),
                "oom_score_adj" => ours.oom_score_adj.map(i64::from),
                _ => {
                    tally
                        .off
                        .push(format!("this test knows no column {column}"));
                    continue;
                }
            };
            let slack = if column.starts_with("rss") {
                self.slack_pages(pid)
            } else {
                0
            };
            tally.near(format!("{column} of {pid}"), our_value, value, slack);
        }
    }

    /// Scores, worked out afresh from the kernel's own table.
    fn scores(&self, tally: &mut Tally) {
        match self.incident.total_pages {
            None if self.weak => {}
            ours => tally.same("total_pages", ours, Some(self.terms.total_pages)),
        }
        let by_pid: BTreeMap<_, _> = (self.incident.candidates.iter())
            .map(|candidate| (candidate.pid, candidate))
            .collect();
        for row in &self.report.rows {
            let Some(candidate) = by_pid
                .get(&row.pid)
                .filter(|ours| ours.eligible == Some(true))
            else {
                continue;
            };
            let what = format!("score of {}", row.pid);
            match self.badness(row) {
                Some(score) => tally.near(what, candidate.score, score, self.slack_pages(row.pid)),
                None => tally.off.push(format!("no {what} can be worked out")),
            }
        }
        for candidate in &self.incident.candidates {
            if candidate.kernel_score.is_some() {
                let what = format!("score of {} as the kernel returned it", candidate.pid);
                tally.same(what, candidate.score, candidate.kernel_score);
            }
        }
        if self.terms.unscored {
            return;
        }
        let greatest = (self.incident.candidates.iter())
            .filter(|candidate| candidate.eligible == Some(true))
            .filter_map(|candidate| candidate.score)
            .max();
        let chosen = self.chosen();
        tally.same(
            "score of the chosen",
            chosen.and_then(|chosen| chosen.score),
            greatest,
        );
        if !self.weak {
            let points = self.incident.chosen.and_then(|chosen| chosen.score);
            tally.same("points of the chosen", greatest, points);
        }
    }

    fn badness(&self, row: &Row) -> Option<i64> {
        let page = i64::try_from(self.terms.page_bytes).ok()?;
        let weight = i64::try_from(self.terms.total_pages / 1000).ok()?;
        Some(
            row.values.get("rss")?
                + row.values.get("swapents")?
                + row.values.get("pgtables_bytes")? / page
                + row.values.get("oom_score_adj")? * weight,
        )
    }

    fn header(&self, tally: &mut Tally, kernel: &Header) {
        let Some(trigger) = &self.incident.trigger else {
            tally.off.push("the trigger is missing".to_owned());
            return;
        };
        tally.same(
            "comm of the trigger",
            shown(trigger.comm.as_bytes()),
            shown(&kernel.comm),
        );
        tally.same(
            "pid of the trigger",
            Some(trigger.pid),
            self.report.trigger_pid,
        );
        tally.same(
            "adj of the trigger",
            trigger.oom_score_adj,
            Some(kernel.oom_score_adj),
        );
        match (&trigger.gfp, self.weak) {
            (None, true) => {}
            (gfp, _) => {
                tally.same("gfp", gfp.as_ref().map(|gfp| gfp.raw), Some(kernel.gfp));
                // As a set: each version has an order of its own.
                let ours: BTreeSet<_> = gfp.iter().flat_map(|gfp| &gfp.names).collect();
                let names: Vec<_> = kernel.gfp_names.split('|').map(str::to_owned).collect();
                tally.same("names of gfp", ours, names.iter().collect());
            }
        }
        match (trigger.order, self.weak) {
            (None, true) => {}
            (order, _) => tally.same("order", order, Some(kernel.order)),
        }
    }

    fn choice(&self, tally: &mut Tally, kernel: &Choice) {
        let order = self.report.header.as_ref().map(|header| header.order);
        let scope = match kernel.constraint.as_str() {
            "CONSTRAINT_NONE" if order == Some(-1) => Some(Scope::Sysrq),
            "CONSTRAINT_NONE" => Some(Scope::Global),
            "CONSTRAINT_MEMCG" => Some(Scope::Memcg),
            "CONSTRAINT_CPUSET" => Some(Scope::Cpuset),
            "CONSTRAINT_MEMORY_POLICY" => Some(Scope::Mempolicy),
            _ => None,
        };
        tally.same("scope", self.incident.scope, scope);
        let path = |id: Option<u64>| {
            let cgroup = self.incident.cgroup(id?)?;
            Some(shown(cgroup.path.as_bytes()))
        };
        let theirs = kernel.oom_memcg.as_deref().map(shown);
        tally.same(
            "cgroup of the limit",
            path(self.incident.oom_cgroup),
            theirs,
        );
        let Some(chosen) = self.chosen() else {
            tally
                .off
                .push("the chosen is not among the candidates".to_owned());
            return;
        };
        // The kernel prints the leader here, the thread with the memory in the line of the kill.
        tally.holds(
            format!(
                "chosen {}, tgid {}, kernel {}",
                chosen.pid, chosen.tgid, kernel.pid
            ),
            [chosen.pid, chosen.tgid].contains(&kernel.pid),
        );
        tally.same("uid of the chosen", chosen.uid, Some(kernel.uid));
        if chosen.pid == kernel.pid {
            tally.same(
                "comm of the chosen",
                shown(chosen.comm.as_bytes()),
                shown(&kernel.task),
            );
        }
        if let Some(theirs) = kernel.task_memcg.as_deref() {
            tally.same(
                "cgroup of the chosen",
                path(chosen.cgroup),
                Some(shown(theirs)),
            );
        }
    }

    fn kills(&self, tally: &mut Tally) {
        // The kernel goes through a whole group after the first kill, and so tells of that twice.
        let mut kills: Vec<&Kill> = Vec::new();
        for kill in &self.report.kills {
            if kills.iter().all(|seen| seen.pid != kill.pid) {
                kills.push(kill);
            }
        }
        let victims: Vec<_> = (self.incident.victims.iter())
            .filter(|victim| victim.role != Role::MmSharer && victim.killed != Some(false))
            .collect();
        let pids = |victims: &[&Victim]| victims.iter().map(|victim| victim.pid).collect();
        let killed: Vec<u32> = kills.iter().map(|kill| kill.pid).collect();
        tally.same::<Vec<u32>>("victims in order", pids(&victims), killed);
        for kill in kills {
            if let Some(victim) = victims.iter().find(|victim| victim.pid == kill.pid) {
                self.kill(tally, victim, kill);
            }
        }
    }

    fn kill(&self, tally: &mut Tally, ours: &Victim, kernel: &Kill) {
        let pid = kernel.pid;
        tally.same(
            format!("comm of {pid}"),
            shown(ours.comm.as_bytes()),
            shown(&kernel.comm),
        );
        match &self.incident.message {
            None if self.weak => {}
            ours => tally.same("message", ours.as_deref(), Some(kernel.message.as_str())),
        }
        let kib = |bytes: Option<u64>| i64::try_from(bytes? / 1024).ok();
        for (figure, &value) in &kernel.values {
            let our_value = match figure.as_str() {
                "total-vm" => kib(ours.total_vm_bytes),
                "anon-rss" => kib(ours.anon_bytes),
                "file-rss" => kib(ours.file_bytes),
                "shmem-rss" => kib(ours.shmem_bytes),
                "pgtables" => kib(ours.pgtables_bytes),
                "UID" => ours.uid.map(i64::from),
                "oom_score_adj" => ours.oom_score_adj.map(i64::from),
                _ => {
                    tally
                        .off
                        .push(format!("this test knows no figure {figure}"));
                    continue;
                }
            };
            let slack = if self.terms.late && figure.ends_with("-rss") {
                // Printed after SIGKILL whatever the hook.
                LATE_PAGES * i64::try_from(self.terms.page_bytes / 1024).unwrap_or(4)
            } else {
                0
            };
            tally.near(
                format!("{figure} of the killed {pid}"),
                our_value,
                value,
                slack,
            );
        }
    }

    fn chosen(&self) -> Option<&Candidate> {
        let pid = self.incident.chosen?.pid;
        self.incident
            .candidates
            .iter()
            .find(|candidate| candidate.pid == pid)
    }

    /// How far a row of the table may be off: a victim's, when the hook comes after SIGKILL.
    fn slack_pages(&self, pid: u32) -> i64 {
        let dying = self.report.kills.iter().any(|kill| kill.pid == pid);
        if self.weak && self.terms.late && dying {
            LATE_PAGES
        } else {
            0
        }
    }

    fn pages(&self, bytes: Option<u64>) -> Option<i64> {
        i64::try_from(bytes? / self.terms.page_bytes).ok()
    }
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
