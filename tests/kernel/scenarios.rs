//! The kills that are caused, and what must be seen of each.

mod machine;
mod memcg;

use std::{thread, time::Duration};

use machine::{allocating_task, global, sysrq_f};
use memcg::{
    adj, hostile_names, kernel_scores, leader_gone, lost_rows, many, memcg, nested, oom_group,
    protected, share_mm,
};

use crate::context::{Context, LogOverrun, RateLimited, Verdict};

/// A kill by its name.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) place: Place,
    run: fn(&Context) -> anyhow::Result<Verdict>,
}

impl Scenario {
    /// Runs it, and again where the kernel has left out its report, or lost it.
    pub(crate) fn run(&self, context: &Context) -> anyhow::Result<Verdict> {
        for _ in 0..3 {
            match (self.run)(context) {
                Err(error) if error.is::<RateLimited>() || error.is::<LogOverrun>() => {
                    thread::sleep(Duration::from_secs(6));
                }
                done => return done,
            }
        }
        (self.run)(context)
    }
}

/// Where a scenario can run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// On a running host and in a VM with cgroup v2.
    Anywhere,
    /// On a running host.
    Host,
    /// In a VM, cgroup v2 mounted.
    VmV2,
    /// In a VM, the memory controller of cgroup v1 mounted.
    VmV1,
}

const fn scenario(
    name: &'static str,
    place: Place,
    run: fn(&Context) -> anyhow::Result<Verdict>,
) -> Scenario {
    Scenario { name, place, run }
}

/// All of them, in the order in which they run.
pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario("memcg", Place::Host, |c| memcg(c, &[])),
    scenario("memcg-v2", Place::VmV2, |c| memcg(c, &[])),
    scenario("memcg-v2-kprobe", Place::VmV2, |c| {
        memcg(c, &["--hook", "kprobe"])
    }),
    scenario("memcg-v2-tpbtf", Place::VmV2, |c| {
        memcg(c, &["--hook", "tp_btf"])
    }),
    scenario("memcg-v2-rawtp", Place::VmV2, |c| {
        memcg(c, &["--hook", "raw_tp"])
    }),
    scenario("memcg-v1", Place::VmV1, |c| memcg(c, &[])),
    scenario("memcg-v1-rawtp", Place::VmV1, |c| {
        memcg(c, &["--hook", "raw_tp"])
    }),
    scenario("nested", Place::Anywhere, nested),
    scenario("nested-v1", Place::VmV1, nested),
    scenario("oom-group", Place::VmV2, oom_group),
    scenario("protected", Place::Anywhere, protected),
    scenario("adj", Place::Anywhere, adj),
    scenario("kernel-scores", Place::VmV2, kernel_scores),
    scenario("share-mm", Place::Anywhere, share_mm),
    scenario("leader-gone", Place::Anywhere, leader_gone),
    scenario("hostile-names", Place::Anywhere, hostile_names),
    scenario("lost-rows", Place::Anywhere, lost_rows),
    scenario("many-1000", Place::Host, |c| many(c, 1_000)),
    scenario("many-10000", Place::Host, |c| many(c, 10_000)),
    scenario("global", Place::VmV2, |c| global(c, &[])),
    scenario("global-rawtp", Place::VmV2, |c| {
        global(c, &["--hook", "raw_tp"])
    }),
    scenario("global-scores", Place::VmV2, |c| {
        global(c, &["--kernel-scores"])
    }),
    scenario("allocating-task", Place::VmV2, allocating_task),
    scenario("sysrq-f", Place::VmV2, sysrq_f),
    scenario("many", Place::VmV2, |c| many(c, 2_000)),
];
