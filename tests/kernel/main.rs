//! Real OOM kills on real kernels, each compared with what the kernel itself says of it.
//!
//! One binary in four parts:
//! - `kernel`: the tests that the running kernel allows, with cargo's arguments and output;
//! - as process 1 of a virtual machine: the scenarios that the kernel command line names;
//! - `kernel --list-scenarios`: `name`, boot group, MiB of memory and kernel arguments, by tabs;
//! - `kernel workload …`: the processes that are killed.
//!
//! A host is never brought to run out of memory: there, only scratch cgroups are.

mod cgroup;
mod compare;
mod compare_tests;
mod context;
mod crew;
mod harness;
mod init;
mod kmsg;
mod procfs;
mod scenarios;
mod scene;
mod watch;
mod witness;
mod workload;

use std::{
    env,
    path::PathBuf,
    process::{self, ExitCode},
    time::Duration,
};

use crate::{
    cgroup::Hierarchy,
    context::{Context, Skip},
    harness::{Selection, Summary, line},
    scenarios::{Place, SCENARIOS},
};

type UnitTest = fn() -> anyhow::Result<()>;

/// Tests of the tests, which need no kernel.
const UNIT: &[(&str, UnitTest)] = &[
    (
        "witness::reads_a_memcg_report",
        witness::tests::reads_a_memcg_report,
    ),
    (
        "witness::reads_an_older_table_and_sysrq",
        witness::tests::reads_an_older_table_and_sysrq,
    ),
    (
        "witness::tells_a_group_from_a_rate_limited_kill",
        witness::tests::tells_a_group_from_a_rate_limited_kill,
    ),
    ("kmsg::takes_escapes_back", kmsg::tests::takes_escapes_back),
    (
        "harness::a_skip_is_no_pass_and_a_panic_a_failure",
        harness::tests::a_skip_is_no_pass_and_a_panic_a_failure,
    ),
    (
        "harness::filters_are_those_of_cargo",
        harness::tests::filters_are_those_of_cargo,
    ),
    (
        "procfs::finds_the_memory_cgroup",
        procfs::tests::finds_the_memory_cgroup,
    ),
    (
        "procfs::knows_this_process",
        procfs::tests::knows_this_process,
    ),
    (
        "compare::agreement_is_found",
        compare_tests::agreement_is_found,
    ),
    (
        "compare::only_a_victim_under_a_weak_hook_may_move_on",
        compare_tests::only_a_victim_under_a_weak_hook_may_move_on,
    ),
    (
        "compare::every_difference_is_found",
        compare_tests::every_difference_is_found,
    ),
];

fn main() -> ExitCode {
    if process::id() == 1 {
        init::main()
    }
    let mut args = env::args_os().skip(1);
    match args.next() {
        Some(first) if first == "workload" => workload::main(args),
        Some(first) if first == "--list-scenarios" => {
            list_scenarios();
            ExitCode::SUCCESS
        }
        first => {
            let args = first.into_iter().chain(args);
            run_here(&Selection::parse(
                args.map(|arg| arg.to_string_lossy().into_owned()),
            ))
        }
    }
}

fn run_here(selection: &Selection) -> ExitCode {
    let live = SCENARIOS
        .iter()
        .filter(|scenario| matches!(scenario.place, Place::Host | Place::Anywhere));
    if selection.list {
        for (name, _) in UNIT {
            line(&format!("{name}: test"));
        }
        for scenario in live {
            line(&format!("live::{}: test", scenario.name));
        }
        return ExitCode::SUCCESS;
    }
    let mut summary = Summary::default();
    for (name, test) in UNIT {
        if selection.includes(name) {
            summary.add(name, harness::run(|| test().map(|()| None)));
        } else {
            summary.filtered_out += 1;
        }
    }
    for scenario in live {
        let name = format!("live::{}", scenario.name);
        if selection.includes(&name) {
            let outcome = harness::run(|| Ok(Some(scenario.run(&host_context()?)?)));
            summary.add(&name, outcome);
        } else {
            summary.filtered_out += 1;
        }
    }
    if summary.finish() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn host_context() -> anyhow::Result<Context> {
    // SAFETY: a call without pointers.
    let uid = unsafe { libc::geteuid() };
    anyhow::ensure!(
        uid == 0,
        Skip("only root may load BPF programs and make cgroups".into())
    );
    Ok(Context {
        oomtrace: PathBuf::from(env!("CARGO_BIN_EXE_oomtrace")),
        own_machine: false,
        hierarchy: Hierarchy::find()?,
        patience: Duration::from_secs(20),
    })
}

fn list_scenarios() {
    for scenario in SCENARIOS {
        if let Some(group) = init::boot_group(scenario.place) {
            let memory = init::memory_mib(group);
            line(&format!("{}\t{group}\t{memory}\t", scenario.name));
        }
    }
}
