//! Records in, incidents out.
//!
//! Pure: no clock, no files, no globals. The same records give the same incident on any machine.

use std::collections::HashSet;

use oomtrace_ebpf::event::{
    ABSENT_I64, ABSENT_U32, ABSENT_U64, Begin, RECLAIM_DIRECT, RECLAIM_MEMCG, RECLAIM_NONE,
    SNAPSHOT_ABORTED, SNAPSHOT_CAPPED, SNAPSHOT_CGROUPS_CAPPED, SNAPSHOT_HEADLESS_CAPPED,
    SNAPSHOT_TIMED_OUT, STATE_KILL_UNSEEN, STATE_KILLED, STATE_TORN, Victim as VictimRecord,
};

use crate::{
    incident::{
        self, Chosen, Gap, Gfp, Host, Incident, Outcome, Role, Scope, Source, SourceKind, Swap,
        System, Text, Time, Trigger, Victim,
    },
    record::{Parts, Session},
};

mod candidate;
mod cgroup;
mod scope;
#[cfg(test)]
mod tests;

pub(crate) use cgroup::has_oom_group;

/// Puts an incident together.
pub fn assemble(session: &Session, parts: &Parts) -> Incident {
    let mut gaps = gaps(parts);
    let cgroups = cgroup::tree(session, parts, &mut gaps);
    let mut incident = Incident {
        id: id(&session.host, parts),
        source: Source {
            kind: SourceKind::Live,
            rungs: session.rungs.clone(),
        },
        time: time(parts),
        host: session.host.clone(),
        cgroups,
        kernel_threads: parts
            .snapshot
            .as_ref()
            .map(|snapshot| snapshot.kernel_threads),
        snapshot_ns: parts.snapshot.as_ref().map(|snapshot| snapshot.took_ns),
        ..Incident::default()
    };
    if let Some(begin) = &parts.begin {
        incident.message =
            Some(Text::from_padded(&begin.message).to_string()).filter(|text| !text.is_empty());
        incident.trigger = Some(trigger(session, parts, begin));
        incident.system = system(session, begin);
        scope::decide(&mut incident, session, begin, &mut gaps);
        incident.chosen = chosen(&incident, begin);
    }
    incident.candidates = candidate::all(session, parts, &incident);
    incident.victims = victims(session, parts);
    finish_victims(&mut incident, parts);
    incident.gaps = gaps;
    incident
}

fn id(host: &Host, parts: &Parts) -> String {
    let boot = host.boot_id.as_deref().unwrap_or("unknown-");
    let boot_ns = start_ns(parts).unwrap_or(0);
    format!("{}-{boot_ns}", boot.get(..8).unwrap_or(boot))
}

fn start_ns(parts: &Parts) -> Option<u64> {
    parts
        .begin
        .as_ref()
        .map(|begin| begin.header.time_ns)
        .or_else(|| {
            parts
                .snapshot
                .as_ref()
                .map(|snapshot| snapshot.header.time_ns)
        })
        .or_else(|| parts.victims.first().map(|victim| victim.header.time_ns))
}

fn time(parts: &Parts) -> Time {
    let boot_ns = start_ns(parts);
    let wall = boot_ns
        .zip(parts.notes.wall_minus_boot_ns)
        .and_then(|(boot_ns, offset)| {
            let ns = i128::from(boot_ns) + i128::from(offset);
            let timestamp = jiff::Timestamp::from_nanosecond(ns).ok()?;
            Some(format!("{timestamp:.6}"))
        });
    Time { wall, boot_ns }
}

fn trigger(session: &Session, parts: &Parts, begin: &Begin) -> Trigger {
    let stack = begin
        .stack
        .iter()
        .take(usize::try_from(begin.stack_len).unwrap_or(0));
    let frames = stack.map(|&addr| {
        parts
            .notes
            .symbols
            .get(&addr)
            .cloned()
            .unwrap_or(incident::Frame {
                addr,
                symbol: None,
                offset: None,
            })
    });
    Trigger {
        pid: begin.pid,
        tgid: Some(begin.tgid),
        comm: Text::from_padded(&begin.comm),
        cmdline: parts
            .notes
            .cmdlines
            .get(&(begin.tgid, begin.start_boot_ns))
            .cloned(),
        cgroup: known(begin.cgroup).filter(|&id| id != 0),
        oom_score_adj: (begin.oom_score_adj != i32::MIN).then_some(begin.oom_score_adj),
        gfp: gfp(session, begin),
        order: order(begin),
        stack: frames.skip_while(is_ours).collect(),
        reclaim_stall_ns: (begin.reclaim_kind != RECLAIM_NONE)
            .then(|| known(begin.reclaim_ns))
            .flatten(),
    }
}

