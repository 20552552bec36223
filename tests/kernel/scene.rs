//! One kill: arranged, traced, and judged against everything else that saw it.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use oomtrace::incident::{Candidate, Incident, Role};

use crate::{
    cgroup::{self, Scratch},
    compare::{Tally, Terms, compare, decision_rung, is_listed, is_weak},
    context::{Context, LogOverrun, RateLimited, Skip, Verdict},
    kmsg::Kmsg,
    procfs::{self, Process},
    watch::Watch,
    witness::{self, Report},
};

/// Room between what is used and the limit, for whatever the kernel charges in batches.
const HEADROOM_BYTES: u64 = 16 << 20;

/// A kill about to be caused.
pub(crate) struct Scene<'a> {
    context: &'a Context,
    /// The cgroup whose limit will be hit; `None` for the host.
    scratch: Option<&'a Scratch>,
    watch_args: Vec<&'a str>,
    unscored: bool,
}

impl<'a> Scene<'a> {
    pub(crate) fn memcg(context: &'a Context, scratch: &'a Scratch) -> Self {
        Self {
            context,
            scratch: Some(scratch),
            watch_args: Vec::new(),
            unscored: false,
        }
    }

    pub(crate) fn global(context: &'a Context) -> anyhow::Result<Self> {
        ensure!(
            context.own_machine,
            Skip("only on a machine of its own".into())
        );
        Ok(Self {
            context,
            scratch: None,
            watch_args: Vec::new(),
            unscored: false,
        })
    }

    /// Further arguments of `oomtrace watch`.
    pub(crate) fn watch(mut self, args: &[&'a str]) -> Self {
        self.watch_args.extend(args);
        self
    }

    /// Nobody's score is going to be compared.
    pub(crate) fn unscored(mut self) -> Self {
        self.unscored = true;
        self
    }

    /// Sets the limit, starts the tracer, pulls the trigger and collects what everybody saw.
    pub(crate) fn kill(
        self,
        trigger: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Seen<'a>> {
        let page_bytes = procfs::page_bytes()?;
        let total_bytes = match self.scratch {
            Some(scratch) => {
                let limit = (scratch.usage_bytes()? + HEADROOM_BYTES) / page_bytes * page_bytes;
                scratch.set_limit(limit)?;
                limit
            }
            // None of these machines has swap.
            None => procfs::meminfo("MemTotal")?,
        };
        let adj = self.context.own_machine.then_some(-999);
        let patience = self.context.patience;
        let watch = Watch::start(&self.context.oomtrace, &self.watch_args, adj, patience)?;
        let processes = self.processes()?;
        let everyone = self.everyone()?;
        let kmsg = Kmsg::follow()?;
        let kills_before = self.oom_kills()?;
        // As a row of the table it must not move either.
        let frozen = self.scratch.is_none();
        if frozen {
            watch.freeze(true)?;
        }
        trigger()?;
        let end = Instant::now() + patience;
        while self.oom_kills()? == kills_before {
            ensure!(Instant::now() < end, "the kernel kills nobody");
            thread::sleep(Duration::from_millis(10));
        }
        let (lines, lost) = kmsg.settled(Duration::from_millis(500));
        let kills = self.oom_kills()? - kills_before;
        if frozen {
            watch.freeze(false)?;
        }
        let tracer = watch.pid();
        let is_ours = |incident: &Incident| {
            // The kernel may choose a process and find its memory gone: a report without a kill.
            let chosen = incident.chosen.map(|chosen| chosen.pid);
            let victims = incident.victims.iter().map(|victim| victim.tgid);
            chosen
                .into_iter()
                .chain(victims)
                .any(|pid| processes.contains_key(&pid))
        };
        let mut incidents = vec![watch.incident(patience, is_ours)?];
        incidents.extend(watch.finish(patience)?.into_iter().filter(is_ours));
        let mut reports = reports_of(&lines, &processes);
        let complete = |report: &Report| report.choice.is_some();
        ensure!(reports.first().is_some_and(complete), RateLimited);
        let later_reports = reports.split_off(1);
        let later_incidents = incidents.split_off(1);
        Ok(Seen {
            incident: incidents.remove(0),
            report: reports.remove(0),
            later_incidents,
            later_reports,
            terms: Terms {
                page_bytes,
                total_pages: total_bytes / page_bytes,
                partial: lost > 0,
                late: procfs::threads_hold_counts_back()?,
                unscored: self.unscored,
            },
            scene: self,
            lost,
            kills,
            processes,
            everyone,
            tracer,
        })
    }

    fn oom_kills(&self) -> anyhow::Result<u64> {
        match self.scratch {
            Some(scratch) => scratch.oom_kills(),
            None => procfs::oom_kills(),
        }
    }

    /// Who is within reach, by process id, as procfs tells it.
    fn processes(&self) -> anyhow::Result<BTreeMap<u32, Process>> {
        let pids = match self.scratch {
            Some(scratch) => scratch.processes()?,
            None => procfs::all_pids()?,
        };
        let mut all = BTreeMap::new();
        for pid in pids {
            let process = Process::read(pid)?;
            // The kernel passes over the machine's own process 1 without a word.
            let unkillable = process.is_kernel_thread || self.scratch.is_none() && pid == 1;
            if !unkillable {
                all.insert(pid, process);
            }
        }
        Ok(all)
    }

    fn everyone(&self) -> anyhow::Result<Option<BTreeSet<u32>>> {
        if !self.context.own_machine {
            return Ok(None);
        }
        let mut all = BTreeSet::new();
        for pid in procfs::all_pids()? {
            if Process::read(pid).is_ok_and(|process| !process.is_kernel_thread) {
                all.insert(pid);
            }
        }
        Ok(Some(all))
    }
}

/// What everybody saw of one kill.
pub(crate) struct Seen<'a> {
    scene: Scene<'a>,
    pub(crate) incident: Incident,
    pub(crate) report: Report,
    /// Between the death of a victim and the return of its memory the kernel may kill again. That
    /// is its business, but not a single kill may go unseen.
    later_incidents: Vec<Incident>,
    later_reports: Vec<Report>,
    terms: Terms,
    /// Records that the kernel log lost meanwhile.
    lost: u64,
    /// By the kernel's counter.
    kills: u64,
    processes: BTreeMap<u32, Process>,
    /// All that the machine runs, where nobody else runs anything.
    everyone: Option<BTreeSet<u32>>,
    tracer: u32,
}

