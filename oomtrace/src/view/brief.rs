//! One line a kill: for `grep`, for a log, for a chat message.
//!
//! When it happened, the word `oom`, then `key=value` pairs in an order that never changes. A pair
//! whose value is not known is left out. Sizes carry their unit without a space. A value holds no
//! space unless it is in double quotes; inside quotes, `\"` is a quote and `\\` a backslash, and
//! whatever a terminal could act on is spelled out (`\x1b`, `\u{202e}`).
//!
//! | key | value |
//! | --- | --- |
//! | `host` | host name |
//! | `outcome` | `killed`, `already_dying`, `no_killable_process`, `panic` |
//! | `scope` | what ran out: `global`, `memcg`, `cpuset`, `mempolicy`, `sysrq` |
//! | `cgroup`, `limit` | the cgroup whose limit was hit, and that limit |
//! | `victim`, `pid`, `score` | the chosen process |
//! | `rss`, `swap` | what it held |
//! | `victims` | how many were marked in all |
//! | `asked`, `asked_pid`, `order` | who asked, and for 2^order pages |
//! | `top`, `top_count`, `top_rss` | the name that holds most in sum, its processes and their memory |
//! | `gaps` | how many things the incident lacks; 0 is complete |

use std::io::{self, Write};

use crate::incident::{Incident, Outcome, Scope, Text, Trigger, Victim};

use super::units::{bytes_word, moment, quoted};
use super::why::tightest_limit;

/// Writes the incident as one line.
///
/// ```
/// use oomtrace::incident::{Chosen, Incident, Scope};
///
/// let incident = Incident {
///     scope: Some(Scope::Global),
///     chosen: Some(Chosen { pid: 4302, score: Some(78_211) }),
///     ..Incident::default()
/// };
/// let mut out = Vec::new();
/// oomtrace::view::brief::write(&incident, &mut out)?;
/// assert_eq!(out, b"- oom scope=global pid=4302 score=78211 gaps=0\n");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// When `out` fails.
pub fn write(incident: &Incident, out: &mut impl Write) -> io::Result<()> {
    let Incident {
        id: _,
        source: _,
        time,
        host,
        scope,
        outcome,
        message: _,
        trigger,
        oom_cgroup,
        cgroups: _,
        system: _,
        candidates: _,
        kernel_threads: _,
        chosen,
        total_pages: _,
        victims,
        snapshot_ns: _,
        gaps,
    } = incident;
    let when = moment(time, "%Y-%m-%dT%H:%M:%SZ").unwrap_or_else(|| "-".into());
    let mut line = Line(format!("{when} oom"));
    line.add("host", host.hostname.as_ref().map(value));
    line.add("outcome", outcome.map(outcome_word));
    line.add("scope", scope.map(scope_word));
    let limited = oom_cgroup.and_then(|id| incident.cgroup(id));
    line.add("cgroup", limited.map(|cgroup| value(&cgroup.path)));
    let limit = limited.and_then(tightest_limit);
    line.add("limit", limit.map(|limit| bytes_word(limit.max_bytes)));
    add_victim(incident, &mut line);
    line.add("score", chosen.and_then(|chosen| chosen.score));
    add_memory(incident, &mut line);
    line.add("victims", Some(victims.len()).filter(|n| *n > 0));
    if let Some(trigger) = trigger {
        add_trigger(trigger, &mut line);
    }
    if let Some(top) = incident
        .by_name()
        .first()
        .filter(|top| top.held_bytes().is_some())
    {
        line.add("top", Some(value(top.key)));
        line.add("top_count", Some(top.processes));
        line.add("top_rss", top.resident_bytes.map(bytes_word));
    }
    line.add("gaps", Some(gaps.len()));
    writeln!(out, "{}", line.0)
}

struct Line(String);

impl Line {
    fn add(&mut self, key: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.0 += &format!(" {key}={}", value.to_string());
        }
    }
}

