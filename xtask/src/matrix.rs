//! Runs every scenario of the kernel tests on every kernel, and prints what came of it.
//!
//! Which scenarios there are, and what kind of boot each needs, the test program itself says:
//! `kernel --list-scenarios` prints `name<TAB>boot-group<TAB>memory_mib<TAB>append` for each.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    thread,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    host,
    kernels::{self, Kernel},
    tally::Tally,
    vm::{self, Boot, Verdict},
};

const STATIC_TARGET: &str = "x86_64-unknown-linux-gnu";

/// Two guests at a time: each has two processors, but mostly one of them idles.
const GUESTS: usize = 2;

/// What to run, and how.
#[derive(Default)]
pub(crate) struct Options {
    /// Series or files; empty means all.
    pub(crate) kernels: Vec<String>,
    /// Names; empty means all.
    pub(crate) scenarios: Vec<String>,
    /// Memory of every guest, instead of what the scenarios ask for.
    pub(crate) memory_mib: Option<u32>,
    /// A program to boot instead of the kernel tests.
    pub(crate) init: Option<PathBuf>,
}

pub(crate) fn main(args: &[String]) -> Result<()> {
    let mut options = Options::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || {
            args.next()
                .cloned()
                .with_context(|| format!("{arg} needs a value"))
        };
        match arg.as_str() {
            "--kernel" => options.kernels.push(value()?),
            "--scenario" => options.scenarios.push(value()?),
            "--memory" => {
                options.memory_mib = Some(value()?.parse().context("--memory takes MiB")?)
            }
            "--init" => options.init = Some(value()?.into()),
            other => bail!("unexpected argument: {other}"),
        }
    }
    let programs = match &options.init {
        Some(init) => Programs {
            tests: init.clone(),
            oomtrace: init.clone(),
        },
        None => programs(&host::root())?,
    };
    let tally = run(&options, &programs)?;
    println!("{tally}");
    ensure!(tally.failed == 0, "{} failed", tally.failed);
    ensure!(tally.passed > 0, "nothing ran");
    Ok(())
}

/// The two static programs that a guest holds.
pub(crate) struct Programs {
    pub(crate) tests: PathBuf,
    pub(crate) oomtrace: PathBuf,
}

/// Builds them from a tree: this repository, or a copy of it.
pub(crate) fn programs(tree: &Path) -> Result<Programs> {
    println!("building the kernel tests and the command, static");
    let cargo = |args: &[&str]| {
        let mut command = host::cargo();
        command
            .args(args)
            .args(["--release", "--locked", "--quiet", "--package", "oomtrace"]);
        command.args([
            "--target",
            STATIC_TARGET,
            "--message-format=json-render-diagnostics",
        ]);
        command
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .current_dir(tree);
        command.stderr(std::process::Stdio::inherit());
        host::read(&mut command)
    };
    let built = |messages: &str, target: &str| {
        let named = format!("\"name\":\"{target}\"");
        let line = messages
            .lines()
            .rfind(|line| line.contains(&named) && line.contains("\"executable\":\""));
        let path = line.and_then(|line| line.split("\"executable\":\"").nth(1)?.split('"').next());
        path.map(PathBuf::from)
            .with_context(|| format!("cargo built no program named {target}"))
    };
    Ok(Programs {
        oomtrace: built(&cargo(&["build", "--bin", "oomtrace"])?, "oomtrace")?,
        tests: built(&cargo(&["test", "--no-run", "--test", "kernel"])?, "kernel")?,
    })
}

/// One line of `kernel --list-scenarios`.
struct Scenario {
    name: String,
    group: String,
    memory_mib: u32,
    append: String,
}

/// A kernel's row in the table: its release, and each scenario's verdict.
type Row = (String, Vec<(String, Verdict)>);

/// Runs the matrix, prints it, and leaves it as Markdown below target/.
pub(crate) fn run(options: &Options, programs: &Programs) -> Result<Tally> {
    vm::require_qemu()?;
    let scenarios = scenarios(programs, options)?;
    vm::initramfs(&programs.tests, &programs.oomtrace, &vm::initramfs_path())?;
    let mut tally = Tally::default();
    let mut found = Vec::new();
    for (name, kernel) in kernels::wanted(&options.kernels) {
        match kernel {
            Ok(kernel) => found.push(kernel),
            Err(error) => {
                println!("skipped: kernel {name}: {error:#}");
                tally.skipped += 1;
            }
        }
    }
    let rows = boot_all(&found, &scenarios)?;
    for (_, verdicts) in &rows {
        for (_, verdict) in verdicts {
            match verdict {
                Verdict::Pass { .. } => tally.passed += 1,
                Verdict::Fail(_) => tally.failed += 1,
                Verdict::Skip(_) => tally.skipped += 1,
            }
        }
    }
    let names: Vec<&str> = scenarios
        .iter()
        .map(|scenario| scenario.name.as_str())
        .collect();
    let table = table(&rows, &names);
    let file = host::target_dir().join("vm/matrix.md");
    fs::write(&file, &table)?;
    println!("\n{table}(also in {})", file.display());
    Ok(tally)
}

