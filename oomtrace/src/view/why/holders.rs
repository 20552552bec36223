//! Where the memory is.

use crate::incident::{Group, Incident, Scope, Text};
use crate::view::units::{bytes, count, many, name, path, percent, process};

/// Who holds most, taken together by name.
pub(super) fn by_name(incident: &Incident) -> Option<String> {
    let groups = incident.by_name();
    let top = groups.first().filter(|top| top.held_bytes() > Some(0))?;
    let all = incident.all_in_reach()?;
    let share = match (top.held_bytes(), all.held_bytes()) {
        (Some(part), Some(whole)) if all.unknown == 0 && part < whole => percent(part, whole),
        _ => None,
    };
    let share = share.map_or_else(String::new, |share| {
        format!(", {share} of what processes hold{}", within(incident))
    });
    let largest = process(&top.largest.comm, top.largest.pid);
    if top.processes == 1 {
        return Some(format!("{largest} holds the most: {}{share}.", held(top)));
    }
    let together = format!(
        "{} ×{} hold {} together{share}",
        name(top.key),
        many(top.processes),
        held(top)
    );
    Some(match versus_chosen(incident, top) {
        Some(versus) => format!("{together}{versus}"),
        None => format!("{together}."),
    })
}

/// How the sum by name compares with the single process that was chosen.
fn versus_chosen(incident: &Incident, top: &Group<'_, &Text>) -> Option<String> {
    let chosen = incident.chosen_candidate()?;
    let who = process(&chosen.comm, chosen.pid);
    let one = chosen.held_bytes()?;
    if &chosen.comm == top.key {
        let alone = incident.victims.len() < 2;
        let only =
            alone.then(|| format!(". {who}, the one chosen, holds only {} of it.", bytes(one)));
        return only.filter(|_| top.held_bytes() > one.checked_mul(2));
    }
    let more = if top.held_bytes() > Some(one) {
        ", more than"
    } else {
        ", beside"
    };
    let score = chosen
        .compared_score()
        .filter(|_| !incident.took_the_asker())?;
    let each = top.top_score.filter(|each| *each < score)?;
    Some(format!(
        "{more} {who} ({}). But each of them scores {} at most: the kernel compares single \
         processes, never sums, so it chose {who}.",
        bytes(one),
        count(each)
    ))
}

/// Which cgroups the memory lies in, where there are several.
pub(super) fn by_cgroup(incident: &Incident) -> Option<String> {
    let groups = incident.by_cgroup();
    let holding: Vec<_> = groups.iter().filter(|g| g.held_bytes() > Some(0)).collect();
    if holding.len() < 2 {
        return None;
    }
    let shown: Vec<String> = holding
        .iter()
        .take(3)
        .filter_map(|group| {
            let cgroup = incident.cgroup(group.key)?;
            let processes = match group.processes {
                1 => "1 process".to_owned(),
                n => format!("{} processes", many(n)),
            };
            Some(format!(
                "{} {} ({processes})",
                path(&cgroup.path),
                held(group)
            ))
        })
        .collect();
    let rest = match holding.len().saturating_sub(shown.len()) {
        0 => String::new(),
        n => format!(", and {} more", many(n)),
    };
    (!shown.is_empty()).then(|| format!("By cgroup: {}{rest}.", shown.join(", ")))
}

/// Says so when the sums by process exceed what is really in use.
pub(super) fn counted_twice(incident: &Incident) -> Option<String> {
    let resident = incident.all_in_reach()?.resident_bytes?;
    let (used, whose) = in_use(incident)?;
    (resident > used).then(|| {
        format!(
            "The processes{} add up to {} resident, more than the {} that {whose}: a page that \
             several processes map is counted in each of them.",
            within(incident),
            bytes(resident),
            bytes(used)
        )
    })
}

/// Says so when a good part of what is in use belongs to no process.
pub(super) fn nobody_owns(incident: &Incident) -> Option<String> {
    let all = incident.all_in_reach().filter(|all| all.unknown == 0)?;
    let resident = all.resident_bytes?;
    let (used, whose) = in_use(incident)?;
    let huge = if incident.scope == Some(Scope::Global) {
        ", huge pages"
    } else {
        ""
    };
    let rest = used.checked_sub(resident)?;
    (rest > used / 4).then(|| {
        format!(
            "The processes{} hold {} of the {} that {whose}. The other {} or more belong to no \
             process: page cache, tmpfs files, kernel memory{huge}. Killing processes frees \
             little of that.",
            within(incident),
            bytes(resident),
            bytes(used),
            bytes(rest)
        )
    })
}

/// What is in use where memory ran out, and the words for it.
fn in_use(incident: &Incident) -> Option<(u64, &'static str)> {
    match incident.scope? {
        Scope::Memcg => {
            let cgroup = incident.cgroup(incident.oom_cgroup?)?;
            Some((cgroup.usage_bytes?, "the cgroup uses"))
        }
        Scope::Global => {
            let free = incident.system.as_ref()?.free_bytes?;
            Some((incident.host.ram_bytes?.checked_sub(free)?, "are in use"))
        }
        Scope::Cpuset | Scope::Mempolicy | Scope::Sysrq => None,
    }
}

/// ` in /shop.slice`, where a cgroup is the frame.
fn within(incident: &Incident) -> String {
    let limited = incident.oom_cgroup.and_then(|id| incident.cgroup(id));
    limited.map_or_else(String::new, |cgroup| format!(" in {}", path(&cgroup.path)))
}

/// `402 MiB`, `402 MiB of RAM and 120 MiB of swap`; "at least" where some figures are missing.
fn held<K>(group: &Group<'_, K>) -> String {
    let at_least = if group.unknown > 0 { "at least " } else { "" };
    match (group.resident_bytes, group.swap_bytes) {
        (Some(ram), Some(swap)) if swap > 0 => {
            format!(
                "{at_least}{} of RAM and {} of swap",
                bytes(ram),
                bytes(swap)
            )
        }
        (Some(ram), _) => format!("{at_least}{}", bytes(ram)),
        (None, Some(swap)) => format!("{} of swap", bytes(swap)),
        (None, None) => "an unknown amount".into(),
    }
}
