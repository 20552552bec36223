//! Facts about this machine that decide whether, and how well, kills can be traced.
//!
//! Only reads. Which hooks the kernel grants is not guessed from these facts: `commands::doctor`
//! tries them.

use std::{fs, path::Path};

use crate::cgroup::{self, Version};

/// One fact and what it means.
#[derive(Debug)]
pub(crate) struct Check {
    pub name: &'static str,
    pub state: State,
    /// What is the case.
    pub found: String,
    /// What to do about it; empty if nothing needs doing.
    pub remedy: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ok,
    /// Tracing works, with less to see or at a price.
    Warn,
    Fail,
}

/// Every check, in the order in which tracing depends on them.
pub(crate) fn checks() -> Vec<Check> {
    vec![
        rights(&read("/proc/self/status").unwrap_or_default()),
        btf(),
        lockdown(read("/sys/kernel/security/lockdown").as_deref()),
        unprivileged(),
        jit(),
        memory_cgroups(),
        kptr_restrict(),
        panic_on_oom(),
        oom_kill_allocating_task(),
        oom_dump_tasks(),
    ]
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, State::Ok, found, "")
    }

    fn new(
        name: &'static str,
        state: State,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            name,
            state,
            found: found.into(),
            remedy: remedy.into(),
        }
    }
}

/// Bits of capabilities(7), from `linux/capability.h`.
const CAP_SYS_ADMIN: (u32, &str) = (21, "CAP_SYS_ADMIN");
const CAP_PERFMON: (u32, &str) = (38, "CAP_PERFMON");
const CAP_BPF: (u32, &str) = (39, "CAP_BPF");

fn rights(status: &str) -> Check {
    let name = "rights";
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let Some(effective) = effective else {
        return Check::new(
            name,
            State::Warn,
            "cannot be read from /proc/self/status",
            "mount /proc",
        );
    };
    let has = |(bit, _name): (u32, &str)| effective & (1 << bit) != 0;
    let all = [CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN];
    let (held, missing): (Vec<_>, Vec<_>) = all.into_iter().partition(|&cap| has(cap));
    let names = |caps: Vec<(u32, &'static str)>| {
        caps.into_iter()
            .map(|(_bit, name)| name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    // CAP_SYS_ADMIN contained both others until v5.8, and still stands in for them.
    if has(CAP_SYS_ADMIN) || (has(CAP_BPF) && has(CAP_PERFMON)) {
        Check::ok(name, names(held))
    } else {
        Check::new(
            name,
            State::Fail,
            format!("no {}", names(missing)),
            "run as root, e.g. with sudo; in a container, --privileged or CAP_BPF and CAP_PERFMON",
        )
    }
}

fn btf() -> Check {
    let path = "/sys/kernel/btf/vmlinux";
    match fs::metadata(path) {
        Ok(metadata) => Check::ok("BTF", format!("{path}, {} KiB", metadata.len() >> 10)),
        Err(error) => Check::new(
            "BTF",
            State::Fail,
            format!("{path}: {error}"),
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
        ),
    }
}

/// The active mode is in brackets: `none [integrity] confidentiality`.
fn lockdown(text: Option<&str>) -> Check {
    let name = "lockdown";
    let mode = text
        .and_then(|text| text.split_once('['))
        .and_then(|(_, rest)| rest.split_once(']'))
        .map(|(mode, _)| mode);
    match mode {
        None => Check::ok(name, "unknown (no /sys/kernel/security/lockdown)"),
        Some("none") => Check::ok(name, "none"),
        Some("confidentiality") => Check::new(
            name,
            State::Fail,
            "confidentiality: BPF may not read kernel memory",
            "boot with lockdown=integrity or without Secure Boot",
        ),
        Some(mode) => Check::new(
            name,
            State::Warn,
            format!("{mode}: the kernel may refuse kprobes"),
            "boot without lockdown if the hooks below miss something",
        ),
    }
}

fn unprivileged() -> Check {
    let show = |path: &str| read(path).unwrap_or_else(|| "absent".to_owned());
    Check::ok(
        "unprivileged",
        format!(
            "unprivileged_bpf_disabled {}, perf_event_paranoid {}; neither binds the rights above",
            show("/proc/sys/kernel/unprivileged_bpf_disabled"),
            show("/proc/sys/kernel/perf_event_paranoid"),
        ),
    )
}

fn jit() -> Check {
    sysctl("net.core.bpf_jit_enable", |value| {
        (value == "0").then_some((
            "off: a snapshot takes several times longer",
            "sysctl net.core.bpf_jit_enable=1",
        ))
    })
}

fn memory_cgroups() -> Check {
    let name = "memory cgroups";
    match cgroup::own() {
        Ok(place) => {
            let version = match place.version {
                Version::V1 => "v1",
                Version::V2 => "v2",
            };
            Check::ok(name, format!("{version}, ours is {}", place.dir.display()))
        }
        Err(error) => Check::new(
            name,
            State::Warn,
            format!("{error:#}"),
            "kills are traced; `run --memory-max` needs a memory cgroup",
        ),
    }
}

fn kptr_restrict() -> Check {
    sysctl("kernel.kptr_restrict", |value| {
        (value == "2").then_some((
            "hides kernel symbols from everybody: stacks will be bare addresses",
            "sysctl kernel.kptr_restrict=1",
        ))
    })
}

fn panic_on_oom() -> Check {
    sysctl("vm.panic_on_oom", |value| {
        (value != "0").then_some((
            "the kernel panics instead of killing, and what was traced is lost with it",
            "sysctl vm.panic_on_oom=0",
        ))
    })
}

fn oom_kill_allocating_task() -> Check {
    sysctl("vm.oom_kill_allocating_task", |value| {
        (value != "0").then_some((
            "in a global OOM the kernel kills whoever asks for memory, not the largest",
            "sysctl vm.oom_kill_allocating_task=0",
        ))
    })
}

fn oom_dump_tasks() -> Check {
    sysctl("vm.oom_dump_tasks", |value| {
        (value == "0").then_some((
            "the kernel log lists no candidates (oomtrace does, all the same)",
            "",
        ))
    })
}

/// A sysctl, with what is wrong with its value and the remedy, if something is.
fn sysctl(
    name: &'static str,
    judge: impl FnOnce(&str) -> Option<(&'static str, &'static str)>,
) -> Check {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    let Some(value) = read(&path) else {
        return Check::ok(name, "absent");
    };
    match judge(&value) {
        None => Check::ok(name, value),
        Some((meaning, remedy)) => {
            Check::new(name, State::Warn, format!("{value}: {meaning}"), remedy)
        }
    }
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_from_cap_eff() {
        let state = |mask: &str| rights(&format!("Name:\tx\nCapEff:\t{mask}\n")).state;
        assert_eq!(state("000001ffffffffff"), State::Ok);
        assert_eq!(state("0000000000200000"), State::Ok);
        assert_eq!(state("000000c000000000"), State::Ok);
        assert_eq!(state("0000008000000000"), State::Fail);
        assert_eq!(state("0000000000000000"), State::Fail);
        assert_eq!(rights("").state, State::Warn);
    }

    #[test]
    fn lockdown_modes() {
        let state = |text| lockdown(Some(text)).state;
        assert_eq!(state("[none] integrity confidentiality"), State::Ok);
        assert_eq!(state("none [integrity] confidentiality"), State::Warn);
        assert_eq!(state("none integrity [confidentiality]"), State::Fail);
        assert_eq!(lockdown(None).state, State::Ok);
    }
}
