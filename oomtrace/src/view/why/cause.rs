//! What ran out, and who happened to ask.

use crate::incident::{Cgroup, CgroupVersion, Incident, Scope, System, Trigger};
use crate::view::units::{bytes, duration, path, process};

/// What ran out, and what did not.
pub(super) fn what_ran_out(incident: &Incident) -> Option<String> {
    Some(match incident.scope? {
        Scope::Memcg => return cgroup_limit(incident),
        Scope::Global => format!(
            "The host itself ran out of memory.{}",
            host_memory(incident)
        ),
        Scope::Cpuset => format!(
            "The NUMA nodes that a cpuset leaves to {} ran out, not the host as a whole.",
            asker(incident)
        ),
        Scope::Mempolicy => format!(
            "The NUMA nodes that a memory policy leaves to {} ran out, not the host as a whole.",
            asker(incident)
        ),
        Scope::Sysrq => {
            let free = incident
                .system
                .as_ref()
                .and_then(|system| system.free_bytes);
            let free = free.map(|free| format!(": {} were free", bytes(free)));
            format!(
                "Somebody ordered this kill by hand (Alt-SysRq-F, or `f` written to \
                 /proc/sysrq-trigger). It is no sign that memory had run out{}.",
                free.unwrap_or_default()
            )
        }
    })
}

/// The limit of a cgroup that is hit: its file, its value, what was in use.
pub(crate) struct Limit {
    /// The file that sets it.
    pub(crate) file: &'static str,
    /// What it limits, in words.
    pub(crate) what: &'static str,
    /// How a table marks the cgroup.
    pub(crate) mark: &'static str,
    /// Its value.
    pub(crate) max_bytes: u64,
    /// In use.
    pub(crate) usage_bytes: Option<u64>,
}

/// The limit of this cgroup that has the least room left.
pub(crate) fn tightest_limit(cgroup: &Cgroup) -> Option<Limit> {
    let v1 = cgroup.version == Some(CgroupVersion::V1);
    let memory = cgroup.max_bytes.map(|max_bytes| Limit {
        file: if v1 {
            "memory.limit_in_bytes"
        } else {
            "memory.max"
        },
        what: "memory",
        mark: "LIMIT HIT",
        max_bytes,
        usage_bytes: cgroup.usage_bytes,
    });
    let memsw = cgroup.memsw_max_bytes.map(|max_bytes| Limit {
        file: "memory.memsw.limit_in_bytes",
        what: "memory and swap together",
        mark: "MEM+SWAP LIMIT",
        max_bytes,
        usage_bytes: cgroup.memsw_bytes,
    });
    let room = |limit: &Limit| match limit.usage_bytes {
        Some(usage) => limit.max_bytes.saturating_sub(usage),
        None => u64::MAX,
    };
    memory.into_iter().chain(memsw).min_by_key(room)
}

/// How a table marks this cgroup, if its limit was the one.
pub(crate) fn limit_mark(incident: &Incident, cgroup: &Cgroup) -> Option<&'static str> {
    let hit = incident.oom_cgroup == Some(cgroup.id);
    hit.then(|| tightest_limit(cgroup).map_or("LIMIT HIT", |limit| limit.mark))
}

fn cgroup_limit(incident: &Incident) -> Option<String> {
    let free = incident
        .system
        .as_ref()
        .and_then(|system| system.free_bytes);
    let host = match free {
        Some(free) => format!(
            "It is the limit of this cgroup, not the host running out: the host had {} of RAM free.",
            bytes(free)
        ),
        None => "It is the limit of this cgroup; it does not mean that the host was full.".into(),
    };
    let Some(cgroup) = incident.oom_cgroup.and_then(|id| incident.cgroup(id)) else {
        return Some("A cgroup reached its memory limit; this is not the host running out.".into());
    };
    let path = path(&cgroup.path);
    let reached = match tightest_limit(cgroup) {
        Some(Limit {
            file: _,
            what,
            mark: _,
            max_bytes,
            usage_bytes,
        }) => {
            let used = match usage_bytes {
                Some(usage) if usage >= max_bytes => ", all of it in use".to_owned(),
                Some(usage) => format!(", all but {} in use", bytes(max_bytes - usage)),
                None => String::new(),
            };
            format!(
                "{path} reached its limit for {what}: {}{used}.",
                bytes(max_bytes)
            )
        }
        None => format!("{path} reached its memory limit."),
    };
    Some(format!(
        "{reached} {host}{}",
        limit_from_above(incident, cgroup)
    ))
}

