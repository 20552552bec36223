//! The command of `run` as a process: started, sent signals, waited for.

use std::{ffi::OsString, fs::File, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result, anyhow};
use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, WaitStatus},
};
use tokio::signal::unix::{self, SignalKind};

use crate::{cgroup::Scratch, enter};

/// A running command. Dropping it leaves it alone.
pub(super) struct Child {
    pid: Pid,
    deaths: unix::Signal,
    status: Option<u8>,
}

impl Child {
    /// Starts `command`, inside the cgroup if there is one.
    pub(super) fn start(command: &[OsString], scratch: Option<&Scratch>) -> Result<Self> {
        let deaths = unix::signal(SignalKind::child()).context("cannot listen for SIGCHLD")?;
        let child = Command::new("/proc/self/exe")
            .arg0("oomtrace")
            .arg(enter::ARG)
            .args(scratch.map(Scratch::procs))
            .arg("--")
            .args(command)
            .spawn()
            .context("cannot start a process for CMD (is /proc mounted?)")?;
        let pid = Pid::from_raw(child.id().cast_signed()).context("a child without a pid")?;
        Ok(Self {
            pid,
            deaths,
            status: None,
        })
    }

    /// Waits for the end and yields the exit status for it. Dropping the future loses nothing.
    ///
    /// It waits for whatever child there is: as the first process of a pid namespace, oomtrace is
    /// given all orphans there and has to bury them.
    pub(super) async fn ended(&mut self) -> Result<u8> {
        loop {
            if let Some(status) = self.status {
                return Ok(status);
            }
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.pid => self.status = Some(passed_on(status)),
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => {
                    self.deaths.recv().await;
                }
                Err(errno) => return Err(anyhow!(errno).context("cannot wait for CMD")),
            }
        }
    }

    pub(super) fn forward(&self, signal: Signal) {
        if self.status.is_none() && !self.has_it_already(signal) {
            // It may end at any moment; until we wait for it, its pid is taken.
            let _ = rustix::process::kill_process(self.pid, signal);
        }
    }

    /// Whether the terminal has sent this signal to the command as well.
    ///
    /// A terminal signals the whole foreground process group, of which the command is a member
    /// unless it has left. Many programs take a second Ctrl-C as an order to drop everything, so
    /// it must not arrive twice. The price: SIGINT or SIGQUIT sent by `kill` to oomtrace alone,
    /// while in the foreground, is taken for the terminal's and stays here; SIGTERM does not.
    fn has_it_already(&self, signal: Signal) -> bool {
        if !matches!(signal, Signal::INT | Signal::QUIT | Signal::WINCH) {
            return false;
        }
        let group = rustix::process::getpgrp();
        let foreground = File::open("/dev/tty")
            .ok()
            .and_then(|tty| rustix::termios::tcgetpgrp(tty).ok());
        foreground == Some(group) && rustix::process::getpgid(Some(self.pid)) == Ok(group)
    }
}

/// The exit status that stands for an end by `signal`.
pub(super) fn status_of(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

fn passed_on(status: WaitStatus) -> u8 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(status), _) => u8::try_from(status).unwrap_or(u8::MAX),
        (None, Some(signal)) => status_of(signal),
        (None, None) => u8::MAX,
    }
}