fn scenarios(programs: &Programs, options: &Options) -> Result<Vec<Scenario>> {
    let list = host::read(Command::new(&programs.tests).arg("--list-scenarios"))?;
    let parse = |line: &str| {
        let mut columns = line.split('\t').map(str::to_owned);
        let mut next = || columns.next().filter(|column| !column.is_empty());
        let (name, group, memory) = (next()?, next()?, next()?.parse().ok()?);
        Some(Scenario {
            name,
            group,
            memory_mib: memory,
            append: next().unwrap_or_default(),
        })
    };
    let mut all = Vec::new();
    for line in list.lines() {
        all.push(
            parse(line).with_context(|| {
                format!("a line of --list-scenarios that makes no sense: {line}")
            })?,
        );
    }
    for name in &options.scenarios {
        ensure!(
            all.iter().any(|scenario| scenario.name == *name),
            "there is no scenario {name}"
        );
    }
    all.retain(|scenario| {
        options.scenarios.is_empty() || options.scenarios.contains(&scenario.name)
    });
    ensure!(!all.is_empty(), "the kernel tests list no scenario");
    if let Some(memory_mib) = options.memory_mib {
        all.iter_mut()
            .for_each(|scenario| scenario.memory_mib = memory_mib);
    }
    Ok(all)
}

fn boot_all(kernels: &[Kernel], scenarios: &[Scenario]) -> Result<Vec<Row>> {
    let mut groups: Vec<&str> = scenarios
        .iter()
        .map(|scenario| scenario.group.as_str())
        .collect();
    groups.sort_unstable();
    groups.dedup();
    let initramfs = vm::initramfs_path();
    let mut boots = Vec::new();
    for (index, kernel) in kernels.iter().enumerate() {
        for group in &groups {
            let members = || scenarios.iter().filter(|scenario| scenario.group == *group);
            let boot = Boot {
                kernel,
                initramfs: &initramfs,
                group,
                scenarios: members().map(|scenario| scenario.name.clone()).collect(),
                memory_mib: members()
                    .map(|scenario| scenario.memory_mib)
                    .max()
                    .unwrap_or(512),
                append: members()
                    .map(|scenario| scenario.append.as_str())
                    .max()
                    .unwrap_or("")
                    .to_owned(),
            };
            boots.push((index, boot));
        }
    }
    let rows: Vec<Row> = kernels
        .iter()
        .map(|kernel| (kernel.release.clone(), Vec::new()))
        .collect();
    let rows = Mutex::new(rows);
    let queue = Mutex::new(boots.into_iter());
    let work = || -> Result<()> {
        loop {
            let Some((index, boot)) = queue.lock().expect("no worker panics").next() else {
                return Ok(());
            };
            println!(
                "booting {} for {} ({})",
                boot.kernel.release,
                boot.group,
                boot.scenarios.join(", ")
            );
            let verdicts = boot.run()?;
            for (scenario, verdict) in &verdicts {
                match verdict {
                    Verdict::Pass { rung, rows } => {
                        println!(
                            "passed:  {} {scenario}: {rows} rows, {rung}",
                            boot.kernel.release
                        );
                    }
                    Verdict::Fail(reason) => {
                        println!("FAILED:  {} {scenario}: {reason}", boot.kernel.release)
                    }
                    Verdict::Skip(reason) => {
                        println!("skipped: {} {scenario}: {reason}", boot.kernel.release)
                    }
                }
            }
            rows.lock().expect("no worker panics")[index]
                .1
                .extend(verdicts);
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..GUESTS).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().expect("a worker returns its errors"))
    })?;
    Ok(rows.into_inner().expect("no worker panics"))
}

/// A rung without what every rung of the table has in common: `fentry oom_kill_process (direct loads)`
/// is `fentry, direct loads`.
fn brief(rung: &str) -> String {
    let hook = rung.split(' ').next().unwrap_or(rung);
    match rung.split_once('(') {
        Some((_, walk)) => format!("{hook}, {}", walk.trim_end_matches(')')),
        None => rung.to_owned(),
    }
}

/// Scenarios down, kernels across, then why some were skipped. What ran outside the list, such as a
/// broken kernel, comes last.
fn table(rows: &[Row], names: &[&str]) -> String {
    let mut names = names.to_vec();
    for (name, _) in rows.iter().flat_map(|(_, verdicts)| verdicts) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let mut text = String::from("| scenario |");
    for (release, _) in rows {
        let _ = write!(text, " {} |", release.trim_end_matches("-cloud-amd64"));
    }
    let _ = writeln!(text, "\n| --- |{}", " --- |".repeat(rows.len()));
    let mut notes = String::new();
    for name in names {
        let _ = write!(text, "| {name} |");
        for (release, verdicts) in rows {
            let cell = match verdicts.iter().find(|(scenario, _)| scenario == name) {
                Some((_, Verdict::Pass { rung, rows })) => format!("{rows}: {}", brief(rung)),
                Some((_, Verdict::Fail(_))) => "**failed**".to_owned(),
                Some((_, Verdict::Skip(reason))) => {
                    let _ = writeln!(notes, "- skipped: {name} on {release}: {reason}");
                    "skipped".to_owned()
                }
                None => String::new(),
            };
            let _ = write!(text, " {} |", cell.replace('|', "/"));
        }
        text.push('\n');
    }
    if !notes.is_empty() {
        let _ = write!(text, "\n{notes}");
    }
    text
}
