//! An armed oomtrace, seen from outside: by its output and by what the kernel says about it.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

const ARMED: &str = "oomtrace: armed";
/// An incident is written within this time after its kill.
const PATIENCE: Duration = Duration::from_secs(30);

/// `oomtrace watch --json`; killed when this is dropped.
pub(super) struct Tracer {
    child: Child,
    incidents: Receiver<String>,
    /// From exec to the line that says so.
    pub(super) armed_after: Duration,
}

/// What a BPF program has run since statistics were turned on.
#[derive(Clone, Copy, Default)]
pub(super) struct Runs {
    pub(super) count: u64,
    pub(super) ns: u64,
}

/// Memory in KiB.
pub(super) struct Memory {
    pub(super) rss: u64,
    pub(super) anon: u64,
    pub(super) file: u64,
    /// Mapped maps of BPF: their size, each page of data mapped twice, and what of it is in `rss`.
    pub(super) rings: u64,
    pub(super) rings_rss: u64,
}

/// What a process has cost so far.
pub(super) struct Cost {
    pub(super) program_runs: u64,
    pub(super) switches: u64,
    pub(super) ticks: u64,
}

impl Tracer {
    pub(super) fn arm(oomtrace: &Path) -> Result<Self> {
        let start = Instant::now();
        let mut child = Command::new(oomtrace)
            .args(["watch", "--json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run oomtrace")?;
        let stdout = child.stdout.take().context("a piped stdout")?;
        let mut stderr = BufReader::new(child.stderr.take().context("a piped stderr")?);
        let mut said = String::new();
        let mut tracer = Self {
            child,
            incidents: lines(stdout),
            armed_after: Duration::ZERO,
        };
        loop {
            let before = said.len();
            ensure!(
                stderr.read_line(&mut said)? > 0,
                "oomtrace did not arm:\n{said}"
            );
            if said[before..].starts_with(ARMED) {
                break;
            }
        }
        tracer.armed_after = start.elapsed();
        // Read on, or it would block some day; what it says is of interest.
        thread::spawn(move || {
            let mut rest = [0; 4096];
            while let Ok(len @ 1..) = stderr.read(&mut rest) {
                let _ = std::io::stderr().write_all(&rest[..len]);
            }
        });
        Ok(tracer)
    }

    /// The next incident with this victim, as one line of JSON.
    pub(super) fn incident(&self, comm: &str) -> Result<String> {
        let victim = format!("\"comm\":\"{comm}\"");
        let until = Instant::now() + PATIENCE;
        loop {
            let rest = until.saturating_duration_since(Instant::now());
            let Ok(line) = self.incidents.recv_timeout(rest) else {
                bail!("oomtrace reported no kill of {comm} within {PATIENCE:?}");
            };
            if super::json::member(&line, "victims").is_some_and(|list| list.contains(&victim)) {
                return Ok(line);
            }
        }
    }

    /// Its programs, by id.
    pub(super) fn programs(&self) -> Result<BTreeMap<u64, Runs>> {
        let mut programs = BTreeMap::new();
        for entry in fs::read_dir(self.proc("fdinfo")).context("its files")? {
            // Descriptors come and go.
            let info = fs::read_to_string(entry?.path()).unwrap_or_default();
            // Links carry the id of their program too, but no count.
            if let (Some(id), Some(count), Some(ns)) = (
                number(&info, "prog_id:"),
                number(&info, "run_cnt:"),
                number(&info, "run_time_ns:"),
            ) {
                programs.insert(id, Runs { count, ns });
            }
        }
        ensure!(!programs.is_empty(), "oomtrace holds no BPF programs");
        Ok(programs)
    }

    pub(super) fn memory(&self) -> Result<Memory> {
        let status = fs::read_to_string(self.proc("status")).context("its status")?;
        let field = |name| number(&status, name).with_context(|| format!("no {name} in status"));
        let smaps = fs::read_to_string(self.proc("smaps")).context("its smaps")?;
        let (mut rings, mut rings_rss, mut ring) = (0, 0, false);
        for line in smaps.lines() {
            let (word, _) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "Size:" if ring => rings += number(line, word).unwrap_or(0),
                "Rss:" if ring => rings_rss += number(line, word).unwrap_or(0),
                // The first line of a mapping begins with its addresses.
                _ if !word.ends_with(':') => ring = line.contains("anon_inode:bpf-map"),
                _ => {}
            }
        }
        Ok(Memory {
            rss: field("VmRSS:")?,
            anon: field("RssAnon:")?,
            file: field("RssFile:")?,
            rings,
            rings_rss,
        })
    }

    pub(super) fn cost(&self) -> Result<Cost> {
        let mut switches = 0;
        for task in fs::read_dir(self.proc("task")).context("its threads")? {
            let status = fs::read_to_string(task?.path().join("status")).context("its threads")?;
            for name in ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"] {
                switches += number(&status, name).unwrap_or(0);
            }
        }
        let stat = fs::read_to_string(self.proc("stat")).context("its stat")?;
        let (_, fields) = stat.rsplit_once(')').context("its stat")?;
        // utime and stime are the 14th and 15th field; the first two are gone.
        let ticks = fields.split_whitespace().skip(11).take(2);
        Ok(Cost {
            program_runs: self.programs()?.values().map(|runs| runs.count).sum(),
            switches,
            ticks: ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum(),
        })
    }

    fn proc(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.child.id())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lines of its output, read by a thread so that it never waits for us.
fn lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// The number after a word that begins a line.
fn number(text: &str, word: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(word))?;
    rest.split_whitespace().next()?.parse().ok()
}
