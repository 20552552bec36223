//! Memory in sum: what no single line of a process list shows.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::incident::{Group, Incident};
use crate::view::units::{bytes, count, many, name, path, percent};
use crate::view::why::limit_mark;

use super::layout::{Page, Tone};
use super::table::{self, Column, Kind, Row};

const ROWS: usize = 12;

/// Processes in sum by name.
pub(super) fn by_name(incident: &Incident, page: &mut Page<'_, impl Write>) -> io::Result<()> {
    const COLUMNS: [Column; 8] = [
        Column::new("NAME", Kind::Words(12), 9),
        Column::new("COUNT", Kind::Figure, 9),
        Column::new("RESIDENT", Kind::Figure, 9),
        Column::new("SWAP", Kind::Figure, 7),
        Column::new("SHARE", Kind::Figure, 5),
        Column::new("TOP SCORE", Kind::Figure, 6),
        Column::new("LARGEST", Kind::Figure, 4),
        Column::new("", Kind::Note(21), 8),
    ];
    let groups = incident.by_name();
    if groups.is_empty() {
        return Ok(());
    }
    let all = whole(incident);
    let mut killed = BTreeMap::new();
    for victim in incident
        .victims
        .iter()
        .filter(|victim| victim.killed != Some(false))
    {
        *killed.entry(&victim.comm).or_insert(0usize) += 1;
    }
    let row = |group: &Group<'_, _>| {
        let killed = killed.get(group.key).copied().unwrap_or(0);
        Row {
            marked: killed > 0,
            cells: vec![
                Some(name(group.key)),
                Some(many(group.processes)),
                resident(group),
                group.swap_bytes.map(bytes),
                group
                    .held_bytes()
                    .zip(all)
                    .and_then(|(part, whole)| percent(part, whole)),
                top_score(group),
                group.largest.held_bytes().map(bytes),
                Some(if killed > 0 {
                    format!("{} killed", many(killed))
                } else {
                    String::new()
                }),
            ],
        }
    };
    let (shown, hidden) = split(&groups, |group| killed.contains_key(group.key));
    page.heading("BY NAME", &frame(incident, "processes", "memory in sum"))?;
    table::write(
        &COLUMNS,
        &shown.into_iter().map(row).collect::<Vec<_>>(),
        page,
    )?;
    more(&hidden, "names", page)
}

/// Processes in sum by the cgroup that they are in.
pub(super) fn by_cgroup(incident: &Incident, page: &mut Page<'_, impl Write>) -> io::Result<()> {
    const COLUMNS: [Column; 8] = [
        Column::new("CGROUP", Kind::Path(20), 9),
        Column::new("COUNT", Kind::Figure, 8),
        Column::new("RESIDENT", Kind::Figure, 8),
        Column::new("SWAP", Kind::Figure, 7),
        Column::new("SHARE", Kind::Figure, 4),
        Column::new("USAGE", Kind::Figure, 5),
        Column::new("LIMIT", Kind::Figure, 6),
        Column::new("", Kind::Note(24), 9),
    ];
    let groups = incident.by_cgroup();
    if groups.is_empty() {
        return Ok(());
    }
    let all = whole(incident);
    let mut killed = BTreeMap::new();
    for victim in incident
        .victims
        .iter()
        .filter(|victim| victim.killed != Some(false))
    {
        if let Some(cgroup) = victim.cgroup {
            *killed.entry(cgroup).or_insert(0usize) += 1;
        }
    }
    let row = |group: &Group<'_, u64>| {
        let cgroup = incident.cgroup(group.key);
        let mark = cgroup.and_then(|cgroup| limit_mark(incident, cgroup));
        let mut notes = Vec::from_iter(mark.map(str::to_owned));
        let killed = killed.get(&group.key).copied().unwrap_or(0);
        if killed > 0 {
            notes.push(format!("{} killed", many(killed)));
        }
        let path = cgroup.map(|cgroup| path(&cgroup.path));
        Row {
            marked: killed > 0,
            cells: vec![
                Some(path.unwrap_or_else(|| format!("(id {})", group.key))),
                Some(many(group.processes)),
                resident(group),
                group.swap_bytes.map(bytes),
                group
                    .held_bytes()
                    .zip(all)
                    .and_then(|(part, whole)| percent(part, whole)),
                cgroup.and_then(|cgroup| cgroup.usage_bytes).map(bytes),
                cgroup.map(|cgroup| cgroup.max_bytes.map_or_else(String::new, bytes)),
                Some(notes.join(", ")),
            ],
        }
    };
    let (shown, hidden) = split(&groups, |group| {
        killed.contains_key(&group.key) || incident.oom_cgroup == Some(group.key)
    });
    page.heading("BY CGROUP", "memory held by the processes directly in each")?;
    table::write(
        &COLUMNS,
        &shown.into_iter().map(row).collect::<Vec<_>>(),
        page,
    )?;
    more(&hidden, "cgroups", page)
}

/// The first rows and those that must be seen; and the rest.
fn split<'g, 'a, K>(
    groups: &'g [Group<'a, K>],
    must: impl Fn(&Group<'a, K>) -> bool,
) -> (Vec<&'g Group<'a, K>>, Vec<&'g Group<'a, K>>) {
    // One row more is shorter than the line that says it is missing.
    let first = if groups.len() <= ROWS + 1 {
        groups.len()
    } else {
        ROWS
    };
    let mut seen = 0;
    let (shown, hidden): (Vec<_>, Vec<_>) = groups.iter().enumerate().partition(|(at, group)| {
        let extra = *at >= first && must(group) && seen < ROWS;
        seen += usize::from(extra);
        *at < first || extra
    });
    let plain = |list: Vec<(usize, &'g Group<'a, K>)>| list.into_iter().map(|(_, g)| g).collect();
    (plain(shown), plain(hidden))
}

/// States what is not shown.
fn more<K>(
    hidden: &[&Group<'_, K>],
    what: &str,
    page: &mut Page<'_, impl Write>,
) -> io::Result<()> {
    if hidden.is_empty() {
        return Ok(());
    }
    let processes: usize = hidden.iter().map(|group| group.processes).sum();
    let held = hidden.iter().filter_map(|group| group.held_bytes());
    let held = held.fold(0u64, u64::saturating_add);
    let line = format!(
        "… {} more {what}: {} processes, {} in sum",
        many(hidden.len()),
        many(processes),
        bytes(held)
    );
    page.wrapped("  ", Tone::Quiet, &line)
}

/// Resident memory in sum, `≥` where some of it is not known.
fn resident<K>(group: &Group<'_, K>) -> Option<String> {
    let sum = group.resident_bytes.map(bytes)?;
    Some(if group.unknown > 0 {
        format!("≥{sum}")
    } else {
        sum
    })
}

/// What all hold together; `None` where some of it is not known, as there are no shares of that.
fn whole(incident: &Incident) -> Option<u64> {
    incident
        .all_in_reach()
        .filter(|all| all.unknown == 0)?
        .held_bytes()
}

/// `-` where none could be chosen.
fn top_score<K>(group: &Group<'_, K>) -> Option<String> {
    match group.choosable {
        0 => Some("-".into()),
        _ => group.top_score.map(count),
    }
}

/// What the figures are about.
pub(super) fn frame(incident: &Incident, subject: &str, remark: &str) -> String {
    let limited = incident.oom_cgroup.and_then(|id| incident.cgroup(id));
    match limited {
        Some(cgroup) => format!("{subject} in {}, {remark}", path(&cgroup.path)),
        None => remark.to_owned(),
    }
}
