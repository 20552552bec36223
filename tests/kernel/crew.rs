//! Starts workloads and ends them.

use std::{
    ffi::{OsStr, OsString},
    io::{BufRead, BufReader, Write},
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, ensure};

/// Thousands of forks under emulation take their time.
const PATIENCE_MS: libc::c_int = 90_000;

/// A workload to be.
pub(crate) struct Job {
    args: Vec<OsString>,
    name: Vec<u8>,
}

impl Job {
    /// Kind and size, as in `workload.rs`.
    pub(crate) fn new(kind: &str, size: usize) -> Self {
        Self {
            args: vec!["workload".into(), kind.into(), size.to_string().into()],
            name: kind.as_bytes().to_vec(),
        }
    }

    /// What `comm` shall be; without, the kind.
    pub(crate) fn name(mut self, name: &[u8]) -> Self {
        self.name = name.to_vec();
        self
    }

    pub(crate) fn adj(self, adj: i32) -> Self {
        self.option("--adj", adj.to_string())
    }

    pub(crate) fn uid(self, uid: u32) -> Self {
        self.option("--uid", uid.to_string())
    }

    pub(crate) fn cgroup(self, dir: &Path) -> Self {
        self.option("--cgroup", dir)
    }

    fn option(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.args.extend([name.into(), value.as_ref().to_owned()]);
        self
    }

    /// Starts it and waits until it is in its place and has said so.
    pub(crate) fn start(self) -> anyhow::Result<Worker> {
        let name = OsStr::from_bytes(&self.name).to_owned();
        let job = self.option("--name", name);
        let mut child = Command::new("/proc/self/exe")
            .args(&job.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a workload")?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().map(BufReader::new);
        let mut worker = Worker {
            child,
            stdin,
            stdout,
            helper: None,
        };
        let word = worker.word()?;
        ensure!(word.starts_with("ready"), "{:?} said {word:?}", job.args);
        worker.helper = word.split(' ').nth(1).and_then(|pid| pid.parse().ok());
        Ok(worker)
    }
}

/// A workload at work. Dropping it ends it.
pub(crate) struct Worker {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<BufReader<ChildStdout>>,
    /// Another task that it told of: its second thread, or the sharer of its memory.
    pub(crate) helper: Option<u32>,
}

impl Worker {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives the word that a `grow` waits for.
    pub(crate) fn go(&mut self) -> anyhow::Result<()> {
        let stdin = self.stdin.as_mut().context("stdin of a workload")?;
        stdin.write_all(b"go\n").context("give the word")
    }

    /// Whether it is still there.
    pub(crate) fn is_alive(&mut self) -> anyhow::Result<bool> {
        Ok(self
            .child
            .try_wait()
            .context("wait for a workload")?
            .is_none())
    }

    fn word(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        let stdout = self.stdout.as_mut().context("stdout of a workload")?;
        let mut poll = libc::pollfd {
            fd: stdout.get_ref().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd, whose descriptor `stdout` keeps open.
        let said = unsafe { libc::poll(&mut poll, 1, PATIENCE_MS) };
        ensure!(said == 1, "a workload is not ready after {PATIENCE_MS} ms");
        stdout
            .read_line(&mut line)
            .context("listen to a workload")?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Whatever it forked sleeps on the same pipe, and wakes up with it.
        drop(self.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
