//! The kernel log as it is written: when a report of an OOM kill began and ended.
//!
//! A report about thousands of processes is longer than the log, so it is read while it is written.
//! What was overwritten before it was read is noticed, never guessed.

use std::{
    fs::File,
    io::{ErrorKind, Read, Seek, SeekFrom},
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// The kernel says "Killed process" within this time, or never.
const PATIENCE: Duration = Duration::from_secs(5);

/// A reader of the log that has its own thread for as long as this process lives.
pub(super) struct Kmsg(Receiver<Event>);

/// How long the kernel took over a report.
pub(super) struct Report {
    /// From the header to the line that names the killed process, in microseconds, if both were read.
    pub(super) us: Option<u64>,
    /// How often records had been overwritten before they were read.
    pub(super) overruns: u32,
}

enum Event {
    Header(u64),
    Killed(u64),
    Overrun,
}

impl Kmsg {
    /// Reads from now on, for reports whose trigger and victim are both called `comm`.
    pub(super) fn follow(comm: &'static str) -> Result<Self> {
        let mut log = File::open("/dev/kmsg").context("/dev/kmsg")?;
        log.seek(SeekFrom::End(0)).context("/dev/kmsg")?;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || pass_on(log, comm, &sender));
        Ok(Self(receiver))
    }

    /// Forgets what was read so far.
    pub(super) fn forget(&self) {
        while self.0.try_recv().is_ok() {}
    }

    /// The next report.
    pub(super) fn report(&self) -> Report {
        let until = Instant::now() + PATIENCE;
        let (mut header, mut overruns) = (None, 0);
        loop {
            let rest = until.saturating_duration_since(Instant::now());
            let us = match self.0.recv_timeout(rest) {
                Ok(Event::Header(at)) => {
                    header = Some(at);
                    continue;
                }
                Ok(Event::Overrun) => {
                    overruns += 1;
                    continue;
                }
                Ok(Event::Killed(at)) => header.and_then(|header| at.checked_sub(header)),
                Err(_) => None,
            };
            return Report { us, overruns };
        }
    }
}

/// One read is one record. Ends when nobody listens any more.
fn pass_on(mut log: File, comm: &str, events: &Sender<Event>) {
    let header = format!("{comm} invoked oom-killer: ");
    let name = format!("({comm})");
    let mut record = [0_u8; 8192];
    loop {
        let event = match log.read(&mut record) {
            Ok(len) => event(&String::from_utf8_lossy(&record[..len]), &header, &name),
            // What the kernel answers when records were overwritten.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Some(Event::Overrun),
            Err(error) if error.kind() == ErrorKind::Interrupted => None,
            Err(_) => return,
        };
        if let Some(event) = event
            && events.send(event).is_err()
        {
            return;
        }
    }
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
