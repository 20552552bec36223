//! Precedence over the neighbours on a busy machine, for what must not be interrupted while it is measured.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

/// Which end of the list of CPUs a thread keeps to.
pub(super) enum Side {
    First,
    Last,
}

/// Gives this thread precedence on a CPU, if it can be had: else the neighbours' turns count as the
/// kernel's time, and the log is overwritten before it is read.
pub(super) fn hurry(side: Side) {
    let thread = fs::read_link("/proc/thread-self").unwrap_or_default();
    let status = fs::read_to_string(Path::new("/proc").join(&thread).join("status"));
    let status = status.unwrap_or_default();
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let (Some(id), Some(list)) = (thread.file_name(), list) else {
        return;
    };
    let mut cpus = list.trim().split([',', '-']);
    let cpu = match side {
        Side::First => cpus.next(),
        Side::Last => cpus.next_back(),
    };
    for (program, args) in [
        ("renice", ["-n", "-20", "-p"]),
        ("taskset", ["-c", "-p", cpu.unwrap_or("0")]),
    ] {
        let mut command = Command::new(program);
        command.args(args).arg(id);
        let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}
