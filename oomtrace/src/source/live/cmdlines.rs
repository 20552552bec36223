//! Command lines, before they are gone: of what ran before us from `/proc`, of what was started since
//! from the kernel side, which keeps them from the moment of `exec` without waking anybody.
//!
//! A process is known by its number *and* its start, so a number used again is never taken for the
//! process that had it before, and a number of another pid namespace never matches.

use std::{collections::HashMap, fs, sync::mpsc, thread};

use aya::maps::{HashMap as BpfHashMap, MapData};
use oomtrace_ebpf::event::{self, Cmdline};
use zerocopy::FromBytes;

use crate::incident::Text;

/// By process number, as the kernel side keeps them.
pub(super) type Execs = BpfHashMap<MapData, u32, [u8; size_of::<Cmdline>()]>;

/// Longest command line kept, in bytes.
const LONGEST: usize = 512;
/// All that are kept, in bytes.
const MOST: usize = 4 << 20;
/// `/proc/PID/stat` counts in `USER_HZ`, which is 100 on every architecture that has BPF.
const NS_PER_TICK: u64 = 10_000_000;

/// Forks without an exec in between that are followed up.
const MOST_FORKS: usize = 8;

/// Number and start (in nanoseconds since boot) of a process.
pub(super) type Process = (u32, u64);
/// Number and start (in clock ticks since boot) of a process.
type Key = (u32, u64);

/// Command lines by process.
pub(super) struct Cmdlines {
    known: HashMap<Key, Text>,
    scan: Option<mpsc::Receiver<HashMap<Key, Text>>>,
    execs: Option<Execs>,
    /// Since when execs are watched.
    armed_boot_ns: u64,
}

impl Cmdlines {
    /// Reads those of all processes, beside the caller's work.
    pub(super) fn scan(execs: Option<Execs>, armed_boot_ns: u64) -> Self {
        let (send, scan) = mpsc::channel();
        let started = thread::Builder::new()
            .name("cmdlines".into())
            .stack_size(128 << 10)
            .spawn(move || {
                thread::sleep(super::SETTLED);
                send.send(read_all())
            });
        Self {
            known: HashMap::new(),
            scan: started.is_ok().then_some(scan),
            execs,
            armed_boot_ns,
        }
    }

    /// Those of the processes in `wanted`, as far as they can be had.
    pub(super) fn of_all(
        &mut self,
        wanted: &[Process],
        rows: &[event::Row],
        execs_seen: u64,
    ) -> HashMap<Process, Text> {
        // The map may forget before it is full, as each CPU keeps a share of it.
        let nothing_forgotten = execs_seen < u64::from(event::CMDLINES / 4);
        if let Some(scan) = self.scan.take() {
            self.known = scan.recv().unwrap_or_default();
        }
        let processes: HashMap<u32, &event::Row> = rows.iter().map(|row| (row.tgid, row)).collect();
        wanted
            .iter()
            .filter_map(|&process| {
                Some((
                    process,
                    self.inherited(process, &processes, nothing_forgotten)?,
                ))
            })
            .collect()
    }

    /// A process that was forked and has become no other program since goes by its parent's. That it has
    /// not is known only of one that began while execs were watched, and only while none was forgotten.
    fn inherited(
        &self,
        process: Process,
        processes: &HashMap<u32, &event::Row>,
        nothing_forgotten: bool,
    ) -> Option<Text> {
        let mut at = process;
        for _ in 0..MOST_FORKS {
            if let Some(text) = self.of(at) {
                return Some(text);
            }
            let watched = self.execs.is_some() && at.1 > self.armed_boot_ns;
            if !watched || !nothing_forgotten {
                return None;
            }
            let parent = processes.get(&processes.get(&at.0)?.ppid)?;
            at = (parent.tgid, parent.start_boot_ns);
        }
        None
    }

    fn of(&self, (tgid, start_boot_ns): Process) -> Option<Text> {
        let key = (tgid, start_boot_ns / NS_PER_TICK);
        self.at_exec(tgid, start_boot_ns)
            .or_else(|| self.known.get(&key).cloned())
            .or_else(|| read(tgid).and_then(|(found, text)| (found == key).then_some(text)))
    }

    fn at_exec(&self, tgid: u32, start_boot_ns: u64) -> Option<Text> {
        let bytes = self.execs.as_ref()?.get(&tgid, 0).ok()?;
        let record = Cmdline::read_from_bytes(&bytes).ok()?;
        let length = usize::try_from(record.len).ok()?;
        let text = record.text.get(..length)?;
        (record.start_boot_ns == start_boot_ns)
            .then(|| joined(text.to_vec()))
            .flatten()
    }
}

fn read_all() -> HashMap<Key, Text> {
    let mut all = HashMap::new();
    let mut bytes = 0;
    let Ok(entries) = fs::read_dir("/proc") else {
        return all;
    };
    for entry in entries.flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let Some((key, text)) = pid.and_then(read) {
            bytes += text.as_bytes().len();
            all.insert(key, text);
        }
        if bytes > MOST {
            break;
        }
    }
    all
}

fn read(pid: u32) -> Option<(Key, Text)> {
    let mut cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    // Read after, so that the command line cannot belong to a later process.
    let start = start_ticks(pid)?;
    cmdline.truncate(LONGEST);
    Some(((pid, start), joined(cmdline)?))
}

/// Arguments with spaces between them instead of NULs.
fn joined(mut arguments: Vec<u8>) -> Option<Text> {
    while arguments.last() == Some(&0) {
        arguments.pop();
    }
    for byte in &mut arguments {
        if *byte == 0 {
            *byte = b' ';
        }
    }
    (!arguments.is_empty()).then(|| Text::new(arguments))
}

/// Field 22 of `/proc/PID/stat`; the second may hold spaces and brackets.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(stat.get(after + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}
