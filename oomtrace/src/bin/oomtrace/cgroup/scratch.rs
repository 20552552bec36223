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

use anyhow::{Context as _, Result, anyhow, bail};

use super::{Place, Version, lists};
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
}

impl Scratch {
    pub(crate) fn create(limits: Limits) -> Result<Self> {
        let own = super::own()?;
        let parent = match own.version {
            Version::V1 => own.dir.clone(),
            Version::V2 => parent_on_v2(&own)?,
        };
        let scratch = Self {
            dir: make(&parent)?,
            home: own.dir,
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
        while let Err(error) = remove_tree(&self.dir) {
            if error.kind() != io::ErrorKind::ResourceBusy {
                return Err(error.into());
            }
            if Instant::now() > patience {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        if !self.dir.exists() {
            return Ok(());
        }
        let left = self.evict();
        output::say(format_args!(
            "processes that CMD started go on without the limit: {}",
            left.join(", ")
        ));
        // Those that fork meanwhile take a few rounds.
        for _ in 0..50 {
            match remove_tree(&self.dir) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    self.evict();
                    thread::sleep(Duration::from_millis(10));
                }
                other => return Ok(other?),
            }
        }
        Err(anyhow!("processes in it cannot be moved away"))
    }

    /// Moves every process out, and yields their pids.
    fn evict(&self) -> Vec<String> {
        let mut pids = Vec::new();
        collect_pids(&self.dir, &mut pids);
        for pid in &pids {
            // A process that has ended meanwhile needs no move.
            let _ = fs::write(self.home.join("cgroup.procs"), pid);
        }
        pids
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            let dir = self.dir.display();
            output::say(format_args!("cannot remove the cgroup {dir}: {error:#}"));
        }
    }
}

/// The cgroup to make ours below. v2 knows "no internal processes": except in the root, a cgroup
/// that holds processes cannot hand `memory` on to children. So it is the nearest ancestor that
/// does so already, mostly the parent.
///
/// Limits of cgroups between the two do not apply to the command then; limits above do.
fn parent_on_v2(own: &Place) -> Result<PathBuf> {
    let visible = own
        .dir
        .ancestors()
        .take_while(|dir| dir.starts_with(&own.mount));
    for dir in visible {
        if lists(dir, "cgroup.subtree_control", "memory") {
            return Ok(dir.to_owned());
        }
    }
    // Only the true root has no type. Turning the controller on there is what init systems do; it
    // stays on, as by the time we end others may rely on it.
    let root = &own.mount;
    if !root.join("cgroup.type").exists() && lists(root, "cgroup.controllers", "memory") {
        let control = root.join("cgroup.subtree_control");
        fs::write(&control, "+memory")
            .with_context(|| format!("cannot enable memory in {}", control.display()))?;
        return Ok(root.clone());
    }
    Err(anyhow!(
        "no cgroup above {} hands the memory controller on",
        own.dir.display()
    ))
    .context(advice())
}

/// Makes a new cgroup below `parent`.
fn make(parent: &Path) -> Result<PathBuf> {
    for n in 0..1000 {
        let dir = parent.join(format!("oomtrace-run-{}-{n}", process::id()));
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
    bail!("{} is full of old oomtrace-run cgroups", parent.display())
}

fn advice() -> String {
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

fn collect_pids(dir: &Path, pids: &mut Vec<String>) {
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
