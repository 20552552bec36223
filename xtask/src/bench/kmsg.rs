//! The kernel log as it is written: when a report of an OOM kill began and ended.
//!
//! A report about thousands of processes is longer than the log, so its first line is read while the
//! rest is written. What was overwritten before it was read is noticed, never guessed.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use super::precedence;

/// Of Linux on every architecture that it is used on today, MIPS and the like apart.
const O_NONBLOCK: i32 = 0o4000;

/// How long the kernel took over a report.
#[derive(Default)]
pub(super) struct Report {
    /// Stamps in microseconds of the header and of the line that names the killed process.
    header: Option<u64>,
    killed: Option<u64>,
    /// How often records had been overwritten before they were read, by intent or not.
    pub(super) overruns: u32,
}

impl Report {
    /// From one line to the other, in microseconds, if both were read.
    pub(super) fn us(&self) -> Option<u64> {
        self.killed?.checked_sub(self.header?)
    }
}

/// Does something that makes the kernel kill a process called `comm` that ran out of memory itself,
/// and reads the report. By the end of `kill`, the process must be gone.
pub(super) fn during(comm: &str, kill: impl FnOnce() -> Result<()>) -> Result<Report> {
    let mut log = OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open("/dev/kmsg")
        .context("/dev/kmsg")?;
    log.seek(SeekFrom::End(0)).context("/dev/kmsg")?;
    let (ready, over) = (Barrier::new(2), AtomicBool::new(false));
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            precedence::hurry(precedence::Side::Last);
            ready.wait();
            follow(log, comm, &over)
        });
        ready.wait();
        let killed = kill();
        over.store(true, Ordering::Release);
        let report = reader.join().ok().context("the reader of the log failed")?;
        killed.and(report)
    })
}

/// Does not sleep before the header: by the time that it had been woken, that may be overwritten. Then
/// it stands aside until the end, since a busy reader makes the report take twice as long.
fn follow(mut log: File, comm: &str, over: &AtomicBool) -> Result<Report> {
    let header = format!("{comm} invoked oom-killer: ");
    let name = format!("({comm})");
    let mut report = Report::default();
    let mut record = [0_u8; 8192];
    loop {
        // Looked at first, so that nothing is written between the last read and the end.
        let last = over.load(Ordering::Acquire);
        // One read is one record.
        match log.read(&mut record) {
            Ok(len) => match event(&String::from_utf8_lossy(&record[..len]), &header, &name) {
                Some(Event::Header(at)) => {
                    report.header = Some(at);
                    while !over.load(Ordering::Acquire) {
                        thread::sleep(Duration::from_millis(1));
                    }
                }
                Some(Event::Killed(at)) => report.killed = Some(at),
                None => {}
            },
            Err(error) if error.kind() == ErrorKind::WouldBlock && last => return Ok(report),
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
            // What the kernel answers when records were overwritten.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => report.overruns += 1,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("/dev/kmsg"),
        }
    }
}

enum Event {
    Header(u64),
    Killed(u64),
}

/// A record is `priority,sequence,microseconds,flags;text`.
fn event(record: &str, header: &str, name: &str) -> Option<Event> {
    let (prefix, text) = record.split_once(';')?;
    let at = prefix.split(',').nth(2)?.parse().ok()?;
    if text.starts_with(header) {
        return Some(Event::Header(at));
    }
    let (_, killed) = text.split_once("Killed process ")?;
    killed.contains(name).then_some(Event::Killed(at))
}

#[cfg(test)]
mod tests {
    use super::{Event, event};

    #[test]
    fn a_report_begins_and_ends_with_the_lines_of_its_own_process() {
        let event = |text: &str| event(text, "hog invoked oom-killer: ", "(hog)");
        assert!(matches!(
            event("4,17,1200345,-;hog invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0\n"),
            Some(Event::Header(1_200_345))
        ));
        assert!(matches!(
            event(
                "3,90,1200999,-;Memory cgroup out of memory: Killed process 7 (hog) total-vm:1kB"
            ),
            Some(Event::Killed(1_200_999))
        ));
        for other in [
            "4,17,1,-;other invoked oom-killer: gfp_mask=0xcc0",
            "3,90,2,-;Memory cgroup out of memory: Killed process 7 (other) total-vm:1kB",
            "6,18,3,-;[   7]     0     7     1000      200    49152        0             0 hog",
            "no record",
        ] {
            assert!(event(other).is_none(), "{other}");
        }
    }
}
