//! The report for people.
//!
//! The verdict first, then the reasons, then the tables that the reasons rest on. Nothing in it is
//! wider than the page, and colour says nothing that the words do not say.

mod candidates;
mod cgroups;
mod header;
mod layout;
mod sums;
mod table;

use std::io::{self, Write};

use crate::incident::{Frame, Gap, Incident, Trigger};
use crate::view::units::{count, cut, duration, many, process, words};
use crate::view::why;
use layout::{Page, Tone};

/// How to lay the report out.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Columns to fill; fewer than 60 are taken as 60.
    pub width: usize,
    /// Whether to use colour.
    pub colour: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            width: 80,
            colour: false,
        }
    }
}

/// Writes the report.
///
/// ```
/// use oomtrace::incident::Incident;
/// use oomtrace::view::text::{self, Options};
///
/// let mut out = Vec::new();
/// text::write(&Incident::default(), &Options::default(), &mut out)?;
/// assert!(String::from_utf8_lossy(&out).starts_with("OOM"));
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// When `out` fails.
pub fn write(incident: &Incident, options: &Options, out: &mut impl Write) -> io::Result<()> {
    // What is printed here, and what by the parts. The source is left out on purpose: a kill reads
    // the same whether it was traced, replayed or imported.
    let Incident {
        id,
        source: _,
        time: _,
        host: _,
        scope: _,
        outcome: _,
        message: _,
        trigger,
        oom_cgroup: _,
        cgroups: _,
        system: _,
        candidates: _,
        kernel_threads: _,
        chosen: _,
        total_pages: _,
        victims: _,
        snapshot_ns,
        gaps,
    } = incident;
    let mut page = Page::new(options, out);
    header::write(incident, &mut page)?;
    write_gaps(gaps, &mut page)?;
    write_why(incident, &mut page)?;
    sums::by_name(incident, &mut page)?;
    sums::by_cgroup(incident, &mut page)?;
    candidates::write(incident, &mut page)?;
    cgroups::write(incident, &mut page)?;
    if let Some(trigger) = trigger {
        write_stack(trigger, &mut page)?;
    }
    write_footer(id, *snapshot_ns, &mut page)
}

fn write_why(incident: &Incident, page: &mut Page<'_, impl Write>) -> io::Result<()> {
    let sentences = why::sentences(incident);
    if sentences.is_empty() {
        return Ok(());
    }
    page.heading("WHY", "")?;
    for sentence in sentences {
        page.wrapped("  - ", Tone::Plain, &sentence)?;
    }
    Ok(())
}

/// What is missing comes before anything that may be wrong because of it.
fn write_gaps(gaps: &[Gap], page: &mut Page<'_, impl Write>) -> io::Result<()> {
    if gaps.is_empty() {
        return Ok(());
    }
    page.blank()?;
    page.wrapped("", Tone::Warning, "GAPS: THIS REPORT IS INCOMPLETE")?;
    for Gap {
        what,
        count: missing,
        why,
    } in gaps.iter().take(20)
    {
        let missing = missing.map_or_else(String::new, |n| format!(" ({} missing)", count(n)));
        let text = format!(
            "{}{missing}: {}",
            cut(&words(what), 40),
            cut(&words(why), 400)
        );
        page.wrapped("  ! ", Tone::Warning, &text)?;
    }
    match gaps.len().saturating_sub(20) {
        0 => Ok(()),
        more => page.wrapped(
            "  ! ",
            Tone::Warning,
            &format!("… {} more gaps", many(more)),
        ),
    }
}

/// Innermost first, by name, as far as it helps.
fn write_stack(trigger: &Trigger, page: &mut Page<'_, impl Write>) -> io::Result<()> {
    const FRAMES: usize = 14;
    let Trigger {
        pid,
        tgid: _,
        comm,
        cmdline: _,
        cgroup: _,
        oom_score_adj: _,
        gfp: _,
        order: _,
        stack,
        reclaim_stall_ns: _,
    } = trigger;
    if stack.is_empty() {
        return Ok(());
    }
    let shown = stack.iter().take(FRAMES).map(|frame| {
        let Frame {
            addr,
            symbol,
            offset: _,
        } = frame;
        symbol
            .as_ref()
            .map_or_else(|| format!("{addr:#x}"), |symbol| cut(&words(symbol), 60))
    });
    let mut line = shown.collect::<Vec<_>>().join(" < ");
    if let Some(more) = stack.len().checked_sub(FRAMES).filter(|more| *more > 0) {
        line += &format!(" < … {} more", many(more));
    }
    let whose = format!("of {}, innermost first", process(comm, *pid));
    page.heading("STACK", &whose)?;
    page.wrapped("  ", Tone::Plain, &line)
}

fn write_footer(
    id: &str,
    snapshot_ns: Option<u64>,
    page: &mut Page<'_, impl Write>,
) -> io::Result<()> {
    let mut parts = Vec::new();
    if !id.is_empty() {
        parts.push(format!("incident {}", cut(&words(id), 100)));
    }
    if let Some(ns) = snapshot_ns {
        parts.push(format!(
            "the snapshot held up the kill for {}",
            duration(ns)
        ));
    }
    if parts.is_empty() {
        return Ok(());
    }
    page.blank()?;
    page.wrapped("", Tone::Quiet, &parts.join("; "))
}
