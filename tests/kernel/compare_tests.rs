//! The comparison must be able to fail: an incident that agrees with a report in everything is
//! falsified one value at a time, and each time the difference must be found.

use anyhow::ensure;
use oomtrace::incident::{
    Candidate, Cgroup, Chosen, Gfp, Incident, Scope, SkipReason, Text, Trigger, Victim,
};

use crate::{
    compare::{Terms, compare},
    witness,
};

const PAGE: u64 = 4096;
const TERMS: Terms = Terms {
    page_bytes: PAGE,
    total_pages: 16_384,
    partial: false,
    late: false,
    unscored: false,
};

/// What [`witness::tests::MEMCG`] tells, as an incident.
fn agreeing() -> Incident {
    let pages = |pages: u64| Some(pages * PAGE);
    let mut incident = Incident {
        scope: Some(Scope::Memcg),
        message: Some("Memory cgroup out of memory".to_owned()),
        trigger: Some(Trigger {
            pid: 77,
            comm: "a b)".into(),
            oom_score_adj: Some(-7),
            gfp: Some(Gfp {
                raw: 0xcc0,
                names: vec!["GFP_KERNEL".to_owned(), "__GFP_ZERO".to_owned()],
            }),
            order: Some(0),
            ..Trigger::default()
        }),
        oom_cgroup: Some(2),
        total_pages: Some(TERMS.total_pages),
        chosen: Some(Chosen {
            pid: 76,
            score: Some(8100 + 3 + 21 + 200 * 16),
        }),
        ..Incident::default()
    };
    let decision = "fentry oom_kill_process".to_owned();
    incident
        .source
        .rungs
        .insert("decision".to_owned(), decision);
    for (id, path, parent) in [
        (1, "/", None),
        (2, "/t,pid=9/z", Some(1)),
        (3, "/t,pid=9/z/k", Some(2)),
    ] {
        incident.cgroups.push(Cgroup {
            id,
            path: path.into(),
            parent,
            ..Cgroup::default()
        });
    }
    let hog = Candidate {
        pid: 76,
        tgid: 75,
        uid: Some(1000),
        comm: Text::new(*b" x\n) y "),
        cgroup: Some(3),
        oom_score_adj: Some(200),
        anon_bytes: pages(8000),
        file_bytes: pages(90),
        shmem_bytes: pages(10),
        swap_bytes: pages(3),
        pgtables_bytes: Some(86_016),
        total_vm_bytes: pages(9000),
        score: incident.chosen.and_then(|chosen| chosen.score),
        eligible: Some(true),
        ..Candidate::default()
    };
    let grower = Candidate {
        pid: 77,
        tgid: 77,
        uid: Some(0),
        comm: "a b)".into(),
        oom_score_adj: Some(-7),
        anon_bytes: pages(200),
        file_bytes: pages(50),
        shmem_bytes: pages(0),
        swap_bytes: pages(0),
        pgtables_bytes: Some(45_056),
        total_vm_bytes: pages(500),
        score: Some(250 + 11 - 7 * 16),
        ..hog.clone()
    };
    let outsider = Candidate {
        pid: 1,
        tgid: 1,
        eligible: Some(false),
        skip_reason: Some(SkipReason::OutsideCgroup),
        ..Candidate::default()
    };
    incident.victims.push(Victim {
        pid: 76,
        tgid: 75,
        comm: hog.comm.clone(),
        uid: hog.uid,
        oom_score_adj: hog.oom_score_adj,
        anon_bytes: hog.anon_bytes,
        file_bytes: hog.file_bytes,
        shmem_bytes: hog.shmem_bytes,
        pgtables_bytes: hog.pgtables_bytes,
        total_vm_bytes: hog.total_vm_bytes,
        ..Victim::default()
    });
    incident.candidates = vec![outsider, hog, grower];
    incident
}

pub(crate) fn agreement_is_found() -> anyhow::Result<()> {
    let report = witness::reports(witness::tests::MEMCG.iter().copied());
    let tally = compare(&agreeing(), &report[0], TERMS);
    ensure!(tally.off.is_empty(), "{:?}", tally.off);
    ensure!(tally.rows == 2 && tally.values > 40, "{tally:?}");
    Ok(())
}

