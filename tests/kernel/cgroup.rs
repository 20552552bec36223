//! A scratch memory cgroup, v1 or v2, that leaves nothing behind.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

/// Where the memory controller lives on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Hierarchy {
    pub(crate) root: PathBuf,
    pub(crate) v2: bool,
}

impl Hierarchy {
    /// Looks through the mounts for a memory controller.
    pub(crate) fn find() -> anyhow::Result<Option<Self>> {
        let mounts = fs::read_to_string("/proc/mounts").context("/proc/mounts")?;
        for mount in mounts.lines() {
            let fields: Vec<_> = mount.split(' ').collect();
            let [_, root, kind, options, ..] = fields[..] else {
                continue;
            };
            let root = PathBuf::from(root);
            let controllers = || fs::read_to_string(root.join("cgroup.controllers"));
            if kind == "cgroup" && options.split(',').any(|option| option == "memory") {
                return Ok(Some(Self { root, v2: false }));
            }
            if kind == "cgroup2" && controllers().is_ok_and(|all| all.contains("memory")) {
                return Ok(Some(Self { root, v2: true }));
            }
        }
        Ok(None)
    }

    /// How this version is called in messages.
    pub(crate) fn version(&self) -> &'static str {
        if self.v2 { "v2" } else { "v1" }
    }
}

/// A cgroup of our own and all below it. Dropping it kills what is still inside and removes it.
pub(crate) struct Scratch {
    hierarchy: Hierarchy,
    dir: PathBuf,
}

impl Scratch {
    pub(crate) fn new(hierarchy: &Hierarchy, name: &str) -> anyhow::Result<Self> {
        let dir = hierarchy
            .root
            .join(format!("oomtrace-test-{}-{name}", process::id()));
        if hierarchy.v2 {
            delegate(&hierarchy.root)?;
        }
        fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(Self {
            hierarchy: hierarchy.clone(),
            dir,
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the cgroup `path` below this one. Parents must hold no processes on v2.
    pub(crate) fn child(&self, path: &str) -> anyhow::Result<PathBuf> {
        let mut dir = self.dir.clone();
        for part in path.split('/') {
            if self.hierarchy.v2 {
                delegate(&dir)?;
            } else {
                // A limit of v1 reaches what is below only if told so, until 5.11 made it the rule.
                let _ = fs::write(dir.join("memory.use_hierarchy"), "1");
            }
            dir.push(part);
            match fs::create_dir(&dir) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                done => done.with_context(|| format!("create {}", dir.display()))?,
            }
        }
        Ok(dir)
    }

    /// Path of `dir` as the kernel prints it: below the root of the hierarchy.
    pub(crate) fn kernel_path(&self, dir: &Path) -> String {
        let below = dir.strip_prefix(&self.hierarchy.root).unwrap_or(dir);
        format!("/{}", below.display())
    }

    pub(crate) fn usage_bytes(&self) -> anyhow::Result<u64> {
        let name = self.name("memory.current", "memory.usage_in_bytes");
        let text = fs::read_to_string(self.dir.join(name)).context(name)?;
        text.trim().parse().context(name)
    }

    pub(crate) fn set_limit(&self, bytes: u64) -> anyhow::Result<()> {
        let name = self.name("memory.max", "memory.limit_in_bytes");
        fs::write(self.dir.join(name), bytes.to_string()).context(name)
    }

    /// The kernel's own count of processes that its OOM killer took from here and below.
    pub(crate) fn oom_kills(&self) -> anyhow::Result<u64> {
        let name = self.name("memory.events", "memory.oom_control");
        let mut sum = 0;
        for dir in tree(&self.dir) {
            let text = fs::read_to_string(dir.join(name)).context(name)?;
            let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
            sum += count
                .context("no line oom_kill")?
                .parse::<u64>()
                .context(name)?;
            if self.hierarchy.v2 {
                // Counts what is below as well; v1 counts each cgroup for itself.
                break;
            }
        }
        Ok(sum)
    }

    /// Makes all of it die together (v2 only).
    pub(crate) fn set_oom_group(&self) -> anyhow::Result<()> {
        fs::write(self.dir.join("memory.oom.group"), "1").context("memory.oom.group")
    }

    /// Process ids inside, all levels.
    pub(crate) fn processes(&self) -> anyhow::Result<Vec<u32>> {
        let mut all = Vec::new();
        for dir in tree(&self.dir) {
            let text = fs::read_to_string(dir.join("cgroup.procs")).context("cgroup.procs")?;
            all.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        }
        Ok(all)
    }

    fn name(&self, v2: &'static str, v1: &'static str) -> &'static str {
        if self.hierarchy.v2 { v2 } else { v1 }
    }

    fn remove(&self) -> anyhow::Result<()> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let left = self.processes()?;
            for pid in &left {
                // SAFETY: a call without pointers. Only our own processes ever entered.
                unsafe { libc::kill(i32::try_from(*pid)?, libc::SIGKILL) };
            }
            // Children first; a cgroup refuses while something in it is still dying.
            let removed = tree(&self.dir).iter().rev().try_for_each(fs::remove_dir);
            match removed {
                Ok(()) => return Ok(()),
                Err(_) if Instant::now() < end => thread::sleep(Duration::from_millis(20)),
                Err(error) => bail!(
                    "{} stays: {error}, {} inside",
                    self.dir.display(),
                    left.len()
                ),
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            let _ = io::Write::write_all(&mut io::stderr(), format!("{error:#}\n").as_bytes());
        }
    }
}

/// Inode number of a cgroup's directory: the id by which the kernel and oomtrace know it.
pub(crate) fn id(dir: &Path) -> anyhow::Result<u64> {
    Ok(fs::metadata(dir)
        .with_context(|| dir.display().to_string())?
        .ino())
}

fn delegate(dir: &Path) -> anyhow::Result<()> {
    let file = dir.join("cgroup.subtree_control");
    fs::write(&file, "+memory").with_context(|| format!("+memory to {}", file.display()))
}

/// `dir` and all directories below, parents first.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_owned()];
    let mut at = 0;
    while at < all.len() {
        if let Ok(entries) = fs::read_dir(&all[at]) {
            let below = entries.flatten().map(|entry| entry.path());
            all.extend(below.filter(|path| path.is_dir()));
        }
        at += 1;
    }
    all
}
