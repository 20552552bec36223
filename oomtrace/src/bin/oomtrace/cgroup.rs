//! Where this process stands among the memory cgroups of this machine.
//!
//! `/proc/self/cgroup` names the cgroup as seen from the root of the cgroup namespace, and
//! `/proc/self/mountinfo` says which part of the hierarchy is mounted where; only both together
//! give a directory. cgroups(7) describes the first, proc_pid_mountinfo(5) the second.

mod scratch;
mod v2;

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

pub(crate) use scratch::{Limits, Scratch};

/// Which interface a memory cgroup has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// A memory cgroup, as a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub version: Version,
    /// Where the hierarchy, or the part of it that can be seen, is mounted.
    pub mount: PathBuf,
    pub dir: PathBuf,
}

/// The memory cgroup of this process.
pub(crate) fn own() -> Result<Place> {
    let read = |path| fs::read(path).with_context(|| format!("cannot read {path}"));
    let places = places(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?)?;
    // Mounts may hide each other, so what counts is what can be seen.
    places
        .into_iter()
        .find(|place| place.dir.join("cgroup.procs").exists())
        .context("the memory cgroup of oomtrace cannot be seen: mount cgroup2 on /sys/fs/cgroup")
}

/// Every directory that may be the cgroup, from the texts of the two files.
fn places(cgroup: &[u8], mountinfo: &[u8]) -> Result<Vec<Place>> {
    let (version, path) = membership(cgroup)?;
    Ok(lines(mountinfo)
        .filter_map(|line| mount(line, version))
        .filter_map(|(root, mount)| {
            let below = path.strip_prefix(&root).ok()?;
            Some(Place {
                version,
                // Joining nothing would leave a slash at the end.
                dir: mount.join(below).components().collect(),
                mount,
            })
        })
        .collect())
}

/// Lines are `hierarchy:controllers:path`. The memory controller is on v2 unless v1 has it.
fn membership(cgroup: &[u8]) -> Result<(Version, PathBuf)> {
    let mut v2 = None;
    for line in lines(cgroup) {
        let mut fields = line.splitn(3, |&b| b == b':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let path = PathBuf::from(OsString::from_vec(path.to_vec()));
        if path.starts_with("/..") {
            bail!(
                "the memory cgroup of oomtrace ({}) is outside its cgroup namespace: start it \
                 from within",
                path.display()
            );
        }
        if controllers.split(|&b| b == b',').any(|c| c == b"memory") {
            return Ok((Version::V1, path));
        }
        if controllers.is_empty() {
            v2 = Some(path);
        }
    }
    match v2 {
        Some(path) => Ok((Version::V2, path)),
        None => bail!("this kernel has no memory cgroups (CONFIG_MEMCG, cgroup_disable=memory)"),
    }
}

/// Root within the hierarchy and mount point of one line of mountinfo, if the memory cgroups of
/// this version are mounted there.
fn mount(line: &[u8], version: Version) -> Option<(PathBuf, PathBuf)> {
    let fields: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    let (&root, &point) = (fields.get(3)?, fields.get(4)?);
    // Optional fields end with a lone dash; type, source and options of the superblock follow.
    let dash = 6 + fields.get(6..)?.iter().position(|&field| field == b"-")?;
    let kind = *fields.get(dash + 1)?;
    let options = *fields.get(dash + 3)?;
    let ours = match version {
        Version::V1 => kind == b"cgroup" && options.split(|&b| b == b',').any(|o| o == b"memory"),
        Version::V2 => kind == b"cgroup2",
    };
    ours.then(|| (unescape(root), unescape(point)))
}

/// Undoes the kernel's escapes of space, tab, newline and backslash: `\040` and its like.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        let octal = (first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => bytes.push(first),
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&b| b == b'\n').filter(|line| !line.is_empty())
}

/// Whether `file` in the cgroup `dir` lists `word`.
fn lists(dir: &Path, file: &str, word: &str) -> bool {
    fs::read_to_string(dir.join(file))
        .is_ok_and(|text| text.split_whitespace().any(|listed| listed == word))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(cgroup: &str, mountinfo: &str, expected: Expect) {
        let found = match places(cgroup.as_bytes(), mountinfo.as_bytes()) {
            Ok(places) => places
                .iter()
                .map(|p| format!("{:?} {:?} below {:?}\n", p.version, p.dir, p.mount))
                .collect(),
            Err(error) => format!("{error:#}\n"),
        };
        expected.assert_eq(&found);
    }

    #[test]
    fn v2_alone() {
        check(
            "0::/user.slice/user-0.slice/session-1.scope\n",
            "24 30 0:22 / /proc rw,nosuid shared:5 - proc proc rw\n\
             35 24 0:30 / /sys/fs/cgroup rw,nosuid,nodev shared:9 master:2 - cgroup2 cgroup2 rw,nsdelegate\n",
            expect![[r#"
                V2 "/sys/fs/cgroup/user.slice/user-0.slice/session-1.scope" below "/sys/fs/cgroup"
            "#]],
        );
    }

    #[test]
    fn v1_with_controllers_mounted_together() {
        check(
            "9:memory:/a b\n8:cpu,cpuacct:/other\n1:name=systemd:/x\n",
            "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n",
            expect![[r#"
                V1 "/sys/fs/cgroup/memory/a b" below "/sys/fs/cgroup/memory"
            "#]],
        );
    }

    #[test]
    fn hybrid_has_the_controller_on_v1() {
        check(
            "4:memory:/jobs/7\n1:name=systemd:/\n0::/elsewhere\n",
            "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            expect![[r#"
                V1 "/sys/fs/cgroup/memory/jobs/7" below "/sys/fs/cgroup/memory"
            "#]],
        );
    }

    #[test]
    fn container_with_a_cgroup_namespace() {
        check(
            "0::/\n",
            "1195 1194 0:29 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate\n",
            expect![[r#"
                V2 "/sys/fs/cgroup" below "/sys/fs/cgroup"
            "#]],
        );
    }

    /// Docker on v1: only the container's own part is mounted, under the name of the whole.
    #[test]
    fn container_without_a_cgroup_namespace() {
        check(
            "6:memory:/docker/0af1/inner\n",
            "900 1 0:32 /docker/ffff /mnt rw - cgroup cgroup rw,memory\n\
             901 1 0:32 /docker/0af1 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
            expect![[r#"
                V1 "/sys/fs/cgroup/memory/inner" below "/sys/fs/cgroup/memory"
            "#]],
        );
    }

    #[test]
    fn outside_the_cgroup_namespace() {
        check(
            "0::/../sibling\n",
            "1 0 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
            expect![[r#"
                the memory cgroup of oomtrace (/../sibling) is outside its cgroup namespace: start it from within
            "#]],
        );
    }

    #[test]
    fn escaped_mount_point() {
        check(
            "0::/x\n",
            "35 24 0:30 / /mnt/my\\040cgroups\\134\\011 rw - cgroup2 cgroup2 rw\n",
            expect![[r#"
                V2 "/mnt/my cgroups\\\t/x" below "/mnt/my cgroups\\\t"
            "#]],
        );
    }

    #[test]
    fn nothing_there() {
        check(
            "",
            "",
            expect![[r#"
            this kernel has no memory cgroups (CONFIG_MEMCG, cgroup_disable=memory)
        "#]],
        );
        check("0::/x\n", "short line\n", expect![[r#""#]]);
    }
}