pub(crate) fn every_difference_is_found() -> anyhow::Result<()> {
    type Falsify = fn(&mut Incident);
    let falsified: &[(&str, Falsify)] = &[
        ("scope", |i| i.scope = Some(Scope::Global)),
        ("message", |i| i.message = None),
        ("trigger", |i| i.trigger = None),
        ("trigger pid", |i| trigger(i).pid = 78),
        ("trigger comm", |i| trigger(i).comm = "a b".into()),
        ("trigger adj", |i| trigger(i).oom_score_adj = None),
        ("gfp", |i| trigger(i).gfp = None),
        ("order", |i| trigger(i).order = Some(1)),
        ("limit", |i| i.oom_cgroup = Some(3)),
        ("total", |i| i.total_pages = None),
        ("points", |i| {
            i.chosen = Some(Chosen {
                pid: 76,
                score: None,
            })
        }),
        ("chosen", |i| {
            i.chosen = Some(Chosen {
                pid: 77,
                score: None,
            })
        }),
        ("a row less", |i| drop(i.candidates.pop())),
        ("a row more", |i| i.candidates[0].eligible = Some(true)),
        ("eligible", |i| i.candidates[1].eligible = None),
        ("pid", |i| i.candidates[2].pid = 79),
        ("tgid", |i| i.candidates[1].tgid = 76),
        ("uid", |i| i.candidates[1].uid = Some(0)),
        ("name", |i| i.candidates[1].comm = "x\n) y ".into()),
        ("adj", |i| i.candidates[1].oom_score_adj = Some(201)),
        ("anon", |i| more(&mut i.candidates[2].anon_bytes)),
        ("file", |i| more(&mut i.candidates[2].file_bytes)),
        ("shmem", |i| more(&mut i.candidates[2].shmem_bytes)),
        ("swap", |i| more(&mut i.candidates[2].swap_bytes)),
        ("page tables", |i| more(&mut i.candidates[2].pgtables_bytes)),
        ("total_vm", |i| more(&mut i.candidates[2].total_vm_bytes)),
        ("score", |i| i.candidates[2].score = Some(0)),
        ("kernel score", |i| i.candidates[2].kernel_score = Some(0)),
        ("cgroup", |i| i.candidates[1].cgroup = Some(2)),
        ("no victim", |i| i.victims.clear()),
        ("victim pid", |i| i.victims[0].pid = 75),
        ("victim comm", |i| i.victims[0].comm = "x".into()),
        ("victim uid", |i| i.victims[0].uid = None),
        ("victim anon", |i| more(&mut i.victims[0].anon_bytes)),
        ("victim page tables", |i| {
            more(&mut i.victims[0].pgtables_bytes)
        }),
        ("not killed", |i| i.victims[0].killed = Some(false)),
    ];
    let report = witness::reports(witness::tests::MEMCG.iter().copied());
    for (what, falsify) in falsified {
        let mut incident = agreeing();
        falsify(&mut incident);
        let tally = compare(&incident, &report[0], TERMS);
        ensure!(!tally.off.is_empty(), "a false {what} goes unnoticed");
    }
    Ok(())
}

pub(crate) fn only_a_victim_under_a_weak_hook_may_move_on() -> anyhow::Result<()> {
    let report = witness::reports(witness::tests::MEMCG.iter().copied());
    let late = Terms {
        late: true,
        ..TERMS
    };
    let differences = |candidate: usize, decision: &str, terms: Terms| {
        let mut incident = agreeing();
        let rungs = &mut incident.source.rungs;
        rungs.insert("decision".to_owned(), decision.to_owned());
        more(&mut incident.candidates[candidate].file_bytes);
        compare(&incident, &report[0], terms).off.len()
    };
    let (victim, other) = (1, 2);
    ensure!(differences(victim, "raw_tp mark_victim", late) == 0);
    ensure!(differences(other, "raw_tp mark_victim", late) > 0);
    ensure!(differences(victim, "fentry oom_kill_process", late) > 0);
    ensure!(differences(victim, "raw_tp mark_victim", TERMS) > 0);
    Ok(())
}

fn trigger(incident: &mut Incident) -> &mut Trigger {
    incident
        .trigger
        .as_mut()
        .expect("an agreeing incident has a trigger")
}

fn more(value: &mut Option<u64>) {
    *value = value.map(|value| value + PAGE);
}
