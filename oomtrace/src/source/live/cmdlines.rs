//! Command lines, before they are gone.
//!
//! A process is known by its number *and* its start, so a number used again is never taken for the
//! process that had it before, and a number of another pid namespace never matches.

use std::{collections::HashMap, fs, sync::mpsc, thread};

use crate::incident::Text;

/// Longest command line kept, in bytes.
const LONGEST: usize = 512;
/// All that are kept, in bytes.
const MOST: usize = 4 << 20;
/// `/proc/PID/stat` counts in `USER_HZ`, which is 100 on every architecture that has BPF.
const NS_PER_TICK: u64 = 10_000_000;

/// Number and start (in clock ticks since boot) of a process.
type Key = (u32, u64);

/// Command lines by process.
pub(super) struct Cmdlines {
    known: HashMap<Key, Text>,
    scan: Option<mpsc::Receiver<HashMap<Key, Text>>>,
}

impl Cmdlines {
    /// Reads those of all processes, beside the caller's work.
    pub(super) fn scan() -> Self {
        let (send, scan) = mpsc::channel();
        let started = thread::Builder::new()
            .name("cmdlines".into())
            .stack_size(128 << 10)
            .spawn(move || send.send(read_all()));
        Self {
            known: HashMap::new(),
            scan: started.is_ok().then_some(scan),
        }
    }

    /// Reads none, ever.
    pub(super) fn none() -> Option<Self> {
        None
    }

    /// That of one process, read now if it is not known.
    pub(super) fn of(&mut self, tgid: u32, start_boot_ns: u64) -> Option<Text> {
        if let Some(scan) = self.scan.take() {
            self.known = scan.recv().unwrap_or_default();
        }
        let key = (tgid, start_boot_ns / NS_PER_TICK);
        if let Some(known) = self.known.get(&key) {
            return Some(known.clone());
        }
        let (found, text) = read(tgid)?;
        (found == key).then_some(text)
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
    while cmdline.last() == Some(&0) {
        cmdline.pop();
    }
    if cmdline.is_empty() {
        return None;
    }
    cmdline.truncate(LONGEST);
    for byte in &mut cmdline {
        if *byte == 0 {
            *byte = b' ';
        }
    }
    Some(((pid, start), Text::new(cmdline)))
}

/// Field 22 of `/proc/PID/stat`; the second may hold spaces and brackets.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(stat.get(after + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}
