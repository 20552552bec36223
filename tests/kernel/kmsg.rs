//! `/dev/kmsg`, followed from now on, so that the kernel log loses as little as it can.

use std::{
    fs::File,
    io::{self, Read},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;

/// A reader in the background. Dropping it stops it.
pub(crate) struct Kmsg {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    records: AtomicU64,
    lost: AtomicU64,
    lines: Mutex<Vec<Vec<u8>>>,
}

impl Kmsg {
    /// Begins with the next record.
    pub(crate) fn follow() -> anyhow::Result<Self> {
        let mut file = open()?;
        // What is lost shows in the sequence numbers, so the last one before must be known.
        let mut expected = None;
        drain(&mut file, |sequence, _| expected = Some(sequence + 1));
        let shared = Arc::new(Shared::default());
        let thread = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || read_on(file, expected, &shared))
        };
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Texts of the records so far, and how many the log overwrote before they were read. Waits
    /// until nothing has come for `quiet`.
    pub(crate) fn settled(&self, quiet: Duration) -> (Vec<Vec<u8>>, u64) {
        let (mut seen, mut since) = (u64::MAX, Instant::now());
        while since.elapsed() < quiet {
            let now = self.shared.records.load(Ordering::Acquire);
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
            thread::sleep(Duration::from_millis(20));
        }
        let lines = self
            .shared
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (lines.clone(), self.shared.lost.load(Ordering::Acquire))
    }
}

impl Drop for Kmsg {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Texts of all records that the log still holds.
pub(crate) fn history() -> anyhow::Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    drain(&mut open()?, |_, text| all.push(text));
    Ok(all)
}

fn open() -> anyhow::Result<File> {
    File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")
        .context("open /dev/kmsg")
}

/// Reads all there is.
fn drain(file: &mut File, mut take: impl FnMut(u64, Vec<u8>)) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(n) => {
                if let Some((sequence, text)) = record(&buffer[..n]) {
                    take(sequence, text);
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(_) => return,
        }
    }
}

fn read_on(mut file: File, mut expected: Option<u64>, shared: &Shared) {
    let mut buffer = vec![0; 16 << 10];
    while !shared.stop.load(Ordering::Acquire) {
        match file.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => {
                let Some((sequence, text)) = record(&buffer[..n]) else {
                    continue;
                };
                if let Some(expected) = expected
                    && sequence > expected
                {
                    shared.lost.fetch_add(sequence - expected, Ordering::AcqRel);
                }
                expected = Some(sequence + 1);
                let mut lines = shared.lines.lock().unwrap_or_else(PoisonError::into_inner);
                lines.push(text);
                shared.records.fetch_add(1, Ordering::AcqRel);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(&file),
            // EPIPE says that records were overwritten; the next sequence number says how many.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(_) => return,
        }
    }
}

fn wait(file: &File) {
    let mut poll = libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd, whose descriptor `file` keeps open.
    unsafe { libc::poll(&mut poll, 1, 50) };
}

/// Sequence number and text of `6,1234,5678901,-;text\n KEY=value\n`.
fn record(bytes: &[u8]) -> Option<(u64, Vec<u8>)> {
    let semicolon = bytes.iter().position(|&b| b == b';')?;
    let prefix = std::str::from_utf8(&bytes[..semicolon]).ok()?;
    let sequence = prefix.split(',').nth(1)?.parse().ok()?;
    let text = bytes[semicolon + 1..].split(|&b| b == b'\n').next()?;
    Some((sequence, unescape(text)))
}

/// Takes back the `\xNN` by which the kernel writes what is not printable ASCII.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let escaped = match text[at..] {
            [b'\\', b'x', high, low, ..] => hex(high).zip(hex(low)).map(|(h, l)| h << 4 | l),
            _ => None,
        };
        out.push(escaped.unwrap_or(text[at]));
        at += if escaped.is_some() { 4 } else { 1 };
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

/// Tests of the reader itself.
pub(crate) mod tests {
    use anyhow::ensure;

    use super::record;

    pub(crate) fn takes_escapes_back() -> anyhow::Result<()> {
        let (sequence, text) = record(b"6,12,99,-,caller=T1;a\\x0ab\\x5cx;\\xff\n SUBSYSTEM=x\n")
            .expect("this is a record");
        ensure!(sequence == 12);
        ensure!(text == b"a\nb\\x;\xff", "{text:?}");
        ensure!(record(b"no record").is_none());
        Ok(())
    }
}
