//! Whom the kernel compared, and whom it passed over.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use crate::incident::{Candidate, Incident, Role, SkipReason, Victim};
use crate::view::units::{bytes, count, many, name, path};
use crate::view::why::skip_words;

use super::layout::{Page, Tone};
use super::table::{self, Column, Kind, Row};

/// Rows of those compared, of those passed over, and of victims beyond both.
const COMPARED: usize = 20;
const PASSED_OVER: usize = 5;
const VICTIMS: usize = 30;

const COLUMNS: [Column; 12] = [
    Column::new("PID", Kind::Figure, 20),
    Column::new("NAME", Kind::Words(10), 20),
    Column::new("SCORE", Kind::Figure, 20),
    Column::new("ADJ", Kind::Figure, 17),
    Column::new("RESIDENT", Kind::Figure, 18),
    Column::new("SWAP", Kind::Figure, 16),
    Column::new("PTABLES", Kind::Figure, 15),
    Column::new("", Kind::Note(19), 19),
    Column::new("PPID", Kind::Figure, 9),
    Column::new("UID", Kind::Figure, 10),
    Column::new("CGROUP", Kind::Path(16), 11),
    Column::new("COMMAND", Kind::Words(16), 12),
];

/// Writes the table: the highest scores, the largest of those passed over, every victim.
pub(super) fn write(incident: &Incident, page: &mut Page<'_, impl Write>) -> io::Result<()> {
    if incident.candidates.is_empty() && incident.victims.is_empty() {
        return Ok(());
    }
    let order = order(incident);
    let near: BTreeSet<u32> = incident.in_reach().iter().map(|c| c.tgid).collect();
    let dead: BTreeMap<u32, &Victim> = incident.victims.iter().map(|v| (v.tgid, v)).collect();
    let (mut compared, mut passed_over, mut victims) = (0, 0, 0);
    let mut listed = BTreeSet::new();
    let mut rows = Vec::new();
    for candidate in &order {
        let victim = dead.get(&candidate.tgid).copied();
        let noteworthy =
            near.contains(&candidate.tgid) && candidate.skip_reason != Some(SkipReason::NoMemory);
        let quota = match (candidate.may_be_chosen(), noteworthy) {
            (true, _) if compared < COMPARED => &mut compared,
            (false, true) if passed_over < PASSED_OVER => &mut passed_over,
            _ if victim.is_some() && victims < VICTIMS => &mut victims,
            _ => continue,
        };
        *quota += 1;
        listed.insert(candidate.tgid);
        rows.push(row(incident, candidate, victim));
    }
    let known: BTreeSet<u32> = order.iter().map(|c| c.tgid).collect();
    let unlisted = incident.victims.iter().filter(|v| !known.contains(&v.tgid));
    for victim in unlisted.take(VICTIMS - victims) {
        listed.insert(victim.tgid);
        rows.push(victim_row(incident, victim));
    }
    page.heading("CANDIDATES", &remark(incident))?;
    table::write(&COLUMNS, &rows, page)?;
    left_out(incident, &order, &listed, page)
}

/// Those compared by falling score, then those of unknown score, then those passed over, both by
/// falling size.
fn order(incident: &Incident) -> Vec<&Candidate> {
    let mut order = incident.ranking();
    let ranked: BTreeSet<u32> = order.iter().map(|c| c.tgid).collect();
    let mut others: Vec<&Candidate> = incident
        .candidates
        .iter()
        .filter(|c| !ranked.contains(&c.tgid))
        .collect();
    let size = |c: &Candidate| c.weighed_bytes().or_else(|| c.held_bytes());
    others.sort_by_key(|c| (!c.may_be_chosen(), Reverse(size(c))));
    order.extend(others);
    order
}

fn remark(incident: &Incident) -> String {
    let unit = incident.host.page_size.map_or_else(
        || "scores in pages".to_owned(),
        |size| format!("scores in pages of {}", bytes(size)),
    );
    let all = many(incident.candidates.len());
    let judged = |c: &&Candidate| c.eligible.is_some() || c.skip_reason.is_some();
    if !incident.candidates.iter().any(|c| judged(&c)) {
        return format!("{all} processes; {unit}");
    }
    let could = incident
        .candidates
        .iter()
        .filter(|c| judged(c) && c.may_be_chosen())
        .count();
    format!("{} of {all} processes could be chosen; {unit}", many(could))
}