impl Seen<'_> {
    pub(crate) fn candidate(&self, tgid: u32) -> anyhow::Result<&Candidate> {
        let mut all = self.incident.candidates.iter();
        let candidate = all.find(|candidate| candidate.tgid == tgid);
        candidate.with_context(|| format!("{tgid} is no candidate"))
    }

    /// For a ring too small for its rows: what came and what is declared lost are all there was, and
    /// nothing else suffered.
    pub(crate) fn judge_loss(&self, victim: u32) -> anyhow::Result<Verdict> {
        let declared = self
            .incident
            .gaps
            .iter()
            .filter(|gap| gap.what == "candidates");
        let lost: u64 = declared.filter_map(|gap| gap.count).sum();
        let came: BTreeSet<_> = self
            .incident
            .candidates
            .iter()
            .map(|candidate| candidate.tgid)
            .collect();
        ensure!(lost > 0, "nothing was lost, with {} rows", came.len());
        ensure!(!came.is_empty(), "no row came through");
        let total = came.len() as u64 + lost;
        if let Some(everyone) = &self.everyone {
            ensure!(
                total == everyone.len() as u64,
                "{} came and {lost} were lost, of {}",
                came.len(),
                everyone.len()
            );
            ensure!(came.is_subset(everyone), "a row of nobody");
        }
        ensure!(total >= self.processes.len() as u64, "{total} rows in all");
        let died: Vec<_> = self
            .incident
            .victims
            .iter()
            .map(|victim| victim.tgid)
            .collect();
        ensure!(died == [victim], "killed {died:?}, not {victim}");
        ensure!(
            self.incident
                .oom_cgroup
                .is_some_and(|id| self.incident.cgroup(id).is_some()),
            "the cgroup was lost with the rows"
        );
        Ok(Verdict {
            rung: decision_rung(&self.incident).to_owned(),
            rows: came.len(),
            values: came.len(),
            note: format!("{lost} rows lost, all of them declared"),
        })
    }

    /// Compares with every witness; `victims` are the processes that had to die. `more` adds what
    /// only this scenario can tell.
    pub(crate) fn judge(
        &self,
        victims: &[u32],
        more: impl FnOnce(&mut Tally) -> anyhow::Result<()>,
    ) -> anyhow::Result<Verdict> {
        // An overrun log may have kept the end of a later report alone.
        let told = self.report.choice.as_ref().map(|choice| choice.pid);
        let chosen = self.incident.chosen.map(|chosen| chosen.pid);
        ensure!(self.lost == 0 || told == chosen, LogOverrun);
        let mut tally = compare(&self.incident, &self.report, self.terms);
        self.reach(&mut tally);
        self.counters(&mut tally);
        self.limit(&mut tally)?;
        let died: BTreeSet<_> = self
            .incident
            .victims
            .iter()
            .map(|victim| victim.tgid)
            .collect();
        let due: BTreeSet<_> = victims.iter().copied().collect();
        tally.same("processes killed", died, due);
        more(&mut tally)?;
        // A weak hook must say what it cannot see. Nothing else may be missing.
        let weak = is_weak(&self.incident);
        for gap in &self.incident.gaps {
            tally.holds(format!("{gap:?}"), weak && gap.what == "oom_control");
        }
        tally.same(
            "says what it cannot see",
            self.incident.is_complete(),
            !weak,
        );
        let rung = decision_rung(&self.incident).to_owned();
        tally.holds(
            "the incident does not name its decision hook",
            !rung.is_empty(),
        );
        if !tally.off.is_empty() {
            let shown: Vec<_> = tally.off.iter().take(12).cloned().collect();
            bail!(
                "{} of {} values differ ({} rows, {rung}): {}",
                tally.off.len(),
                tally.values,
                tally.rows,
                shown.join("; ")
            );
        }
        ensure!(tally.rows > 0 || self.lost == 0, LogOverrun);
        ensure!(tally.rows > 0, "no row was compared");
        let mut note = format!("{} processes", self.processes.len());
        if !self.later_reports.is_empty() {
            note += &format!(", {} later kills", self.later_reports.len());
        }
        if tally.late > 0 {
            note += &format!(", {} figures of the dying victim had moved on", tally.late);
        }
        if self.lost > 0 {
            note += &format!(", the kernel log lost {} records", self.lost);
        }
        Ok(Verdict {
            rung,
            rows: tally.rows,
            values: tally.values,
            note,
        })
    }

    /// Everyone within reach is a candidate, nobody else is, and procfs agrees about who they are.
    fn reach(&self, tally: &mut Tally) {
        let listed: BTreeMap<_, _> = (self.incident.candidates.iter())
            .filter(|candidate| is_listed(candidate))
            .map(|candidate| (candidate.tgid, candidate))
            .collect();
        for (pid, process) in &self.processes {
            let Some(candidate) = listed.get(pid) else {
                tally.holds(format!("process {pid} is no candidate"), false);
                continue;
            };
            tally.same(
                format!("parent of {pid}"),
                candidate.ppid,
                Some(process.ppid),
            );
            let ticks = candidate.start_boot_ns.map(|ns| ns / 10_000_000);
            tally.same(format!("start of {pid}"), ticks, Some(process.start_ticks));
            let cgroup = candidate.cgroup.and_then(|id| self.incident.cgroup(id));
            let path = cgroup.map(|cgroup| cgroup.path.as_bytes().escape_ascii().to_string());
            let theirs = process.cgroup.escape_ascii().to_string();
            tally.same(format!("cgroup of {pid}"), path, Some(theirs));
            // A fork that nobody saw has none; a wrong one would be worse.
            if let Some(cmdline) = &candidate.cmdline {
                let what = format!("command line of {pid}");
                tally.same(what, cmdline.as_bytes(), process.cmdline.as_slice());
            }
        }
        if let Some(everyone) = &self.everyone {
            let candidates = self.incident.candidates.iter();
            let ours: BTreeSet<_> = candidates.map(|candidate| candidate.tgid).collect();
            tally.same("all processes", &ours, everyone);
        }
        for pid in listed.keys() {
            let known = self.processes.contains_key(pid) || *pid == self.tracer;
            tally.holds(format!("candidate {pid} is none of the processes"), known);
        }
    }

    /// The kernel's count of its kills, and that each report has its incident. A group's first
    /// victim is counted twice, as it is printed.
    fn counters(&self, tally: &mut Tally) {
        let victims = |incident: &Incident| -> BTreeSet<u32> {
            let victims = incident.victims.iter();
            let killed = victims
                .filter(|victim| victim.killed != Some(false) && victim.role != Role::MmSharer);
            killed.map(|victim| victim.pid).collect()
        };
        let killed = |report: &Report| -> BTreeSet<u32> {
            report.kills.iter().map(|kill| kill.pid).collect()
        };
        // A decision that killed nobody is silent on one side or the other: the kernel prints nothing
        // for a process that it finds dying, and the choice alone for one without memory.
        let ours = self.later_incidents.iter().map(victims);
        let ours: Vec<_> = ours.filter(|killed| !killed.is_empty()).collect();
        let theirs = self.later_reports.iter().map(killed);
        let theirs: Vec<_> = theirs.filter(|killed| !killed.is_empty()).collect();
        tally.same("later kills", ours, theirs);
        let incidents = [&self.incident].into_iter().chain(&self.later_incidents);
        let killed_by_ours: usize = incidents.map(|incident| victims(incident).len()).sum();
        let reports = [&self.report].into_iter().chain(&self.later_reports);
        let repeated: usize = reports
            .map(|report| report.kills.len() - killed(report).len())
            .sum();
        let ours = (killed_by_ours + repeated) as u64;
        tally.same("kills by the kernel's counter", ours, self.kills);
    }

    /// The cgroup whose limit was hit, by its directory.
    fn limit(&self, tally: &mut Tally) -> anyhow::Result<()> {
        let Some(scratch) = self.scene.scratch else {
            return Ok(());
        };
        let id = cgroup::id(scratch.dir())?;
        tally.same("id of the cgroup", self.incident.oom_cgroup, Some(id));
        let ours = self.incident.cgroup(id).with_context(|| {
            let known: Vec<u64> = self.incident.cgroups.iter().map(|known| known.id).collect();
            let gaps = &self.incident.gaps;
            format!("cgroup {id} of the limit is not among {known:?}; gaps {gaps:?}")
        })?;
        let path = scratch.kernel_path(scratch.dir());
        tally.same("path of the cgroup", ours.path.to_string(), path);
        let limit = self.terms.total_pages * self.terms.page_bytes;
        tally.same("limit of the cgroup", ours.max_bytes, Some(limit));
        // At the decision it is full, but for what other CPUs hold in stock.
        let usage = ours.usage_bytes.unwrap_or(0);
        let full = usage <= limit && usage + (4 << 20) > limit;
        tally.holds(format!("usage {usage} with limit {limit}"), full);
        Ok(())
    }
}

/// The reports that tell of a process of ours.
fn reports_of(lines: &[Vec<u8>], ours: &BTreeMap<u32, Process>) -> Vec<Report> {
    let mut reports = witness::reports(lines.iter().map(Vec::as_slice));
    reports.retain(|report| {
        let chosen = report.choice.as_ref().map(|choice| choice.pid);
        let mut told = chosen
            .into_iter()
            .chain(report.kills.iter().map(|kill| kill.pid));
        told.any(|pid| ours.contains_key(&pid))
    });
    reports
}
