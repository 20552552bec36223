//! Process 1 of a virtual machine: arranges the bare kernel, runs the scenarios that the kernel
//! command line names, tells of them on the console, and switches off.
//!
//! One line each, read by `cargo xtask vm`:
//!
//! ```text
//! @@ start SCENARIO
//! @@ rows SCENARIO ROWS RUNG      the rung may hold spaces
//! @@ pass SCENARIO DETAIL         or fail, or skip, with a reason
//! @@ end
//! ```

use std::{ffi::CString, fs, path::PathBuf, ptr, time::Duration};

use anyhow::{Context as _, ensure};

use crate::{
    cgroup::Hierarchy,
    context::{Context, Skip, Verdict},
    harness::{Outcome, line, run},
    kmsg,
    scenarios::{Place, SCENARIOS, Scenario},
};

/// Scenarios of this place run in one boot, with the cgroups that it needs.
pub(crate) fn boot_group(place: Place) -> Option<&'static str> {
    match place {
        Place::Anywhere | Place::VmV2 => Some("v2"),
        Place::VmV1 => Some("v1"),
        Place::Host => None,
    }
}

/// MiB of memory that a boot group needs.
pub(crate) fn memory_mib(group: &str) -> u32 {
    // Two thousand processes take about 100 KiB of the kernel's memory each.
    if group == "v2" { 768 } else { 512 }
}

/// Never returns: a kernel without its process 1 panics.
pub(crate) fn main() -> ! {
    if let Err(error) = mount_basics() {
        line(&format!("@@ fail boot {error:#}"));
    }
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let named = command_line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("oomtrace.scenarios="))
        .unwrap_or_default();
    for name in named.split(',').filter(|name| !name.is_empty()) {
        line(&format!("@@ start {name}"));
        let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name);
        tell(
            name,
            run(|| run_scenario(scenario.context("no such scenario")?).map(Some)),
        );
        reap();
    }
    if let Err(error) = tell_disasters() {
        line(&format!("@@ fail kernel-log {error:#}"));
    }
    line("@@ end");
    power_off()
}

fn run_scenario(scenario: &Scenario) -> anyhow::Result<Verdict> {
    let group = boot_group(scenario.place).context("not a scenario for a VM")?;
    let context = Context {
        oomtrace: PathBuf::from("/oomtrace"),
        own_machine: true,
        hierarchy: Some(mount_cgroups(group == "v2")?),
        patience: Duration::from_secs(60),
    };
    scenario.run(&context)
}

fn tell(name: &str, outcome: Outcome) {
    match outcome {
        Outcome::Passed(Some(verdict)) => {
            line(&format!("@@ rows {name} {} {}", verdict.rows, verdict.rung));
            line(&format!(
                "@@ pass {name} {} values; {}",
                verdict.values, verdict.note
            ));
        }
        Outcome::Passed(None) => line(&format!("@@ fail {name} it compared nothing")),
        Outcome::Skipped(reason) => line(&format!("@@ skip {name} {}", one_line(&reason))),
        Outcome::Failed(reason) => line(&format!("@@ fail {name} {}", one_line(&reason))),
    }
}

fn one_line(text: &str) -> String {
    text.replace('\n', " / ")
}

fn mount_basics() -> anyhow::Result<()> {
    mount("proc", "/proc", "proc", "")?;
    mount("sysfs", "/sys", "sysfs", "")?;
    mount("devtmpfs", "/dev", "devtmpfs", "")?;
    mount("tmpfs", "/tmp", "tmpfs", "")?;
    mount("tracefs", "/sys/kernel/tracing", "tracefs", "")?;
    // The dump of the OOM killer would take seconds on a serial line, and then hold up the kill.
    // Errors are few, and may be the last that is heard of this kernel.
    fs::write("/proc/sys/kernel/printk", "4 4 1 7").context("printk")?;
    fs::write("/proc/sys/kernel/printk_ratelimit", "0").context("printk_ratelimit")?;
    Ok(())
}

/// Mounts the memory controller of the version wanted, unless that was done before.
fn mount_cgroups(v2: bool) -> anyhow::Result<Hierarchy> {
    if let Some(found) = Hierarchy::find()? {
        ensure!(
            found.v2 == v2,
            Skip(format!("memory is on cgroup {}", found.version()))
        );
        return Ok(found);
    }
    let mounted = if v2 {
        mount("none", "/sys/fs/cgroup", "cgroup2", "")
    } else {
        mount("tmpfs", "/sys/fs/cgroup", "tmpfs", "")
            .and_then(|()| mount("none", "/sys/fs/cgroup/memory", "cgroup", "memory"))
    };
    let version = if v2 { "v2" } else { "v1" };
    mounted.map_err(|error| Skip(format!("no memory on cgroup {version}: {error:#}")))?;
    let found = Hierarchy::find()?;
    Ok(found.ok_or_else(|| Skip(format!("no memory controller on cgroup {version}")))?)
}

fn mount(source: &str, target: &str, kind: &str, data: &str) -> anyhow::Result<()> {
    let _ = fs::create_dir_all(target);
    let [source, at, kind, data] = [source, target, kind, data].map(CString::new);
    let (source, at, kind, data) = (source?, at?, kind?, data?);
    // SAFETY: NUL-terminated strings that outlive the call.
    let done = unsafe {
        let data = if data.is_empty() {
            ptr::null()
        } else {
            data.as_ptr().cast()
        };
        libc::mount(source.as_ptr(), at.as_ptr(), kind.as_ptr(), 0, data)
    };
    ensure!(
        done == 0,
        "mount {target}: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

/// Repeats what the console was too quiet for, so that whoever listens can judge this kernel.
fn tell_disasters() -> anyhow::Result<()> {
    const WORDS: [&str; 4] = ["WARNING:", "BUG:", "rcu: INFO", "blocked for more than"];
    for text in kmsg::history()? {
        let text = String::from_utf8_lossy(&text);
        if WORDS.iter().any(|word| text.contains(word)) {
            line(&text);
        }
    }
    Ok(())
}

/// Buries orphans: what workloads forked ends here.
fn reap() {
    // SAFETY: no pointer but a null one, which is allowed.
    while unsafe { libc::waitpid(-1, ptr::null_mut(), libc::WNOHANG) } > 0 {}
}

fn power_off() -> ! {
    // SAFETY: ends the machine, or returns with an error.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
        libc::reboot(libc::RB_AUTOBOOT);
        libc::_exit(0)
    }
}