fn row(incident: &Incident, candidate: &Candidate, victim: Option<&Victim>) -> Row {
    let Candidate {
        pid,
        tgid: _,
        ppid,
        start_boot_ns: _,
        uid,
        comm,
        cmdline,
        cgroup,
        oom_score_adj,
        anon_bytes: _,
        file_bytes: _,
        shmem_bytes: _,
        swap_bytes,
        pgtables_bytes,
        total_vm_bytes: _,
        rss_exact: _,
        score: _,
        kernel_score: _,
        eligible,
        skip_reason,
        ns_pid: _,
        mm: _,
    } = candidate;
    let note = match (victim, skip_reason) {
        (Some(victim), _) => fate(victim).to_owned(),
        (None, Some(reason)) => skip_words(*reason).to_owned(),
        (None, None) if *eligible == Some(false) => "not eligible".into(),
        (None, None) => String::new(),
    };
    Row {
        marked: victim.is_some(),
        cells: vec![
            Some(pid.to_string()),
            Some(name(comm)),
            match candidate.may_be_chosen() {
                true => candidate.compared_score().map(count),
                false => Some("-".into()),
            },
            oom_score_adj.map(|adj| adj.to_string()),
            candidate.rss_bytes().map(bytes),
            swap_bytes.map(bytes),
            pgtables_bytes.map(bytes),
            Some(note),
            ppid.map(|ppid| ppid.to_string()),
            uid.map(|uid| uid.to_string()),
            cgroup
                .and_then(|id| incident.cgroup(id))
                .map(|cgroup| path(&cgroup.path)),
            cmdline.as_ref().map(|cmdline| cmdline.to_string()),
        ],
    }
}

/// A victim that the list of candidates lacks.
fn victim_row(incident: &Incident, victim: &Victim) -> Row {
    let candidate = Candidate {
        pid: victim.pid,
        tgid: victim.tgid,
        uid: victim.uid,
        comm: victim.comm.clone(),
        cmdline: victim.cmdline.clone(),
        cgroup: victim.cgroup,
        oom_score_adj: victim.oom_score_adj,
        anon_bytes: victim.anon_bytes,
        file_bytes: victim.file_bytes,
        shmem_bytes: victim.shmem_bytes,
        swap_bytes: victim.swap_bytes,
        pgtables_bytes: victim.pgtables_bytes,
        score: incident
            .chosen
            .filter(|chosen| chosen.pid == victim.pid)
            .and_then(|c| c.score),
        ..Candidate::default()
    };
    row(incident, &candidate, Some(victim))
}

fn fate(victim: &Victim) -> &'static str {
    match (victim.killed, victim.role) {
        (Some(false), _) => "dying already",
        (_, Role::Chosen) => "KILLED",
        (_, Role::GroupMember) => "KILLED (group)",
        (_, Role::MmSharer) => "KILLED (sharer)",
    }
}

/// States what the table does not show.
fn left_out(
    incident: &Incident,
    order: &[&Candidate],
    listed: &BTreeSet<u32>,
    page: &mut Page<'_, impl Write>,
) -> io::Result<()> {
    let hidden: Vec<&&Candidate> = order.iter().filter(|c| !listed.contains(&c.tgid)).collect();
    let mut parts = Vec::new();
    let scored = |c: &&&&Candidate| c.may_be_chosen() && c.compared_score().is_some();
    let lower = hidden.iter().filter(scored).count();
    if let Some(score) = hidden.iter().find(scored).and_then(|c| c.compared_score()) {
        parts.push(format!(
            "{} that scored {} or less",
            many(lower),
            count(score)
        ));
    }
    let mut passed: BTreeMap<Option<SkipReason>, usize> = BTreeMap::new();
    for candidate in hidden.iter().filter(|c| !scored(c)) {
        *passed.entry(candidate.skip_reason).or_default() += 1;
    }
    for (reason, n) in passed {
        let reason = reason.map_or("without a known score", skip_words);
        parts.push(format!("{} {reason}", many(n)));
    }
    let victims = incident
        .victims
        .iter()
        .filter(|v| !listed.contains(&v.tgid))
        .count();
    if victims > 0 {
        parts.push(format!("{} victims among all these", many(victims)));
    }
    if let Some(threads) = incident.kernel_threads.filter(|threads| *threads > 0) {
        parts.push(format!("{} kernel threads", count(threads)));
    }
    match parts.is_empty() {
        true => Ok(()),
        false => page.wrapped(
            "  ",
            Tone::Quiet,
            &format!("… not shown: {}", parts.join(", ")),
        ),
    }
}
