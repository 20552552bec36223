//! The step between oomtrace and the command of `run`: enters a cgroup, then becomes the command.
//!
//! A child has to be in its cgroup before its first allocation, and between `fork` and `exec` only
//! `unsafe` code can act. So `run` starts oomtrace itself, as `oomtrace __enter [PROCS…] -- CMD…`,
//! where each PROCS is a `cgroup.procs` file. This is no part of the command line people use.

use std::{ffi::OsString, fs, path::Path, process::ExitCode};

use crate::{lookup, output};

/// The first argument that asks for this step.
pub(crate) const ARG: &str = "__enter";

pub(crate) fn enter(args: impl Iterator<Item = OsString>) -> ExitCode {
    let mut args = args;
    for procs in args.by_ref().take_while(|arg| arg != "--") {
        // `0` stands for the writer.
        if let Err(error) = fs::write(&procs, "0") {
            let procs = Path::new(&procs).display();
            output::say(format_args!("cannot enter the cgroup: {procs}: {error}"));
            return ExitCode::FAILURE;
        }
    }
    match args.next() {
        Some(command) => ExitCode::from(lookup::exec(&command, args)),
        None => ExitCode::from(2),
    }
}