fn add_victim(incident: &Incident, line: &mut Line) {
    let victim = incident.chosen_victim().map(|v| (&v.comm, v.pid));
    let named = victim.or_else(|| incident.chosen_candidate().map(|c| (&c.comm, c.pid)));
    line.add("victim", named.map(|(comm, _)| value(comm)));
    let pid = named
        .map(|(_, pid)| pid)
        .or_else(|| incident.chosen.map(|chosen| chosen.pid));
    line.add("pid", pid);
}

/// What the chosen one held when it was marked, else when it was compared.
fn add_memory(incident: &Incident, line: &mut Line) {
    let marked = incident.chosen_victim().map(|victim| {
        let Victim {
            pid: _,
            tgid: _,
            start_boot_ns: _,
            comm: _,
            cmdline: _,
            uid: _,
            cgroup: _,
            oom_score_adj: _,
            anon_bytes,
            file_bytes,
            shmem_bytes,
            swap_bytes,
            pgtables_bytes: _,
            total_vm_bytes: _,
            role: _,
            killed: _,
            killed_ns: _,
        } = victim;
        let parts = [anon_bytes, file_bytes, shmem_bytes];
        let rss = parts
            .into_iter()
            .try_fold(0u64, |sum, part| sum.checked_add((*part)?));
        (rss, *swap_bytes)
    });
    let compared = incident
        .chosen_candidate()
        .map(|c| (c.rss_bytes(), c.swap_bytes));
    let rss = marked.and_then(|(rss, _)| rss).or_else(|| compared?.0);
    let swap = marked.and_then(|(_, swap)| swap).or_else(|| compared?.1);
    line.add("rss", rss.map(bytes_word));
    line.add("swap", swap.map(bytes_word));
}

fn add_trigger(trigger: &Trigger, line: &mut Line) {
    let Trigger {
        pid,
        tgid: _,
        comm,
        cmdline: _,
        cgroup: _,
        oom_score_adj: _,
        gfp: _,
        order,
        stack: _,
        reclaim_stall_ns: _,
    } = trigger;
    line.add("asked", Some(value(comm)));
    line.add("asked_pid", Some(pid));
    line.add("order", *order);
}

/// A name as a value: in quotes unless it is one plain word, cut (`…`) where it is longer than a
/// line for people can bear.
fn value(text: &Text) -> String {
    let shown = shortened(&text.to_string());
    let plain = |c: char| !c.is_whitespace() && !"=\"\\,;".contains(c);
    if !shown.is_empty() && shown.chars().all(plain) {
        shown
    } else {
        quoted(&shown)
    }
}

/// The end of a long text, which for a path is what matters, never cut inside an escape.
fn shortened(shown: &str) -> String {
    const LONGEST: usize = 200;
    let mut starts = Vec::new();
    let mut rest = shown;
    while let Some(first) = rest.chars().next() {
        starts.push(shown.len() - rest.len());
        let len = match rest.as_bytes() {
            [b'\\', b'\\', ..] => 2,
            [b'\\', b'x', ..] => 4,
            [b'\\', b'u', ..] => rest.find('}').map_or(1, |end| end + 1),
            _ => first.len_utf8(),
        };
        rest = rest.get(len..).unwrap_or("");
    }
    match starts.len().checked_sub(LONGEST).filter(|over| *over > 0) {
        Some(over) => format!("…{}", &shown[starts[over]..]),
        None => shown.to_owned(),
    }
}

fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Killed => "killed",
        Outcome::AlreadyDying => "already_dying",
        Outcome::NoKillableProcess => "no_killable_process",
        Outcome::Panic => "panic",
    }
}

fn scope_word(scope: Scope) -> &'static str {
    match scope {
        Scope::Global => "global",
        Scope::Memcg => "memcg",
        Scope::Cpuset => "cpuset",
        Scope::Mempolicy => "mempolicy",
        Scope::Sysrq => "sysrq",
    }
}