/// The frames of the program itself and of what called it.
fn is_ours(frame: &incident::Frame) -> bool {
    frame.symbol.as_deref().is_none_or(|symbol| {
        symbol.starts_with("bpf_")
            || symbol.starts_with("__bpf_")
            || symbol.starts_with("__traceiter_")
            || symbol.contains("trampoline")
            || symbol.starts_with("kprobe_")
            || symbol.starts_with("trace_call_bpf")
            || symbol.starts_with("perf_trace_")
            || symbol.contains("ftrace_")
    })
}

fn gfp(session: &Session, begin: &Begin) -> Option<Gfp> {
    let raw = match begin.gfp {
        ABSENT_U32 if !asked_in_reclaim(begin) => return None,
        ABSENT_U32 => begin.reclaim_gfp,
        raw => raw,
    };
    Some(Gfp {
        raw,
        names: gfp_names(&session.gfp_bits, raw),
    })
}

/// Whether the last reclaim tells what was asked for. Reclaim for a zone is given the allocation's own
/// flags and order; reclaim for a cgroup is given order 0 and flags of its own
/// (`try_to_free_mem_cgroup_pages`, mm/vmscan.c).
fn asked_in_reclaim(begin: &Begin) -> bool {
    begin.reclaim_kind == RECLAIM_DIRECT
}

/// The kernel's own way of naming flags: the largest compound that fits, then the next, then what is
/// left (`__def_gfpflag_names`, include/trace/events/mmflags.h).
fn gfp_names(bits: &[(u32, String)], raw: u32) -> Vec<String> {
    let bit = |name: &str| {
        bits.iter()
            .find(|(_, known)| known == name)
            .map(|&(mask, _)| mask)
    };
    let mask = |names: &[&str]| {
        names
            .iter()
            .try_fold(0, |mask, name| Some(mask | bit(&format!("__GFP_{name}"))?))
    };
    const RECLAIM: [&str; 2] = ["DIRECT_RECLAIM", "KSWAPD_RECLAIM"];
    let with = |more: &[&str]| mask(&[&RECLAIM[..], more].concat());
    let compounds = [
        (
            "GFP_HIGHUSER_MOVABLE",
            with(&["IO", "FS", "HARDWALL", "HIGHMEM", "MOVABLE"]),
        ),
        ("GFP_HIGHUSER", with(&["IO", "FS", "HARDWALL", "HIGHMEM"])),
        ("GFP_USER", with(&["IO", "FS", "HARDWALL"])),
        ("GFP_KERNEL_ACCOUNT", with(&["IO", "FS", "ACCOUNT"])),
        ("GFP_KERNEL", with(&["IO", "FS"])),
        ("GFP_NOFS", with(&["IO"])),
        ("GFP_NOIO", with(&[])),
    ];
    let mut left = raw;
    let mut names = Vec::new();
    for (name, mask) in compounds {
        if let Some(mask) = mask
            && left & mask == mask
        {
            names.push(name.to_owned());
            left &= !mask;
        }
    }
    for (mask, name) in bits {
        if left & mask != 0 {
            names.push(name.clone());
            left &= !mask;
        }
    }
    if left != 0 {
        names.push(format!("{left:#x}"));
    }
    names
}

fn order(begin: &Begin) -> Option<i32> {
    match begin.order {
        i32::MIN if !asked_in_reclaim(begin) => None,
        i32::MIN => Some(begin.reclaim_order),
        order => Some(order),
    }
}

fn system(session: &Session, begin: &Begin) -> Option<System> {
    let page = session.host.page_size?;
    let bytes = |pages: i64| {
        (pages != ABSENT_I64).then(|| u64::try_from(pages).unwrap_or(0).saturating_mul(page))
    };
    let free_bytes = bytes(begin.free_pages);
    let swap = bytes(begin.swap_total_pages)
        .zip(bytes(begin.swap_free_pages))
        .map(|(total_bytes, free_bytes)| Swap {
            total_bytes,
            free_bytes,
        });
    (free_bytes.is_some() || swap.is_some()).then_some(System { free_bytes, swap })
}

