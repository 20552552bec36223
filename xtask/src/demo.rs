//! A real OOM kill in a safe place: a cgroup of 64 MiB with a small shop in it.
//!
//! Eleven `httpd` hold 4 MiB each, one `java` holds 12 MiB, and one `httpd` more grows until the
//! limit is hit. The kernel compares single processes, so it kills `java`, which holds a fifth of the
//! whole. The workload is this program again, so that nothing but Rust is needed on the machine.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::host;

/// The hidden command that plays the shop.
pub(crate) const WORKLOAD: &str = "__demo-workload";
/// Tells a process of the shop its part: how much to hold, or to grow.
pub(crate) const PART: &str = "OOMTRACE_DEMO_PART";

const LIMIT: &str = "64M";
const WORKERS: usize = 11;
const MIB: usize = 1 << 20;

/// Traces the kill and checks by another witness that it happened.
pub(crate) fn demo() -> Result<()> {
    if !host::is_root() {
        bail!("tracing the kernel needs root; run: sudo env \"PATH=$PATH\" cargo xtask demo");
    }
    println!("building oomtrace");
    host::run(host::cargo().args([
        "build",
        "--release",
        "--locked",
        "--quiet",
        "-p",
        "oomtrace",
    ]))?;
    let oomtrace = host::target_dir().join("release/oomtrace");
    let shop = env::current_exe().context("the path of this program")?;
    println!(
        "a shop of {WORKERS} httpd and one java runs in a cgroup limited to {LIMIT}; \
         the rest of the machine is not touched\n\
         $ oomtrace run --memory-max {LIMIT} -- xtask {WORKLOAD}\n"
    );
    let before = oom_kills()?;
    let mut run = Command::new(oomtrace);
    run.args(["run", "--memory-max", LIMIT, "--"])
        .arg(shop)
        .arg(WORKLOAD);
    let status = run.status().context("cannot run oomtrace")?;
    let killed = oom_kills()?.saturating_sub(before);
    ensure!(
        killed > 0,
        "no process was killed: the kernel's oom_kill count did not rise ({status})"
    );
    ensure!(
        status.success(),
        "the kernel killed {killed}, but `oomtrace run` ended with {status}"
    );
    println!(
        "\nthe kernel agrees: oom_kill in /proc/vmstat went from {before} to {}",
        before + killed
    );
    Ok(())
}

/// Runs the shop until one of it is killed.
pub(crate) fn workload() -> Result<()> {
    let mut shop = Vec::new();
    for _ in 0..WORKERS {
        shop.push(hire("httpd", &["-k", "start"], "hold 4")?);
    }
    let mut java = hire("java", &["-jar", "shop.jar"], "hold 12")?;
    shop.push(hire("httpd", &["-k", "start"], "grow 0")?);
    // Whoever it hits, it comes soon or not at all.
    let mut ended = None;
    for _ in 0..3_000 {
        ended = java.try_wait()?;
        let others = shop
            .iter_mut()
            .any(|child| child.try_wait().is_ok_and(|status| status.is_some()));
        if ended.is_some() || others {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    for child in shop.iter_mut().chain([&mut java]) {
        // Those that are dead already answer with an error.
        let _ = child.kill();
        child.wait()?;
    }
    match ended {
        Some(status) if status.signal() == Some(9) => Ok(()),
        Some(status) => bail!("java ended by itself: {status}"),
        None => bail!("java was not killed"),
    }
}

/// Plays one process of the shop: takes its name, holds or grows, and lives until its parent is gone.
pub(crate) fn play(part: &str) -> ExitCode {
    let (verb, mib) = part.split_once(' ').unwrap_or((part, "0"));
    let name = env::args().next().unwrap_or_default();
    // Cosmetic: without it the report says xtask.
    let _ = fs::write("/proc/self/comm", &name);
    // Ones, since a page of zeros might never be given out.
    let held = vec![1_u8; mib.parse::<usize>().unwrap_or(0) * MIB];
    if writeln!(std::io::stdout(), "ready").is_err() {
        return ExitCode::FAILURE;
    }
    // Never more than the limit, should anyone start this outside of it.
    let mut grown = Vec::new();
    while verb == "grow" && grown.len() < 64 * 4 {
        grown.push(vec![1_u8; MIB / 4]);
        thread::sleep(Duration::from_millis(5));
    }
    let mut rest = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut rest);
    std::hint::black_box((held, grown));
    ExitCode::SUCCESS
}

/// Starts one process of the shop and waits until it holds what it should.
fn hire(name: &str, args: &[&str], part: &str) -> Result<Child> {
    let mut child = Command::new(env::current_exe()?)
        .arg0(name)
        .args(args)
        .env(PART, part)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("a piped stdout")?).read_line(&mut line)?;
    Ok(child)
}

fn oom_kills() -> Result<u64> {
    let vmstat = fs::read_to_string("/proc/vmstat").context("/proc/vmstat")?;
    let count = vmstat
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "));
    count
        .and_then(|count| count.parse().ok())
        .context("/proc/vmstat has no oom_kill")
}
