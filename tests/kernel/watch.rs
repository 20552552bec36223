//! `oomtrace watch --json`, as a user would run it.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail, ensure};
use oomtrace::incident::Incident;

/// A tracer at work. Dropping it kills it.
pub(crate) struct Watch {
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

impl Watch {
    /// Starts it and waits until it says that it is armed.
    pub(crate) fn start(
        oomtrace: &Path,
        args: &[&str],
        oom_score_adj: Option<i32>,
        patience: Duration,
    ) -> anyhow::Result<Self> {
        let mut child = Command::new(oomtrace)
            .args(["watch", "--json"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", oomtrace.display()))?;
        if let Some(adj) = oom_score_adj {
            fs::write(
                format!("/proc/{}/oom_score_adj", child.id()),
                adj.to_string(),
            )
            .context("oom_score_adj of oomtrace")?;
        }
        let stdout = lines(child.stdout.take().context("stdout of oomtrace")?);
        let stderr = lines(child.stderr.take().context("stderr of oomtrace")?);
        let mut watch = Self {
            child,
            stdout,
            stderr,
        };
        watch.wait_until_armed(patience)?;
        Ok(watch)
    }

    fn wait_until_armed(&mut self, patience: Duration) -> anyhow::Result<()> {
        let (end, mut said) = (Instant::now() + patience, Vec::new());
        loop {
            match self
                .stderr
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(line) if line.starts_with("oomtrace: armed") => return Ok(()),
                Ok(line) => said.push(line),
                Err(RecvTimeoutError::Timeout) => bail!("oomtrace is not armed: {said:?}"),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait().context("wait for oomtrace")?;
                    bail!(
                        "oomtrace ended before it was armed, {status}: {}",
                        said.join(" / ")
                    );
                }
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops or continues it, so that nothing about it moves meanwhile.
    pub(crate) fn freeze(&self, frozen: bool) -> anyhow::Result<()> {
        self.signal(if frozen { libc::SIGSTOP } else { libc::SIGCONT })
    }

    /// The next incident that `is_ours` recognises; others on the same machine are set aside.
    pub(crate) fn incident(
        &self,
        patience: Duration,
        is_ours: impl Fn(&Incident) -> bool,
    ) -> anyhow::Result<Incident> {
        let end = Instant::now() + patience;
        loop {
            let wait = end.saturating_duration_since(Instant::now());
            let line = self.stdout.recv_timeout(wait).map_err(|error| {
                let said: Vec<_> = self.stderr.try_iter().collect();
                anyhow!("no incident within {patience:?}, {error}; oomtrace said {said:?}")
            })?;
            let incident = parse(&line)?;
            if is_ours(&incident) {
                return Ok(incident);
            }
        }
    }

    /// Ctrl-C. It must end well, and yields whatever incidents came after those taken.
    pub(crate) fn finish(mut self, patience: Duration) -> anyhow::Result<Vec<Incident>> {
        self.signal(libc::SIGINT)?;
        let end = Instant::now() + patience;
        let status = loop {
            if let Some(status) = self.child.try_wait().context("wait for oomtrace")? {
                break status;
            }
            ensure!(Instant::now() < end, "oomtrace does not end at Ctrl-C");
            thread::sleep(Duration::from_millis(10));
        };
        ensure!(status.success(), "oomtrace ended at Ctrl-C with {status}");
        self.stdout.iter().map(|line| parse(&line)).collect()
    }

    fn signal(&self, signal: libc::c_int) -> anyhow::Result<()> {
        // SAFETY: a call without pointers; the child is not yet waited for.
        let done = unsafe { libc::kill(i32::try_from(self.child.id())?, signal) };
        ensure!(done == 0, "signal {signal} to oomtrace");
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn parse(line: &str) -> anyhow::Result<Incident> {
    let start: String = line.chars().take(200).collect();
    serde_json::from_str(line).with_context(|| format!("not an incident: {start}"))
}

fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (send, receive) = channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    receive
}
