//! Where the kills happen: a scratch memory cgroup, a crowd of processes in it, and a hog.
//!
//! The limit is on the scratch cgroup alone, so the rest of the machine cannot run out of memory. The
//! crowd is a shell that forked itself: a process each, without what thousands of programs would take
//! to start.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::precedence;

/// The hidden command that plays the hog: a cgroup, and the MiB it allocates at most.
pub(crate) const HOG: &str = "__bench-hog";
/// The name of the hog in every report.
pub(super) const HOG_COMM: &str = "oombench";

const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";
const MIB: u64 = 1 << 20;
/// What the hog needs to grow before it hits the limit.
const ROOM: u64 = 48 * MIB;
/// What one of the crowd may cost the cgroup; some 300 KiB is usual, mostly the kernel's own.
const PER_PROCESS: u64 = 512 << 10;

/// Waits for the end of this process, however it comes, and undoes what outlives it.
const UNDO: &str = r#"trap "" INT TERM HUP
read -r _
echo "$1" >"$2"
tries=0
while [ -d "$3" ] && ! rmdir "$3" 2>/dev/null && [ $tries -lt 100 ]; do
    sleep 0.1
    tries=$((tries + 1))
done
[ ! -d "$3" ]"#;

/// Joins the cgroup, forks processes that wait for the end of the pipe, and says when they are there.
const GATHER: &str = r#"echo 0 >"$1/cgroup.procs" || exit 1
echo 0 >/proc/self/oom_score_adj
exec 3<&0
left=$2
while [ $left -gt 0 ]; do
    read -r _ <&3 >/dev/null &
    left=$((left - 1))
done
echo ready
wait"#;

/// The cgroup, and the kernel's statistics of BPF programs turned on. Both are undone at the end, even
/// if this process is killed.
pub(super) struct Scene {
    cgroup: PathBuf,
    v2: bool,
    undo: Child,
}

impl Scene {
    pub(super) fn set() -> Result<Self> {
        let (root, v2) = memory_controller()?;
        if v2 {
            let control = root.join("cgroup.subtree_control");
            let on = fs::read_to_string(&control).unwrap_or_default();
            if !on.split_whitespace().any(|name| name == "memory") {
                fs::write(&control, "+memory").with_context(|| control.display().to_string())?;
            }
        }
        let cgroup = root.join(format!("oomtrace-bench-{}", std::process::id()));
        let stats = fs::read_to_string(STATS).context(STATS)?;
        // First who cleans up, then what there is to clean.
        let undo = Command::new("sh")
            .args(["-c", UNDO, "sh", stats.trim(), STATS])
            .arg(&cgroup)
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot run sh")?;
        let scene = Self { cgroup, v2, undo };
        fs::write(STATS, "1").context(STATS)?;
        fs::create_dir(&scene.cgroup).with_context(|| scene.cgroup.display().to_string())?;
        // Memory that goes to swap never runs out. Both files may be missing.
        let _ = match v2 {
            true => fs::write(scene.cgroup.join("memory.swap.max"), "0"),
            false => fs::write(scene.cgroup.join("memory.swappiness"), "0"),
        };
        Ok(scene)
    }

    /// Brings `size` processes into the cgroup, then leaves no more room than the hog needs.
    pub(super) fn gather(&self, size: usize) -> Result<Crowd> {
        let most = 60 * MIB + PER_PROCESS * size as u64;
        let available = available()?;
        ensure!(
            available > 2 * most,
            "{size} processes may take {} MiB; of {} MiB that is too much",
            most / MIB,
            available / MIB
        );
        self.limit(most)?;
        let mut shell = Command::new("sh")
            .args(["-c", GATHER, "sh"])
            .arg(&self.cgroup)
            // The shell is one of them.
            .arg(size.saturating_sub(1).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run sh")?;
        let hold = shell.stdin.take();
        let stdout = shell.stdout.take().context("a piped stdout")?;
        let crowd = Crowd { shell, hold, size };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(
            line == "ready\n",
            "a crowd of {size} processes did not come together"
        );
        let usage = self.cgroup.join(match self.v2 {
            true => "memory.current",
            false => "memory.usage_in_bytes",
        });
        let usage: u64 = fs::read_to_string(&usage)
            .with_context(|| usage.display().to_string())?
            .trim()
            .parse()?;
        self.limit(usage + ROOM)?;
        Ok(crowd)
    }

    /// How many processes are in the cgroup.
    pub(super) fn population(&self) -> Result<usize> {
        let procs = self.cgroup.join("cgroup.procs");
        let list = fs::read_to_string(&procs).with_context(|| procs.display().to_string())?;
        Ok(list.lines().count())
    }

    /// Runs a hog until the kernel kills it.
    pub(super) fn kill(&self) -> Result<()> {
        let status = Command::new(env::current_exe()?)
            .arg(HOG)
            .arg(&self.cgroup)
            .arg((2 * ROOM / MIB).to_string())
            .status()
            .context("cannot run the hog")?;
        ensure!(
            status.signal() == Some(9),
            "the hog was not killed: {status}"
        );
        Ok(())
    }

    fn limit(&self, bytes: u64) -> Result<()> {
        let limit = self.cgroup.join(match self.v2 {
            true => "memory.max",
            false => "memory.limit_in_bytes",
        });
        fs::write(&limit, bytes.to_string()).with_context(|| limit.display().to_string())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        drop(self.undo.stdin.take());
        if !self.undo.wait().is_ok_and(|status| status.success()) {
            eprintln!("could not remove {}", self.cgroup.display());
        }
    }
}

/// Processes that wait. They leave when this is dropped.
pub(super) struct Crowd {
    shell: Child,
    hold: Option<ChildStdin>,
    size: usize,
}

impl Drop for Crowd {
    fn drop(&mut self) {
        if let Some(mut hold) = self.hold.take() {
            // One line ends one of them. All at once would be a load average of thousands, and what
            // is measured next would have to wait for it to go.
            for _ in 0..self.size {
                if hold.write_all(b"\n").is_err() {
                    break;
                }
                thread::sleep(Duration::from_micros(200));
            }
        }
        let _ = self.shell.wait();
    }
}

/// Plays the hog.
pub(crate) fn hog(args: &[String]) -> Result<()> {
    let [cgroup, mib] = args else {
        bail!("needs a cgroup and a number of MiB");
    };
    precedence::hurry(precedence::Side::First);
    fs::write(Path::new(cgroup).join("cgroup.procs"), "0").context("cannot join the cgroup")?;
    fs::write("/proc/self/comm", HOG_COMM)?;
    // Whatever the crowd has grown to, it is this process that dies.
    fs::write("/proc/self/oom_score_adj", "1000")?;
    let mut held = Vec::new();
    for _ in 0..mib.parse::<usize>()? {
        // Ones, since a page of zeros might never be given out.
        held.push(vec![1_u8; MIB as usize]);
    }
    std::hint::black_box(held);
    Ok(())
}

/// Bytes that this machine could still give out.
fn available() -> Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kib.context("/proc/meminfo has no MemAvailable")? << 10)
}

/// Where the memory controller is mounted, and whether that is cgroup v2.
fn memory_controller() -> Result<(PathBuf, bool)> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
    let find = |wanted: &str, option: Option<&str>| {
        mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (dir, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
            let fits = option.is_none_or(|name| options.split(',').any(|option| option == name));
            (kind == wanted && fits).then(|| PathBuf::from(dir))
        })
    };
    if let Some(dir) = find("cgroup", Some("memory")) {
        return Ok((dir, false));
    }
    let dir = find("cgroup2", None).context("no memory cgroup is mounted")?;
    Ok((dir, true))
}
