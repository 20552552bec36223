//! Where a memory cgroup can be made on cgroup v2.
//!
//! v2 knows "no internal processes": except in the root, a cgroup that holds processes cannot hand
//! `memory` on to children, so the obvious place, below our own cgroup, is mostly closed.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context as _, Result, anyhow};

use super::{
    Place, lists,
    scratch::{advice, collect_pids, empty, make},
};
use crate::output;

/// The cgroup to make ours below: the nearest ancestor that hands `memory` on already, mostly the
/// parent. `None` if there is none.
///
/// Limits of cgroups between the two do not apply to the command then; limits above do.
pub(super) fn parent(own: &Place) -> Result<Option<PathBuf>> {
    let mut visible = own
        .dir
        .ancestors()
        .take_while(|dir| dir.starts_with(&own.mount));
    if let Some(dir) = visible.find(|dir| lists(dir, "cgroup.subtree_control", "memory")) {
        return Ok(Some(dir.to_owned()));
    }
    // Only the true root has no type. Turning the controller on there is what init systems do; it
    // stays on, as by the time we end others may rely on it.
    let root = &own.mount;
    if root.join("cgroup.type").exists() || !lists(root, "cgroup.controllers", "memory") {
        return Ok(None);
    }
    let control = root.join("cgroup.subtree_control");
    fs::write(&control, "+memory")
        .with_context(|| format!("cannot enable memory in {}", control.display()))?;
    Ok(Some(root.clone()))
}

/// In a container of which oomtrace is the first process: its own cgroup can have children
/// with limits only while it is empty, so oomtrace waits in a child of it. Undone when dropped.
pub(super) struct Aside {
    own: PathBuf,
    pub(super) dir: PathBuf,
}

impl Aside {
    pub(super) fn step(own: &Path) -> Result<Self> {
        let mut pids = Vec::new();
        collect_pids(own, &mut pids);
        if pids != [process::id().to_string()] || !lists(own, "cgroup.controllers", "memory") {
            return Err(anyhow!(
                "no cgroup from {} upwards hands the memory controller on",
                own.display()
            ))
            .context(advice());
        }
        let aside = Self {
            own: own.to_owned(),
            dir: make(own, "self")?,
        };
        fs::write(aside.dir.join("cgroup.procs"), "0")
            .and_then(|()| fs::write(own.join("cgroup.subtree_control"), "+memory"))
            .with_context(|| format!("cannot enable memory in {}", own.display()))
            .context(advice())?;
        Ok(aside)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // If the first fails, so does the second, and says why.
        let _ = fs::write(self.own.join("cgroup.subtree_control"), "-memory");
        if let Err(error) = empty(&self.dir, &self.own) {
            let dir = self.dir.display();
            output::say(format_args!("cannot remove the cgroup {dir}: {error:#}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Version, *};

    /// Plain files stand in for the kernel's.
    fn tree(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let mount = std::env::temp_dir().join(format!("oomtrace-{}-{name}", process::id()));
        for (file, text) in files {
            let file = mount.join(file);
            fs::create_dir_all(file.parent().expect("a file has a parent")).expect("tmp");
            fs::write(file, text).expect("tmp");
        }
        mount
    }

    fn parent_of(mount: &Path, dir: &str) -> Option<PathBuf> {
        let place = Place {
            version: Version::V2,
            mount: mount.to_owned(),
            dir: mount.join(dir),
        };
        let parent = parent(&place).expect("readable");
        parent.map(|dir| dir.strip_prefix(mount).expect("below").to_owned())
    }

    #[test]
    fn nearest_ancestor_that_hands_memory_on() {
        let mount = tree(
            "nearest",
            &[
                ("cgroup.subtree_control", "cpu memory"),
                ("app.slice/cgroup.subtree_control", "memory pids\n"),
                ("app.slice/x.scope/cgroup.subtree_control", "\n"),
            ],
        );
        assert_eq!(
            parent_of(&mount, "app.slice/x.scope"),
            Some("app.slice".into())
        );
        assert_eq!(parent_of(&mount, "other.slice"), Some("".into()));
        fs::remove_dir_all(mount).expect("tmp");
    }

    #[test]
    fn true_root_is_made_to_hand_memory_on() {
        let mount = tree(
            "root",
            &[
                ("cgroup.controllers", "cpu memory"),
                ("cgroup.subtree_control", ""),
            ],
        );
        assert_eq!(parent_of(&mount, "a"), Some("".into()));
        let control = fs::read_to_string(mount.join("cgroup.subtree_control"));
        assert_eq!(control.expect("written"), "+memory");
        fs::remove_dir_all(mount).expect("tmp");
    }

    #[test]
    fn namespace_root_cannot_while_it_holds_processes() {
        let mount = tree(
            "namespace",
            &[
                ("cgroup.type", "domain"),
                ("cgroup.controllers", "cpu memory"),
                ("cgroup.subtree_control", ""),
            ],
        );
        assert_eq!(parent_of(&mount, ""), None);
        fs::remove_dir_all(mount).expect("tmp");
    }
}
