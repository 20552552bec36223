//! What procfs says of the machine and its processes: a witness that knows nothing of OOM kills.

use std::fs;

use anyhow::Context as _;

/// A process, as `/proc/PID` tells it.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) ppid: u32,
    /// Since boot, in hundredths of a second.
    pub(crate) start_ticks: u64,
    pub(crate) is_kernel_thread: bool,
    /// Path of its memory cgroup.
    pub(crate) cgroup: Vec<u8>,
    /// Arguments separated by spaces.
    pub(crate) cmdline: Vec<u8>,
}

impl Process {
    pub(crate) fn read(pid: u32) -> anyhow::Result<Self> {
        const PF_KTHREAD: u64 = 0x20_0000;
        let file = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read(&path).context(path)
        };
        let stat = file("stat")?;
        let end = stat.iter().rposition(|&b| b == b')').context("no name")?;
        let rest = std::str::from_utf8(&stat[end + 1..])?;
        let fields: Vec<_> = rest.split_whitespace().collect();
        // Numbered from 3, the state, as in proc(5).
        let field = |number: usize| fields.get(number - 3).copied().context("too short");
        let mut cmdline = file("cmdline")?;
        while cmdline.last() == Some(&0) {
            cmdline.pop();
        }
        for byte in &mut cmdline {
            if *byte == 0 {
                *byte = b' ';
            }
        }
        Ok(Self {
            ppid: field(4)?.parse()?,
            start_ticks: field(22)?.parse()?,
            is_kernel_thread: field(9)?.parse::<u64>()? & PF_KTHREAD != 0,
            // A dead leader has none of its own any more; its threads still have theirs.
            cgroup: match field(3)? {
                "Z" => live_thread_cgroup(pid).unwrap_or_default(),
                _ => memory_cgroup(&file("cgroup")?).unwrap_or_default(),
            },
            cmdline,
        })
    }
}

fn live_thread_cgroup(pid: u32) -> Option<Vec<u8>> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let others = threads.filter(|thread| thread.file_name().to_str() != Some(&pid.to_string()));
    let mut texts = others.filter_map(|thread| fs::read(thread.path().join("cgroup")).ok());
    memory_cgroup(&texts.next()?)
}

/// The path in `4:memory:/path` where v1 has the controller, else in `0::/path`.
fn memory_cgroup(text: &[u8]) -> Option<Vec<u8>> {
    let lines = || text.split(|&b| b == b'\n');
    let path = |controller: &[u8]| {
        lines().find_map(|line| {
            let mut fields = line.splitn(3, |&b| b == b':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let mut all = controllers.split(|&b| b == b',');
            all.any(|one| one == controller).then(|| path.to_vec())
        })
    };
    path(b"memory").or_else(|| path(b""))
}

/// Every process there is.
pub(crate) fn all_pids() -> anyhow::Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("/proc")?.flatten();
    Ok(entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect())
}

pub(crate) fn page_bytes() -> anyhow::Result<u64> {
    // SAFETY: a call without pointers.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).context("page size")
}

/// Whether threads hold back counts of their memory: `SPLIT_RSS_COUNTING`, gone in 6.2 with commit
/// f1a7941243c1 ("mm: convert mm's rss stats into percpu_counter").
pub(crate) fn threads_hold_counts_back() -> anyhow::Result<bool> {
    const TYPE: &[u8] = b"\0task_rss_stat\0";
    let btf = fs::read("/sys/kernel/btf/vmlinux").context("BTF of the kernel")?;
    Ok(btf.windows(TYPE.len()).any(|window| window == TYPE))
}

/// A line of `/proc/meminfo`, in bytes.
pub(crate) fn meminfo(name: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib: u64 = value
        .context("meminfo")?
        .trim()
        .trim_end_matches(" kB")
        .parse()?;
    Ok(kib << 10)
}

/// How many processes the kernel's OOM killer took since boot.
pub(crate) fn oom_kills() -> anyhow::Result<u64> {
    let vmstat = fs::read_to_string("/proc/vmstat").context("/proc/vmstat")?;
    let count = vmstat
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "));
    count
        .context("oom_kill in /proc/vmstat")?
        .parse()
        .context("oom_kill")
}

/// Tests of the reader itself.
pub(crate) mod tests {
    use anyhow::ensure;

    use super::{Process, memory_cgroup};

    pub(crate) fn finds_the_memory_cgroup() -> anyhow::Result<()> {
        let v1 = b"9:name=systemd:/\n4:cpu,memory:/a:b\n0::/elsewhere\n";
        ensure!(memory_cgroup(v1).as_deref() == Some(b"/a:b".as_slice()));
        ensure!(memory_cgroup(b"1:cpu:/x\n0::/y\n").as_deref() == Some(b"/y".as_slice()));
        Ok(())
    }

    pub(crate) fn knows_this_process() -> anyhow::Result<()> {
        let this = Process::read(std::process::id())?;
        ensure!(this.ppid == std::os::unix::process::parent_id() && !this.is_kernel_thread);
        ensure!(
            this.start_ticks > 0 && !this.cmdline.contains(&0),
            "{this:?}"
        );
        Ok(())
    }
}
