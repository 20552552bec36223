//! A memory cgroup for one command: made with its limits, removed in any case.
//!
//! It touches no cgroup that others made, with one exception that is explained where it happens,
//! and kills nobody: processes that outlive the command go back to where oomtrace itself stands.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    Version,
    v2::{self, Aside},
};
use crate::output;

/// How long processes that are on their way out may take before they count as left behind.
const PATIENCE: Duration = Duration::from_millis(500);

/// What the cgroup may use, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub memory_max: Option<u64>,
    pub swap_max: Option<u64>,
}

/// The cgroup. Removed when dropped.
pub(crate) struct Scratch {
    dir: PathBuf,
    /// The cgroup for processes that are still there at the end.
    home: PathBuf,
    /// Dropped after the rest.
    aside: Option<Aside>,
}

impl Scratch {
    pub(crate) fn create(limits: Limits) -> Result<Self> {
        let own = super::own()?;
        let (parent, aside) = match own.version {
            Version::V1 => (own.dir.clone(), None),
            Version::V2 => match v2::parent(&own)? {
                Some(parent) => (parent, None),
                None => (own.dir.clone(), Some(Aside::step(&own.dir)?)),
            },
        };
        let home = aside.as_ref().map_or(own.dir, |aside| aside.dir.clone());
        let scratch = Self {
            dir: make(&parent, "run")?,
            home,
            aside,
        };
        match own.version {
            Version::V1 => scratch.limit_v1(limits)?,
            Version::V2 => scratch.limit_v2(limits)?,
        }
        Ok(scratch)
    }

    /// The file that a process writes itself into to enter.
    pub(crate) fn procs(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    fn limit_v2(&self, limits: Limits) -> Result<()> {
        if let Some(bytes) = limits.memory_max {
            self.set("memory.max", bytes)?;
        }
        if let Some(bytes) = limits.swap_max {
            self.require("memory.swap.max")?;
            self.set("memory.swap.max", bytes)?;
        }
        Ok(())
    }

    /// v1 limits memory and swap together, and the sum may never be below the first.
    fn limit_v1(&self, limits: Limits) -> Result<()> {
        let memory = limits
            .memory_max
            .context("--swap-max needs --memory-max here: cgroup v1 limits both in one sum")?;
        self.set("memory.limit_in_bytes", memory)?;
        if let Some(swap) = limits.swap_max {
            self.require("memory.memsw.limit_in_bytes")?;
            self.set("memory.memsw.limit_in_bytes", memory.saturating_add(swap))?;
        }
        Ok(())
    }

    fn require(&self, file: &str) -> Result<()> {
        if self.dir.join(file).exists() {
            return Ok(());
        }
        bail!(
            "--swap-max: this kernel does not count swap per cgroup ({file} is missing): boot with swapaccount=1"
        )
    }

    fn set(&self, file: &str, bytes: u64) -> Result<()> {
        let path = self.dir.join(file);
        fs::write(&path, bytes.to_string())
            .with_context(|| format!("cannot set {} to {bytes}", path.display()))
    }

    fn remove(&self) -> Result<()> {
        let patience = Instant::now() + PATIENCE;
        while Instant::now() < patience {
            match remove_tree(&self.dir) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    thread::sleep(Duration::from_millis(10));
                }
                other => return Ok(other?),
            }
        }
        let left = empty(&self.dir, &self.home)?;
        if !left.is_empty() {
            output::say(format_args!(
                "processes that CMD started go on without the limit: {}",
                left.join(", ")
            ));
        }
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            let dir = self.dir.display();
            output::say(format_args!("cannot remove the cgroup {dir}: {error:#}"));
        }
        self.aside = None;
    }
}

/// Makes a new cgroup below `parent`.
pub(super) fn make(parent: &Path, role: &str) -> Result<PathBuf> {
    for n in 0..1000 {
        let dir = parent.join(format!("oomtrace-{role}-{}-{n}", process::id()));
        match fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot create {}", dir.display()))
                    .context(advice());
            }
        }
    }
    bail!("{} is full of old oomtrace cgroups", parent.display())
}

pub(super) fn advice() -> String {
    let user = if rustix::process::geteuid().is_root() {
        ""
    } else {
        "--user "
    };
    format!(
        "cannot make a memory cgroup for CMD (try `systemd-run {user}--scope -p Delegate=yes \
         oomtrace run …`)"
    )
}

/// Removes a cgroup and the cgroups that the command made below it. Files in them go along.
fn remove_tree(dir: &Path) -> io::Result<()> {
    for child in children(dir) {
        remove_tree(&child)?;
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Moves every process from `dir` to `home`, removes `dir`, and yields the pids.
pub(super) fn empty(dir: &Path, home: &Path) -> Result<Vec<String>> {
    let mut moved = Vec::new();
    // Those that fork meanwhile take a few rounds.
    for _ in 0..50 {
        let mut pids = Vec::new();
        collect_pids(dir, &mut pids);
        for pid in pids {
            // A process that has ended meanwhile needs no move.
            if fs::write(home.join("cgroup.procs"), &pid).is_ok() && !moved.contains(&pid) {
                moved.push(pid);
            }
        }
        match remove_tree(dir) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                thread::sleep(Duration::from_millis(10));
            }
            other => return Ok(other.map(|()| moved)?),
        }
    }
    bail!("processes in it cannot be moved to {}", home.display())
}

pub(super) fn collect_pids(dir: &Path, pids: &mut Vec<String>) {
    for child in children(dir) {
        collect_pids(&child, pids);
    }
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for a process of another pid namespace; writing it would move ourselves.
    pids.extend(procs.lines().filter(|pid| *pid != "0").map(str::to_owned));
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}
