//! The verdict: when and where, what ran out, who asked, who was killed.

use std::io::{self, Write};

use crate::incident::{Gfp, Host, Incident, Outcome, Role, Scope, Swap, System, Trigger, Victim};
use crate::view::units::{
    bytes, count, cut, duration, full_path, many, moment, name, process, quoted, words,
};
use crate::view::why::{requested_bytes, tightest_limit};

use super::layout::{Page, Tone};

/// Writes the head of the report.
pub(super) fn write(incident: &Incident, page: &mut Page<'_, impl Write>) -> io::Result<()> {
    page.wrapped("", Tone::Heading, &headline(incident))?;
    for (label, text) in [
        ("limit", limit(incident)),
        ("host", host(incident)),
        (
            "asked by",
            incident
                .trigger
                .as_ref()
                .map(|trigger| asked(trigger, incident)),
        ),
    ] {
        if let Some(text) = text {
            page.wrapped(&format!("  {label:<10}"), Tone::Plain, &text)?;
        }
    }
    killed(incident, page)
}

fn headline(incident: &Incident) -> String {
    let Host {
        hostname,
        boot_id: _,
        kernel,
        arch: _,
        page_size: _,
        cpus: _,
        ram_bytes: _,
        swap_total_bytes: _,
    } = &incident.host;
    let what = match incident.outcome {
        None if incident.chosen.is_none() && incident.victims.is_empty() => "OOM",
        None | Some(Outcome::Killed) => "OOM KILL",
        Some(Outcome::AlreadyDying | Outcome::NoKillableProcess) => "OOM, NO KILL",
        Some(Outcome::Panic) => "OOM, KERNEL PANIC",
    };
    let parts = [
        Some(what.to_owned()),
        moment(&incident.time, "%Y-%m-%d %H:%M:%S UTC"),
        hostname.as_ref().map(name),
        kernel.as_ref().map(name),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("  ")
}

/// The limit that was hit.
fn limit(incident: &Incident) -> Option<String> {
    match incident.scope? {
        Scope::Global => return Some("no cgroup limit: the host itself ran out of memory".into()),
        Scope::Cpuset => return Some("the NUMA nodes of a cpuset".into()),
        Scope::Mempolicy => return Some("the NUMA nodes of a memory policy".into()),
        Scope::Sysrq => return Some("no limit: somebody ordered this kill (sysrq-f)".into()),
        Scope::Memcg => {}
    }
    let Some(cgroup) = incident.oom_cgroup.and_then(|id| incident.cgroup(id)) else {
        return Some("that of a cgroup (not known which)".into());
    };
    let path = full_path(&cgroup.path);
    let Some(limit) = tightest_limit(cgroup) else {
        return Some(format!("that of {path}"));
    };
    let mut text = format!("{} of {path}: {}", limit.file, bytes(limit.max_bytes));
    match limit.usage_bytes {
        Some(usage) if usage >= limit.max_bytes => text += ", all of it used",
        Some(usage) => {
            text += &format!(", all but {} used", bytes(limit.max_bytes - usage));
        }
        None => {}
    }
    // Both count the limit for memory alone.
    let hits = cgroup
        .failcnt
        .or_else(|| cgroup.events?.max)
        .filter(|hits| *hits > 0);
    if let Some(hits) = hits.filter(|_| limit.what == "memory") {
        text += &format!(" (hit {} times so far)", count(hits));
    }
    Some(text)
}

/// RAM and swap of the host.
fn host(incident: &Incident) -> Option<String> {
    let mut parts = Vec::new();
    let system = incident.system.clone().unwrap_or_default();
    let System { free_bytes, swap } = system;
    match (incident.host.ram_bytes, free_bytes) {
        (Some(ram), Some(free)) => parts.push(format!("{} RAM, {} free", bytes(ram), bytes(free))),
        (Some(ram), None) => parts.push(format!("{} RAM", bytes(ram))),
        (None, Some(free)) => parts.push(format!("{} RAM free", bytes(free))),
        (None, None) => {}
    }
    match (swap, incident.host.swap_total_bytes) {
        (
            Some(Swap {
                total_bytes: 0,
                free_bytes: _,
            }),
            _,
        )
        | (None, Some(0)) => {
            parts.push("no swap".into());
        }
        (
            Some(Swap {
                total_bytes,
                free_bytes,
            }),
            _,
        ) => {
            parts.push(format!(
                "swap {}, {} free",
                bytes(total_bytes),
                bytes(free_bytes)
            ));
        }
        (None, Some(total)) => parts.push(format!("swap {}", bytes(total))),
        (None, None) => {}
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// Who asked, for how much, of what kind, in doing what.
fn asked(trigger: &Trigger, incident: &Incident) -> String {
    let Trigger {
        pid,
        tgid,
        comm,
        cmdline: _,
        cgroup: _,
        oom_score_adj: _,
        gfp,
        order,
        stack: _,
        reclaim_stall_ns,
    } = trigger;
    let mut parts = vec![process(comm, *pid)];
    if let Some(tgid) = tgid.filter(|tgid| tgid != pid) {
        parts[0] += &format!(" (a thread of {tgid})");
    }
    if let Some(order) = order.filter(|order| *order >= 0) {
        let size = requested_bytes(trigger, incident.host.page_size);
        let size = size.map_or_else(String::new, |size| format!(" ({})", bytes(size)));
        parts.push(format!("order {order}{size}"));
    }
    if let Some(Gfp { raw, names }) = gfp {
        parts.push(match names.as_slice() {
            [] => format!("gfp {raw:#x}"),
            names => cut(&words(&names.join("|")), 120),
        });
    }
    parts.extend(doing(trigger));
    if let Some(ns) = reclaim_stall_ns.filter(|ns| *ns > 0) {
        parts.push(format!("after {} in reclaim", duration(ns)));
    }
    parts.join(", ")
}

/// What the asker was doing, where its stack tells.
fn doing(trigger: &Trigger) -> Option<String> {
    let symbols = || {
        trigger
            .stack
            .iter()
            .filter_map(|frame| frame.symbol.as_deref())
    };
    let call = |symbol: &str| {
        let prefixes = ["__x64_sys_", "__ia32_sys_", "__arm64_sys_"];
        prefixes
            .iter()
            .find_map(|prefix| symbol.strip_prefix(prefix))
            .map(|call| cut(&words(call), 30))
    };
    // The outermost entry decides: a system call may fault on the memory of its caller.
    symbols()
        .filter_map(call)
        .next_back()
        .map(|call| format!("system call {call}"))
        .or_else(|| {
            let fault = |symbol: &str| symbol.contains("page_fault") || symbol == "do_mem_abort";
            symbols().any(fault).then(|| "page fault".into())
        })
}

/// The chosen one at length, the others by count.
fn killed(incident: &Incident, page: &mut Page<'_, impl Write>) -> io::Result<()> {
    let label = match incident.outcome {
        Some(Outcome::AlreadyDying) => "dying",
        Some(Outcome::NoKillableProcess | Outcome::Panic) => "chosen",
        Some(Outcome::Killed) | None => "killed",
    };
    let lead = format!("  {label:<10}");
    let room = page.width - 20;
    if let Some(victim) = incident.chosen_victim() {
        let score = incident.chosen.and_then(|chosen| chosen.score);
        page.wrapped(&lead, Tone::Victim, &described(victim, score, room))?;
    } else if let Some(candidate) = incident.chosen_candidate() {
        page.wrapped(
            &lead,
            Tone::Victim,
            &process(&candidate.comm, candidate.pid),
        )?;
    } else if let Some(chosen) = incident.chosen {
        page.wrapped(&lead, Tone::Victim, &format!("pid {}", chosen.pid))?;
    }
    for (role, why) in [
        (Role::GroupMember, "of the same memory.oom.group"),
        (Role::MmSharer, "sharing its memory"),
    ] {
        let with: Vec<&Victim> = incident.victims.iter().filter(|v| v.role == role).collect();
        let Some(first) = with.first() else { continue };
        let text = match with.len() {
            1 => format!("{}, {why}", process(&first.comm, first.pid)),
            n => format!(
                "{} more {why}, {} first",
                many(n),
                process(&first.comm, first.pid)
            ),
        };
        page.wrapped("  and       ", Tone::Victim, &text)?;
    }
    Ok(())
}

fn described(victim: &Victim, score: Option<i64>, room: usize) -> String {
    let Victim {
        pid,
        tgid,
        start_boot_ns: _,
        comm,
        cmdline,
        uid,
        cgroup: _,
        oom_score_adj,
        anon_bytes,
        file_bytes,
        shmem_bytes,
        swap_bytes,
        pgtables_bytes: _,
        total_vm_bytes: _,
        role: _,
        killed,
        killed_ns: _,
    } = victim;
    let mut parts = vec![process(comm, *pid)];
    if pid != tgid {
        parts[0] += &format!(" (a thread of {tgid})");
    }
    if let Some(cmdline) = cmdline.as_ref().filter(|cmdline| !cmdline.is_empty()) {
        parts[0] += &format!(" {}", quoted(&cut(&cmdline.to_string(), room)));
    }
    if *killed == Some(false) {
        parts.push("not killed".into());
    }
    parts.extend(score.map(|score| format!("score {}", count(score))));
    let sizes = [
        ("anon", anon_bytes),
        ("file", file_bytes),
        ("shmem", shmem_bytes),
        ("swap", swap_bytes),
    ];
    for (what, size) in sizes {
        // Zero is said of swap only, where it is worth knowing.
        if let Some(size) = size.filter(|size| *size > 0 || what == "swap") {
            parts.push(format!("{what} {}", bytes(size)));
        }
    }
    parts.extend(
        oom_score_adj
            .filter(|adj| *adj != 0)
            .map(|adj| format!("oom_score_adj {adj}")),
    );
    parts.extend(uid.map(|uid| format!("uid {uid}")));
    parts.join(", ")
}