/// Says so when the victim's own cgroup is not the one whose limit was hit.
fn limit_from_above(incident: &Incident, limited: &Cgroup) -> String {
    let chosen = incident
        .chosen_candidate()
        .map(|c| (c.cgroup, process(&c.comm, c.pid)));
    let Some((Some(home), who)) = chosen else {
        return String::new();
    };
    let Some(home) = incident.cgroup(home).filter(|home| home.id != limited.id) else {
        return String::new();
    };
    let own = match (home.max_bytes, home.usage_bytes) {
        (Some(max), Some(usage)) if usage < max => format!(
            ", whose own limit of {} was not reached ({} in use)",
            bytes(max),
            bytes(usage)
        ),
        _ => String::new(),
    };
    format!(
        " {who} lives below it, in {}{own}: a limit counts everything below it.",
        path(&home.path)
    )
}

/// ` 95 MiB of 7.8 GiB RAM were free, …; swap …`.
fn host_memory(incident: &Incident) -> String {
    let Some(System { free_bytes, swap }) = &incident.system else {
        return String::new();
    };
    let mut out = String::new();
    match (free_bytes, incident.host.ram_bytes) {
        (Some(free), Some(ram)) => {
            out += &format!(" {} of {} RAM were free", bytes(*free), bytes(ram));
        }
        (Some(free), None) => out += &format!(" {} of RAM were free", bytes(*free)),
        _ => {}
    }
    if !out.is_empty() {
        out += ", but the kernel keeps a reserve, and not every request may use every part.";
    }
    match swap {
        None => {}
        Some(swap) if swap.total_bytes == 0 => out += " There is no swap.",
        Some(swap) if swap.free_bytes < swap.total_bytes / 100 => {
            out += &format!(
                " Swap is full: {} left of {}.",
                bytes(swap.free_bytes),
                bytes(swap.total_bytes)
            );
        }
        Some(swap) => {
            out += &format!(
                " Swap was not full: {} free of {}.",
                bytes(swap.free_bytes),
                bytes(swap.total_bytes)
            );
        }
    }
    out
}

fn asker(incident: &Incident) -> String {
    match &incident.trigger {
        Some(trigger) => process(&trigger.comm, trigger.pid),
        None => "the one who asked".into(),
    }
}

/// Who asked, and that asking is no guilt.
pub(super) fn who_asked(incident: &Incident) -> Option<String> {
    let trigger = incident.trigger.as_ref()?;
    let who = process(&trigger.comm, trigger.pid);
    if incident.scope == Some(Scope::Sysrq) || trigger.order == Some(-1) {
        return Some(format!("{who} merely carried out that order."));
    }
    let request = match requested_bytes(trigger, incident.host.page_size) {
        Some(size) if trigger.order > Some(0) => format!("{} in one piece", bytes(size)),
        Some(size) => format!("the next {}", bytes(size)),
        None => "memory".to_owned(),
    };
    let stall = match trigger.reclaim_stall_ns {
        Some(ns) if ns > 0 => {
            format!(
                ", after {} in which the kernel sought memory to free",
                duration(ns)
            )
        }
        _ => String::new(),
    };
    let chosen = incident.chosen_candidate();
    let same = chosen.is_some_and(|c| trigger.tgid == Some(c.tgid)) && !incident.took_the_asker();
    let also = match same {
        true => " It was chosen as well, but for its score, not for asking.",
        false => "",
    };
    let outside = match (trigger.cgroup, incident.oom_cgroup) {
        (Some(cgroup), Some(limit)) if incident.is_within(cgroup, limit) == Some(false) => {
            " It lies outside the cgroup, as happens when somebody lowers a limit."
        }
        _ => "",
    };
    Some(format!(
        "{who} asked for {request}{stall}. Asking is not guilt: it is whoever needed memory next \
         when none was left, not whoever filled it.{also}{outside}"
    ))
}

/// 2^order pages in bytes.
pub(crate) fn requested_bytes(trigger: &Trigger, page_size: Option<u64>) -> Option<u64> {
    let order = u32::try_from(trigger.order?).ok()?;
    page_size?.checked_mul(1u64.checked_shl(order)?)
}
