//! What a traced OOM kill costs on this machine, beside the kernel's own report of the same kill.
//!
//! Nothing here passes or fails: it prints a table, with the load under which it was measured.

mod json;
mod kmsg;
mod precedence;
mod scene;
mod table;
mod tracer;

use std::{fs, path::Path, thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use self::{
    scene::{HOG_COMM, Scene},
    table::{Spread, Table, thousands},
    tracer::{Memory, Tracer},
};
use crate::host;

pub(crate) use self::scene::{HOG, hog};

const CROWDS: [usize; 2] = [1_000, 10_000];
const ROUNDS: usize = 5;
/// Kills after which memory is looked at again.
const KILLS: usize = 20;
const ARMINGS: usize = 20;
const IDLE: Duration = Duration::from_secs(10);
/// The kernel reports ten kills in five seconds and is silent about the others.
const PAUSE: Duration = Duration::from_millis(600);
/// Above this, timings say more about the neighbours than about us.
const QUIET: f64 = 0.5;

/// One kill.
struct Round {
    /// Processes in the snapshot, and in the kernel's report.
    candidates: usize,
    reported: usize,
    /// Run time of the program that takes the snapshot, unless another kill came in between.
    snapshot_ns: Option<f64>,
    /// The same as that program says itself.
    own_ns: Option<f64>,
    /// The kernel's report without our share.
    report_ns: Option<f64>,
    overruns: u32,
}

/// `cargo xtask bench [--rounds N]`.
pub(crate) fn main(args: &[String]) -> Result<()> {
    let rounds = match args {
        [] => ROUNDS,
        [flag, count] if flag == "--rounds" => count.parse().context("--rounds needs a number")?,
        _ => bail!("usage: cargo xtask bench [--rounds N]"),
    };
    ensure!(rounds > 0, "--rounds needs at least 1");
    if !host::is_root() {
        bail!("tracing the kernel needs root; run: sudo env \"PATH=$PATH\" cargo xtask bench");
    }
    let load = load()?;
    if load[0] > QUIET {
        eprintln!(
            "warning: the load average is {:.2}; timings of a busy machine are worth little",
            load[0]
        );
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
    let text = measure(&host::target_dir().join("release/oomtrace"), rounds, load)?;
    print!("\n{text}");
    let file = host::target_dir().join("bench.md");
    fs::write(&file, text).with_context(|| file.display().to_string())?;
    println!("\nwritten to {}", file.display());
    Ok(())
}

/// Takes all measurements; returns them as Markdown.
fn measure(oomtrace: &Path, rounds: usize, load_before: [f64; 3]) -> Result<String> {
    let scene = Scene::set()?;

    println!("arming {ARMINGS} times");
    let mut armed = Vec::new();
    for _ in 0..ARMINGS {
        let tracer = Tracer::arm(oomtrace)?;
        armed.push(tracer.armed_after.as_secs_f64() * 1e3);
    }

    let tracer = Tracer::arm(oomtrace)?;
    // What arming took is given back just after the line that says armed.
    thread::sleep(Duration::from_millis(500));
    let memory_armed = tracer.memory()?;
    let mut hook = String::new();
    let mut kills = 0;
    let mut idle = None;
    let mut crowds = Vec::new();
    for size in CROWDS {
        println!("{} processes", thousands(size));
        let crowd = scene.gather(size)?;
        let mut results = Vec::new();
        for _ in 0..rounds {
            let round = kill(&tracer, &scene, &mut hook)?;
            kills += 1;
            println!("  {}", round.describe());
            results.push(round);
        }
        if idle.is_none() {
            println!("doing nothing for {IDLE:?}");
            idle = Some(between_kills(&tracer)?);
        }
        drop(crowd);
        crowds.push(results);
    }
    let few = scene.gather(1)?;
    while kills < KILLS {
        kill(&tracer, &scene, &mut hook)?;
        kills += 1;
    }
    drop(few);
    let memory_after = tracer.memory()?;
    drop(tracer);
    drop(scene);

    let load_after = load()?;
    let mut text = format!(
        "Kernel {}, {} CPUs, decision hook `{hook}`. Load average {} at the start, {} at the end \
         (the benchmark's own included).\n\n",
        fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        thread::available_parallelism()?,
        load_before.map(|load| format!("{load:.2}")).join(" "),
        load_after.map(|load| format!("{load:.2}")).join(" "),
    );
    text += &cost_of_a_kill(&crowds, rounds).to_string();
    text += "\n";
    let mut rest = Table::new(["between kills", "measured", "goal"]);
    rest.row([
        format!("exec to armed, {ARMINGS} times: min / median / max"),
        Spread::of(armed).map_or_else(String::new, |spread| spread.show(1, "ms")),
        "40 ms".to_owned(),
    ]);
    memory_rows(&mut rest, "armed", &memory_armed);
    memory_rows(&mut rest, &format!("after {kills} kills"), &memory_after);
    let idle = idle.context("no crowd, no kill")?;
    for (what, count) in [
        ("program runs", idle.program_runs),
        ("context switches", idle.switches),
        ("CPU ticks", idle.ticks),
    ] {
        rest.row([
            format!("{what} in {IDLE:?} armed and idle"),
            count.to_string(),
            "0".to_owned(),
        ]);
    }
    text += &rest.to_string();
    text += "\n";
    text += &notes(&hook);
    Ok(text)
}

/// Causes one kill and sees what it cost.
fn kill(tracer: &Tracer, scene: &Scene, hook: &mut String) -> Result<Round> {
    thread::sleep(PAUSE);
    // And the hog.
    let reported = scene.population()? + 1;
    let before = tracer.programs()?;
    let report = kmsg::during(HOG_COMM, || scene.kill())?;
    let incident = tracer.incident(HOG_COMM)?;
    let after = tracer.programs()?;

    if let Some(name) = json::member(&incident, "source")
        .and_then(|source| json::member(source, "rungs"))
        .and_then(|rungs| json::member(rungs, "decision"))
    {
        *hook = name.trim_matches('"').to_owned();
    }
    let candidates = json::count(json::member(&incident, "candidates").context("no candidates")?);
    ensure!(candidates > 0, "the incident has no candidates");
    let (mut all_ns, mut longest) = (0, tracer::Runs::default());
    for (id, after) in &after {
        let before = before.get(id).copied().unwrap_or_default();
        let (count, ns) = (after.count - before.count, after.ns - before.ns);
        all_ns += ns;
        if ns > longest.ns {
            longest = tracer::Runs { count, ns };
        }
    }
    // Two kills at once cannot be told apart.
    let alone = longest.count == 1;
    // The mark comes after the report, but before the line that ends it.
    let within = if hook.contains("mark_victim") {
        all_ns
    } else {
        0
    };
    Ok(Round {
        candidates,
        reported,
        snapshot_ns: alone.then_some(longest.ns as f64),
        own_ns: json::member(&incident, "snapshot_ns").and_then(|ns| ns.parse().ok()),
        report_ns: report
            .us()
            .filter(|_| alone)
            .map(|us| us as f64 * 1e3 - within as f64),
        overruns: report.overruns,
    })
}

impl Round {
    fn snapshot_each(&self) -> Option<f64> {
        Some(self.snapshot_ns? / self.candidates as f64)
    }

    fn own_each(&self) -> Option<f64> {
        Some(self.own_ns? / self.candidates as f64)
    }

    fn report_each(&self) -> Option<f64> {
        Some(self.report_ns? / self.reported as f64)
    }

    fn ratio(&self) -> Option<f64> {
        Some(self.report_each()? / self.snapshot_each()?)
    }

    fn describe(&self) -> String {
        let ms = |ns: Option<f64>| {
            ns.map_or("not measured".to_owned(), |ns| {
                format!("{:.2} ms", ns / 1e6)
            })
        };
        format!(
            "snapshot of {}: {}; the kernel's report on {}: {}{}",
            self.candidates,
            ms(self.snapshot_ns),
            self.reported,
            ms(self.report_ns),
            match (self.report_ns, self.overruns) {
                (Some(_), _) => "",
                (None, 0) => " (it was silent, or there was another kill)",
                (None, _) => " (overwritten before it was read)",
            }
        )
    }
}

/// What the tracer costs while nothing is killed.
fn between_kills(tracer: &Tracer) -> Result<tracer::Cost> {
    let before = tracer.cost()?;
    thread::sleep(IDLE);
    let after = tracer.cost()?;
    Ok(tracer::Cost {
        program_runs: after.program_runs - before.program_runs,
        switches: after.switches - before.switches,
        ticks: after.ticks - before.ticks,
    })
}

fn cost_of_a_kill(crowds: &[Vec<Round>], rounds: usize) -> Table {
    type Value = fn(&Round) -> Option<f64>;
    let mut head = vec![format!("{rounds} kills each: min / median / max")];
    head.extend(CROWDS.map(|size| format!("{} processes", thousands(size))));
    head.push("goal".to_owned());
    let mut table = Table::new(head);
    let lines: [(&str, Value, usize, &str, &str); 7] = [
        (
            "snapshot, whole",
            |r| Some(r.snapshot_ns? / 1e6),
            2,
            "ms",
            "",
        ),
        (
            "snapshot, per process",
            Round::snapshot_each,
            0,
            "ns",
            "250 ns",
        ),
        ("the same by its own clock", Round::own_each, 0, "ns", ""),
        (
            "kernel's report, whole",
            |r| Some(r.report_ns? / 1e6),
            2,
            "ms",
            "",
        ),
        (
            "kernel's report, per process",
            Round::report_each,
            0,
            "ns",
            "",
        ),
        ("report / snapshot", Round::ratio, 1, "×", "20 ×"),
        (
            "processes in the snapshot",
            |r| Some(r.candidates as f64),
            0,
            "",
            "",
        ),
    ];
    for (what, value, digits, unit, goal) in lines {
        let mut row = vec![what.to_owned()];
        for results in crowds {
            let values: Vec<f64> = results.iter().filter_map(value).collect();
            let missing = match results.len() - values.len() {
                0 => String::new(),
                lost => format!(" ({lost} not measured)"),
            };
            let shown = Spread::of(values).map_or_else(String::new, |s| s.show(digits, unit));
            row.push(format!("{shown}{missing}").trim().to_owned());
        }
        row.push(goal.to_owned());
        table.row(row);
    }
    table
}

fn memory_rows(table: &mut Table, when: &str, memory: &Memory) {
    let Memory {
        rss,
        anon,
        file,
        rings,
        rings_rss,
    } = memory;
    let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
    table.row([
        format!("memory {when}, besides the rings"),
        mib(rss - rings_rss),
        "6 MiB".to_owned(),
    ]);
    table.row([
        format!("memory {when}, in all"),
        format!(
            "{}: {} anonymous, {} of files; rings {} of {}",
            mib(*rss),
            mib(*anon),
            mib(*file),
            mib(*rings_rss),
            mib(*rings)
        ),
        String::new(),
    ]);
}

fn notes(hook: &str) -> String {
    let mut text = "\
Snapshot: run time of the BPF program that takes it, by the kernel's own statistics \
(`bpf_stats_enabled`), divided by the processes of the whole host that the incident lists. The \
kernel's report: from its line \"invoked oom-killer\" to its line \"Killed process\", by their stamps \
in `/dev/kmsg`, divided by the processes of the cgroup, which are those that it lists. Both come from \
the same kill, of a process at nice -20. The log is not read meanwhile; a reader such as journald makes \
the report slower.
"
    .to_owned();
    if hook.contains("mark_victim") {
        text += "\
With this hook the snapshot is taken between those two lines, so the run time of our programs is \
subtracted from the kernel's time.
";
    }
    text += "\
Rings are mapped twice in a row, so that no record is ever split: their resident size counts each \
page of data twice.
";
    text
}

/// The load averages over 1, 5 and 15 minutes.
fn load() -> Result<[f64; 3]> {
    let text = fs::read_to_string("/proc/loadavg").context("/proc/loadavg")?;
    let mut values = text.split(' ').map_while(|value| value.parse().ok());
    let mut next = || values.next().context("/proc/loadavg");
    Ok([next()?, next()?, next()?])
}