fn chosen(incident: &Incident, begin: &Begin) -> Option<Chosen> {
    if begin.chosen_pid == ABSENT_U32 {
        return None;
    }
    // `vm.oom_kill_allocating_task` takes the asker without comparing; the points stay at zero.
    let compared = !incident
        .message
        .as_deref()
        .is_some_and(|message| message.contains("oom_kill_allocating_task"));
    let score = (compared && begin.chosen_points != ABSENT_I64).then_some(begin.chosen_points);
    Some(Chosen {
        pid: begin.chosen_pid,
        score,
    })
}

/// The victims by their records; one process counts once, by its first mark.
fn victims(session: &Session, parts: &Parts) -> Vec<Victim> {
    let mut victims: Vec<Victim> = Vec::with_capacity(parts.victims.len());
    for record in &parts.victims {
        let victim = victim(session, parts, record);
        if !victims.iter().any(|known| known.tgid == victim.tgid) {
            victims.push(victim);
        }
    }
    victims
}

fn victim(session: &Session, parts: &Parts, record: &VictimRecord) -> Victim {
    let mut row = record.row;
    if row.tgid == ABSENT_U32 {
        // The mark gave a number only; the walk met the task itself.
        if let Some(seen) = parts.rows.iter().find(|seen| seen.pid == row.pid) {
            let state = row.state;
            row = *seen;
            row.state |= state;
        } else {
            row.tgid = row.pid;
        }
    }
    let seen = candidate::from_row(session, &parts.notes, &row);
    Victim {
        pid: seen.pid,
        tgid: seen.tgid,
        start_boot_ns: seen.start_boot_ns,
        comm: seen.comm,
        cmdline: seen.cmdline,
        uid: seen.uid,
        cgroup: seen.cgroup,
        oom_score_adj: seen.oom_score_adj,
        anon_bytes: seen.anon_bytes,
        file_bytes: seen.file_bytes,
        shmem_bytes: seen.shmem_bytes,
        swap_bytes: seen.swap_bytes,
        pgtables_bytes: seen.pgtables_bytes,
        total_vm_bytes: seen.total_vm_bytes,
        role: Role::GroupMember,
        killed: match row.state {
            state if state & STATE_KILLED != 0 => Some(true),
            state if state & STATE_KILL_UNSEEN != 0 => None,
            _ => Some(false),
        },
        killed_ns: parts
            .begin
            .as_ref()
            .map(|begin| record.header.time_ns.saturating_sub(begin.header.time_ns)),
    }
}

/// Settles who is what, and what came of it.
fn finish_victims(incident: &mut Incident, parts: &Parts) {
    // `oom_control.chosen` is the leader, which may have exited; what counts is the thread that has the
    // memory, as in the table of candidates and in the kernel's own report.
    let chosen = match &mut incident.chosen {
        Some(chosen) => {
            let holder = incident
                .candidates
                .iter()
                .find(|candidate| candidate.tgid == chosen.pid || candidate.pid == chosen.pid);
            let tgid = holder.map_or(chosen.pid, |holder| holder.tgid);
            chosen.pid = holder.map_or(chosen.pid, |holder| holder.pid);
            Some(tgid)
        }
        // The first mark of a decision is the chosen one's.
        None => incident.victims.first().map(|victim| victim.tgid),
    };
    if let (None, Some(first)) = (incident.chosen, incident.victims.first()) {
        incident.chosen = Some(Chosen {
            pid: first.pid,
            score: None,
        });
    }
    for victim in &mut incident.victims {
        if Some(victim.tgid) == chosen {
            victim.role = Role::Chosen;
        }
    }
    add_sharers(incident);
    incident.outcome = outcome(incident, parts);
}

