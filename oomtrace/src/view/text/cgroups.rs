//! The cgroups that mattered, from the root down, with their limits.

use std::collections::BTreeSet;
use std::io::{self, Write};

use crate::incident::{Cgroup, CgroupEvents, Incident, Text};
use crate::view::units::{bytes, count, many, path};
use crate::view::why::limit_mark;

use super::layout::{Page, Tone};
use super::table::{self, Column, Kind, Row};

const ROWS: usize = 24;

const COLUMNS: [Column; 11] = [
    Column::new("CGROUP", Kind::Path(22), 9),
    Column::new("USAGE", Kind::Figure, 7),
    Column::new("LIMIT", Kind::Figure, 9),
    Column::new("PEAK", Kind::Figure, 2),
    Column::new("HIGH", Kind::Figure, 5),
    Column::new("SWAP", Kind::Figure, 6),
    Column::new("SWAP LIMIT", Kind::Figure, 4),
    Column::new("MEM+SWAP", Kind::Figure, 3),
    Column::new("ITS LIMIT", Kind::Figure, 3),
    Column::new("OOM KILLS", Kind::Figure, 1),
    Column::new("", Kind::Note(24), 8),
];

/// Writes the chains from the root to the limit, to the asker and to each victim.
pub(super) fn write(incident: &Incident, page: &mut Page<'_, impl Write>) -> io::Result<()> {
    let mut leaves = BTreeSet::new();
    leaves.extend(incident.oom_cgroup);
    leaves.extend(incident.trigger.as_ref().and_then(|trigger| trigger.cgroup));
    leaves.extend(incident.chosen_candidate().and_then(|chosen| chosen.cgroup));
    leaves.extend(incident.victims.iter().filter_map(|victim| victim.cgroup));
    let mut chain = BTreeSet::new();
    for leaf in leaves {
        let mut at = Some(leaf);
        // A chain that bites its own tail ends where it meets itself.
        while let Some(cgroup) = at.and_then(|id| incident.cgroup(id)) {
            at = if chain.insert(cgroup.id) {
                cgroup.parent
            } else {
                None
            };
        }
    }
    let mut listed: Vec<&Cgroup> = incident
        .cgroups
        .iter()
        .filter(|cgroup| chain.contains(&cgroup.id))
        .collect();
    // Name by name, so that children follow their parent.
    listed.sort_by(|a, b| names(&a.path).cmp(names(&b.path)));
    if listed.is_empty() {
        return Ok(());
    }
    page.heading("CGROUPS", "limit, asker and victims, from the root down")?;
    let rows: Vec<Row> = listed
        .iter()
        .take(ROWS)
        .map(|cgroup| row(incident, cgroup))
        .collect();
    table::write(&COLUMNS, &rows, page)?;
    match listed.len().saturating_sub(ROWS) {
        0 => Ok(()),
        n => page.wrapped(
            "  ",
            Tone::Quiet,
            &format!("… {} more cgroups with victims", many(n)),
        ),
    }
}

/// Names of a path; the root has none.
fn names(path: &Text) -> impl Iterator<Item = &[u8]> {
    path.as_bytes()
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
}

fn row(incident: &Incident, cgroup: &Cgroup) -> Row {
    let Cgroup {
        id,
        path: at,
        version: _,
        parent: _,
        usage_bytes,
        max_bytes,
        high_bytes,
        low_bytes: _,
        min_bytes: _,
        peak_bytes,
        swap_bytes,
        swap_max_bytes,
        memsw_bytes,
        memsw_max_bytes,
        kmem_bytes: _,
        failcnt: _,
        swappiness: _,
        events,
        events_local: _,
        oom_group,
        oom_kill_disable,
    } = cgroup;
    let mut notes = Vec::from_iter(limit_mark(incident, cgroup));
    if incident
        .victims
        .iter()
        .any(|v| v.cgroup == Some(*id) && v.killed != Some(false))
    {
        notes.push("killed");
    }
    if incident
        .trigger
        .as_ref()
        .is_some_and(|trigger| trigger.cgroup == Some(*id))
    {
        notes.push("asked");
    }
    if *oom_group == Some(true) {
        notes.push("oom.group");
    }
    if *oom_kill_disable == Some(true) {
        notes.push("OOM killer off");
    }
    let oom_kills = events.and_then(|events| {
        let CgroupEvents {
            low: _,
            high: _,
            max: _,
            oom: _,
            oom_kill,
            oom_group_kill: _,
        } = events;
        oom_kill
    });
    Row {
        marked: incident.oom_cgroup == Some(*id),
        cells: vec![
            Some(path(at)),
            Some(usage_bytes.map_or_else(String::new, bytes)),
            Some(max_bytes.map_or_else(String::new, bytes)),
            Some(peak_bytes.map_or_else(String::new, bytes)),
            Some(high_bytes.map_or_else(String::new, bytes)),
            Some(swap_bytes.map_or_else(String::new, bytes)),
            Some(swap_max_bytes.map_or_else(String::new, bytes)),
            Some(memsw_bytes.map_or_else(String::new, bytes)),
            Some(memsw_max_bytes.map_or_else(String::new, bytes)),
            Some(oom_kills.map_or_else(String::new, count)),
            Some(notes.join(", ")),
        ],
    }
}
