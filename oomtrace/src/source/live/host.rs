//! Facts about this machine, read once.

use std::{fs, path::Path};

use rustix::time::{ClockId, clock_gettime};

use crate::{
    error::{Error, Result},
    incident::{Host, Text},
};

/// Reads them.
pub(super) fn read() -> Result<Host> {
    let names = rustix::system::uname();
    let meminfo = read_file("/proc/meminfo")?;
    Ok(Host {
        hostname: Some(Text::new(names.nodename().to_bytes())),
        boot_id: Some(
            read_file("/proc/sys/kernel/random/boot_id")?
                .trim()
                .to_owned(),
        ),
        kernel: Some(Text::new(names.release().to_bytes())),
        arch: Some(names.machine().to_string_lossy().into_owned()),
        page_size: Some(rustix::param::page_size() as u64),
        cpus: possible_cpus(),
        ram_bytes: meminfo_bytes(&meminfo, "MemTotal:"),
        swap_total_bytes: meminfo_bytes(&meminfo, "SwapTotal:"),
    })
}

/// Wall clock minus boot clock in nanoseconds.
pub(super) fn wall_minus_boot_ns() -> i64 {
    clock_ns(ClockId::Realtime).saturating_sub(clock_ns(ClockId::Boottime))
}

/// Nanoseconds since boot, suspend included.
pub(super) fn boot_ns() -> u64 {
    u64::try_from(clock_ns(ClockId::Boottime)).unwrap_or(0)
}

fn clock_ns(id: ClockId) -> i64 {
    let time = clock_gettime(id);
    time.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_nsec)
}

/// Effective capabilities of this process, from `/proc/self/status`.
pub(super) fn capabilities() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn read_file(path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(|source| Error::Io {
        path: Path::new(path).to_owned(),
        source,
    })
}

fn meminfo_bytes(meminfo: &str, key: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// CPUs that may ever come online: the numbers that per-CPU memory is indexed by.
fn possible_cpus() -> Option<u32> {
    let ranges = fs::read_to_string("/sys/devices/system/cpu/possible").ok()?;
    let last = ranges.trim().rsplit([',', '-']).next()?;
    Some(last.parse::<u32>().ok()? + 1)
}