/// `__oom_kill_process` also kills every process that shares the mm, without marking it.
fn add_sharers(incident: &mut Incident) {
    let marked: HashSet<u32> = incident.victims.iter().map(|victim| victim.tgid).collect();
    let shared: HashSet<u32> = incident
        .candidates
        .iter()
        .filter(|candidate| marked.contains(&candidate.tgid))
        .filter_map(|candidate| candidate.mm)
        .collect();
    let mut sharers = Vec::new();
    for candidate in &incident.candidates {
        let shares = candidate.mm.is_some_and(|mm| shared.contains(&mm))
            && !marked.contains(&candidate.tgid)
            && candidate.skip_reason != Some(incident::SkipReason::Init);
        if shares {
            sharers.push(Victim {
                pid: candidate.pid,
                tgid: candidate.tgid,
                start_boot_ns: candidate.start_boot_ns,
                comm: candidate.comm.clone(),
                cmdline: candidate.cmdline.clone(),
                uid: candidate.uid,
                cgroup: candidate.cgroup,
                oom_score_adj: candidate.oom_score_adj,
                anon_bytes: candidate.anon_bytes,
                file_bytes: candidate.file_bytes,
                shmem_bytes: candidate.shmem_bytes,
                swap_bytes: candidate.swap_bytes,
                pgtables_bytes: candidate.pgtables_bytes,
                total_vm_bytes: candidate.total_vm_bytes,
                role: Role::MmSharer,
                killed: None,
                killed_ns: None,
            });
        }
    }
    incident.victims.extend(sharers);
}

fn outcome(incident: &Incident, parts: &Parts) -> Option<Outcome> {
    let marked = || {
        incident
            .victims
            .iter()
            .filter(|victim| victim.role != Role::MmSharer)
    };
    if marked().any(|victim| victim.killed != Some(false)) {
        return Some(Outcome::Killed);
    }
    if marked().next().is_some() {
        return Some(Outcome::AlreadyDying);
    }
    let lost = parts.close.is_none_or(|close| close.victims_lost != 0);
    // `oom_kill_process` may find that the chosen one has no memory left and return.
    (!lost).then_some(Outcome::AlreadyDying)
}

fn gaps(parts: &Parts) -> Vec<Gap> {
    let mut gaps = Vec::new();
    let mut gap = |what: &str, count: Option<u64>, why: &str| {
        gaps.push(Gap {
            what: what.into(),
            count,
            why: why.into(),
        });
    };
    if let Some(why) = &parts.notes.unfinished {
        gap("aftermath", None, why);
    }
    if parts.begin.is_none() {
        gap(
            "decision",
            Some(1),
            "the reserved ring was full; who asked and what ran out is lost",
        );
    }
    match &parts.snapshot {
        None => gap(
            "snapshot",
            Some(1),
            "its end was never seen, so the counts are unknown",
        ),
        Some(snapshot) => {
            let received = u32::try_from(parts.rows.len()).unwrap_or(u32::MAX);
            if received < snapshot.rows {
                let lost = u64::from(snapshot.rows - received);
                gap("candidates", Some(lost), "the bulk ring was full");
            }
            if snapshot.cgroups_lost != 0 {
                let lost = u64::from(snapshot.cgroups_lost);
                gap("cgroups", Some(lost), "the reserved ring was full");
            }
            for (bit, what, why) in [
                (
                    SNAPSHOT_CAPPED,
                    "candidates",
                    "the walk stopped at its limit of processes",
                ),
                (
                    SNAPSHOT_TIMED_OUT,
                    "candidates",
                    "the walk stopped at its limit of time",
                ),
                (
                    SNAPSHOT_ABORTED,
                    "candidates",
                    "the walk could not follow the list to its end",
                ),
                (
                    SNAPSHOT_HEADLESS_CAPPED,
                    "candidates",
                    "there were more exited leaders than are kept track of",
                ),
                (
                    SNAPSHOT_CGROUPS_CAPPED,
                    "cgroups",
                    "there were more than are kept track of",
                ),
            ] {
                if snapshot.flags & bit != 0 {
                    gap(what, None, why);
                }
            }
        }
    }
    if let Some(close) = &parts.close {
        let received = u32::try_from(parts.victims.len()).unwrap_or(u32::MAX);
        if received < close.victims {
            let lost = u64::from(close.victims - received);
            gap("victims", Some(lost), "the reserved ring was full");
        }
    }
    let torn = parts
        .rows
        .iter()
        .filter(|row| row.state & STATE_TORN != 0)
        .count();
    if torn != 0 {
        gap(
            "candidates",
            Some(torn as u64),
            "exited while they were read; their memory is unknown",
        );
    }
    gaps
}

fn known(value: u64) -> Option<u64> {
    (value != ABSENT_U64).then_some(value)
}

/// The reclaim that led here, if one was seen.
fn reclaim_scope(begin: &Begin) -> Option<Scope> {
    match begin.reclaim_kind {
        RECLAIM_DIRECT => Some(Scope::Global),
        RECLAIM_MEMCG => Some(Scope::Memcg),
        _ => None,
    }
}
