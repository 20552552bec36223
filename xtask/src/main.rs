//! Everything that is done to this repository, as code.
//!
//! `cargo xtask` prints the list. Each command is one module; none of them holds state, and what one
//! needs of the machine it installs itself, saying so.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a task talks to the person who started it"
)]

mod bench;
mod check;
mod cpio;
mod demo;
mod ebpf;
mod host;
mod kernels;
mod matrix;
mod tally;
mod tidy;
mod toolchain;
mod vm;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  demo                     a real OOM kill in a safe place, traced and explained (needs root)
  test                     everything: check, live tests on this kernel, the kernels in VMs
  bench [--rounds N]       what a kill and an armed tracer cost here, beside the kernel's own report (root)
  check                    what needs no root: fmt, clippy, docs, tidy, the BPF object, unit tests
  tidy                     the house rules as code
  build-ebpf [--check]     build the BPF object that is committed, or prove that it is what the
                           sources build; [--toolchain NAME] picks a Rust other than the recorded one
  kernels [list|fetch]     the kernels of the matrix: which are here, or fetch the newest of each
  vm [--kernel SERIES|FILE]… [--scenario NAME]… [--memory MIB]
                           the kernel tests in virtual machines; all kernels unless some are named;
                           [--init FILE] boots another static program instead of the tests
";

fn main() -> ExitCode {
    // The workload of the demonstration is this program again, in other parts.
    if let Some(part) = std::env::var_os(demo::PART) {
        return demo::play(&part.to_string_lossy());
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", &[][..]),
    };
    let done = match command {
        "demo" => demo::demo(),
        demo::WORKLOAD => demo::workload(),
        "test" => check::test(),
        "bench" => bench::main(rest),
        bench::HOG => bench::hog(rest),
        "check" => check::check(),
        "tidy" => tidy::tidy(),
        "build-ebpf" => ebpf::main(rest),
        "kernels" => kernels::main(rest),
        "vm" => matrix::main(rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        other => {
            eprintln!("no such command: {other}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask {command}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
