//! The command `oomtrace`: runs one subcommand, reports its error once, exits with its status.
//!
//! It is the library's first user and has no access to anything that is not public there.
#![deny(unsafe_code)]

mod args;
mod cgroup;
mod commands;
mod doctor;
mod enter;
mod lookup;
mod memory;
mod output;
mod signals;
mod units;

use std::{env, process::ExitCode};

use clap::Parser as _;

fn main() -> ExitCode {
    if env::args_os().nth(1).is_some_and(|arg| arg == enter::ARG) {
        return enter::enter(env::args_os().skip(2));
    }
    let cli = args::Cli::parse();
    match commands::run(&cli) {
        Ok(status) => ExitCode::from(status),
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::say(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
