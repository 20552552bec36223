//! All that continuous integration checks, in order. What is not in here is not a rule.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{ebpf, host, matrix, tally::Tally, tidy};

/// Everything that needs no root.
pub(crate) fn check() -> Result<()> {
    let (tally, _) = steps();
    println!("{tally}");
    ensure!(tally.failed == 0, "{} failed", tally.failed);
    Ok(())
}

/// Everything. Closes with the counts, alone on a line.
pub(crate) fn test() -> Result<()> {
    let (mut tally, object) = steps();
    let mut real = false;
    if tally.failed == 0 {
        tally += cargo_test(&integration_tests());
        tally += cargo_test(&["--workspace".to_owned(), "--doc".to_owned()]);
        match object
            .and_then(tree)
            .and_then(|tree| matrix::programs(&tree))
        {
            Ok(programs) => {
                let (live, live_ran) = live(&programs);
                let vm =
                    matrix::run(&matrix::Options::default(), &programs).unwrap_or_else(|error| {
                        println!("skipped: virtual machines: {error:#}");
                        Tally {
                            skipped: 1,
                            ..Tally::default()
                        }
                    });
                real = live_ran > 0 || vm.passed + vm.failed > 0;
                tally += live;
                tally += vm;
            }
            Err(error) => {
                println!("FAILED: the kernel tests do not build: {error:#}");
                tally.failed += 1;
            }
        }
        if !real {
            println!("FAILED: neither the live tests nor the virtual machines could run");
            tally.failed += 1;
        }
    }
    println!("{tally}");
    ensure!(tally.failed == 0, "{} failed", tally.failed);
    Ok(())
}

/// Runs every step, whatever became of the one before, and says at the end which failed. A step that
/// is no test counts only if it fails.
fn steps() -> (Tally, Result<ebpf::Check>) {
    let mut failed = Vec::new();
    let mut step = |name: &str, done: Result<()>| {
        if let Err(error) = done {
            println!("FAILED: {name}: {error:#}");
            failed.push(name.to_owned());
        }
    };
    let deny = ["--", "-Dwarnings"];
    step("fmt", cargo("fmt", &["--all", "--", "--check", "-l"]));
    step("tidy", tidy::tidy());
    let mut object = Ok(ebpf::Check::Identical);
    step(
        "the BPF object",
        ebpf::check(None).map(|found| object = Ok(found)),
    );
    step("clippy for BPF", ebpf::clippy());
    let all = ["--workspace", "--all-targets", "--locked", "--quiet"];
    step("clippy", cargo("clippy", &[&all[..], &deny].concat()));
    // Without the running kernel, replay and every view still build. The workspace never builds
    // with all features, since one of them is a no_std program.
    let bare = [
        "--package",
        "oomtrace",
        "--no-default-features",
        "--locked",
        "--quiet",
    ];
    step(
        "clippy without features",
        cargo("clippy", &[&bare[..], &deny].concat()),
    );
    step(
        "docs",
        cargo("doc", &["--workspace", "--no-deps", "--locked", "--quiet"]),
    );
    if failed.iter().any(|name| name == "the BPF object") {
        object = Err(anyhow::anyhow!("there is no BPF object to test"));
    }
    let tests = ["--workspace", "--lib", "--bins", "--locked"].map(str::to_owned);
    let mut tally = cargo_test(&tests);
    tally.failed += u64::try_from(failed.len()).unwrap_or(u64::MAX);
    if !failed.is_empty() {
        println!("FAILED: {}", failed.join(", "));
    }
    (tally, object)
}

fn cargo(verb: &str, args: &[&str]) -> Result<()> {
    println!("cargo {verb} {}", args.join(" "));
    host::run(
        host::cargo()
            .arg(verb)
            .args(args)
            .env("RUSTDOCFLAGS", "-Dwarnings"),
    )
}

fn cargo_test(args: &[String]) -> Tally {
    if args.is_empty() {
        return Tally::default();
    }
    println!("cargo test {}", args.join(" "));
    let mut tally = Tally::default();
    let success = host::watch(host::cargo().arg("test").args(args), |line| {
        tally.line(line)
    });
    tally.ended(success.is_ok_and(|success| success));
    tally
}

/// The declared integration tests; `kernel` apart, which runs by itself.
fn integration_tests() -> Vec<String> {
    let manifest = fs::read_to_string(host::root().join("oomtrace/Cargo.toml")).unwrap_or_default();
    let tables = manifest
        .split("\n[")
        .filter_map(|table| table.strip_prefix("[test]]"));
    let name = |table: &str| {
        table.lines().find_map(|line| {
            Some(
                line.strip_prefix("name = \"")?
                    .trim_end_matches('"')
                    .to_owned(),
            )
        })
    };
    let names = tables.filter_map(name).filter(|name| name != "kernel");
    let mut args: Vec<String> = names.flat_map(|name| ["--test".to_owned(), name]).collect();
    if !args.is_empty() {
        args.extend(["--package", "oomtrace", "--locked"].map(str::to_owned));
    }
    args
}

/// The tree to test. If other tools than the recorded ones built the object anew, a copy of the tree
/// that holds the fresh one.
fn tree(object: ebpf::Check) -> Result<PathBuf> {
    let ebpf::Check::OtherTools(object) = object else {
        return Ok(host::root());
    };
    println!("the kernel tests run with the fresh BPF object");
    let copy = host::target_dir().join("fresh-object");
    let _ = fs::remove_dir_all(&copy);
    for file in host::tracked_files()? {
        let to = copy.join(&file);
        fs::create_dir_all(to.parent().context("a parent")?)?;
        fs::copy(host::root().join(&file), to).with_context(|| file)?;
    }
    ebpf::place(&object, &copy)?;
    Ok(copy)
}

/// The kernel tests on the running kernel, and how many of them made the kernel kill: the program
/// holds tests of itself too.
fn live(programs: &matrix::Programs) -> (Tally, usize) {
    let mut tally = Tally::default();
    if !host::is_root() {
        println!("skipped: live tests: they need root");
        tally.skipped = 1;
        return (tally, 0);
    }
    println!("live tests on the running kernel");
    let mut ran = 0;
    let mut command = Command::new(&programs.tests);
    let success = host::watch(command.stdin(Stdio::null()), |line| {
        tally.line(line);
        let real = line.starts_with("test live::") && !line.contains(" ... ignored");
        ran += usize::from(real);
    });
    tally.ended(success.is_ok_and(|success| success));
    (tally, ran)
}
