//! Boots one kernel in QEMU with our two static programs as all of user space, and reads what the
//! guest says on the serial line.
//!
//! The guest's lines begin with `@@ `: `start`, `rows`, `pass`, `fail` and `skip`, each with a
//! scenario, then `end`. Everything else on the line is the kernel's, is kept in the log, and must
//! not hold one of [`DISASTERS`].

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{cpio::Archive, host, kernels::Kernel};

const QEMU: &str = "qemu-system-x86_64";

/// Said by a kernel only when something is badly wrong, whoever is to blame.
const DISASTERS: &[&str] = &[
    "soft lockup",
    "self-detected stall",
    "rcu: INFO",
    "BUG:",
    "WARNING:",
    "Kernel panic",
    "general protection fault",
    "hung_task",
];

/// Boots of a guest that dies before it begins.
const BOOTS: u32 = 3;
/// Emulation is slow, and the machine may be busy: a boot takes seconds, a scenario half a minute.
const BOOT: Duration = Duration::from_secs(120);
const PER_SCENARIO: Duration = Duration::from_secs(180);
/// A guest that has begun and says nothing for this long is stuck.
const SILENCE: Duration = Duration::from_secs(300);

/// One boot.
pub(crate) struct Boot<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) initramfs: &'a Path,
    /// Names the log.
    pub(crate) group: &'a str,
    pub(crate) scenarios: Vec<String>,
    pub(crate) memory_mib: u32,
    pub(crate) append: String,
}

/// How one scenario went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass { rung: String, rows: u64 },
    Fail(String),
    Skip(String),
}

/// Makes sure that there is a QEMU.
pub(crate) fn require_qemu() -> Result<()> {
    if host::read(Command::new(QEMU).arg("--version")).is_ok() {
        return Ok(());
    }
    host::apt_install(&["qemu-system-x86"], "the kernels run in virtual machines")
}

/// Writes the initramfs: `/init` is the test program, `/oomtrace` the command.
pub(crate) fn initramfs(init: &Path, oomtrace: &Path, to: &Path) -> Result<()> {
    let read = |path: &Path| fs::read(path).with_context(|| path.display().to_string());
    let mut archive = Archive::default();
    for dir in ["proc", "sys", "dev", "tmp", "root"] {
        archive.dir(dir);
    }
    archive
        .device("dev/console", 5, 1)
        .device("dev/kmsg", 1, 11)
        .device("dev/null", 1, 3);
    archive
        .program("init", &read(init)?)
        .program("oomtrace", &read(oomtrace)?);
    fs::create_dir_all(to.parent().context("a parent")?)?;
    fs::write(to, archive.finish()).with_context(|| to.display().to_string())
}

impl Boot<'_> {
    /// Runs to the end or a time-out. Each scenario gets a verdict whatever happens.
    ///
    /// A kernel may die under emulation while it patches its own code at boot, before any program of
    /// ours has run; such a guest is booted again.
    pub(crate) fn run(&self) -> Result<Vec<(String, Verdict)>> {
        for _ in 1..BOOTS {
            let (verdicts, began) = self.once()?;
            if began {
                return Ok(verdicts);
            }
            println!(
                "{} {}: died before its first word, booting again",
                self.kernel.release, self.group
            );
        }
        Ok(self.once()?.0)
    }

    /// One boot: the verdicts, and whether the guest's programs have begun at all.
    fn once(&self) -> Result<(Vec<(String, Verdict)>, bool)> {
        let dir = host::target_dir().join("vm").join(&self.kernel.release);
        fs::create_dir_all(&dir)?;
        let log = dir.join(format!("{}.log", self.group));
        let mut log_file = File::create(&log)?;
        let mut qemu = self.command();
        qemu.stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log_file.try_clone()?);
        let mut guest = qemu.spawn().with_context(|| format!("cannot run {QEMU}"))?;
        let serial = guest.stdout.take().context("a piped stdout")?;
        let (sender, lines) = mpsc::channel();
        let reader = thread::spawn(move || {
            for line in BufReader::new(serial).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut transcript = Transcript::default();
        let scenarios = u32::try_from(self.scenarios.len())?;
        let deadline = Instant::now() + BOOT + PER_SCENARIO * scenarios;
        // A guest that said all it had to say may still hang on its way down, so `end` is the end.
        let mut stopped = None;
        while !transcript.ended {
            let patience = if transcript.began { SILENCE } else { BOOT };
            let left = deadline.saturating_duration_since(Instant::now());
            match lines.recv_timeout(patience.min(left)) {
                Ok(line) => {
                    writeln!(log_file, "{line}")?;
                    transcript.line(&line);
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let why = if left <= patience {
                        "took too long"
                    } else {
                        "went silent"
                    };
                    stopped = Some(why);
                    break;
                }
            }
        }
        // Ours, by its handle; an error means that it is gone already.
        let _ = guest.kill();
        guest.wait()?;
        drop(lines);
        let _ = reader.join();
        let began = transcript.began;
        let (verdicts, healthy) = transcript.finish(&self.scenarios, stopped);
        if !healthy {
            self.show(&log);
        }
        Ok((verdicts, began))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(QEMU);
        // Emulated everywhere: nothing is timed, and a guest within a guest may have no working KVM.
        command.args([
            "-M",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "qemu64",
            "-smp",
            "2",
        ]);
        command.args(["-m", &self.memory_mib.to_string()]);
        command
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(self.initramfs);
        command.args(["-append", &self.kernel_command_line()]);
        command.args([
            "-display", "none", "-serial", "stdio", "-monitor", "none", "-nic", "none",
        ]);
        command.arg("-no-reboot");
        command
    }

    fn kernel_command_line(&self) -> String {
        let scenarios = self.scenarios.join(",");
        // A panic reboots at once, which ends QEMU. The log must hold the largest table of tasks.
        let fixed = "console=ttyS0 quiet panic=-1 log_buf_len=16M";
        format!("{fixed} {} oomtrace.scenarios={scenarios}", self.append)
    }

    /// The end of a log, for whoever has to find out.
    fn show(&self, log: &Path) {
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let shown = lines[lines.len().saturating_sub(60)..].join("\n  | ");
        println!(
            "{} {}: the end of {}\n  | {shown}",
            self.kernel.release,
            self.group,
            log.display()
        );
    }
}

/// What the guest said.
#[derive(Default)]
struct Transcript {
    verdicts: Vec<(String, Verdict)>,
    rows: Vec<(String, u64, String)>,
    running: Option<String>,
    disaster: Option<String>,
    began: bool,
    ended: bool,
}

impl Transcript {
    fn line(&mut self, line: &str) {
        // The kernel may have written the beginning of the line.
        let Some((before, said)) = line.split_once("@@ ") else {
            return self.kernel(line);
        };
        self.kernel(before);
        self.began = true;
        let (word, rest) = said.split_once(' ').unwrap_or((said, ""));
        let (scenario, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let (scenario, rest) = (scenario.to_owned(), rest.trim().to_owned());
        let verdict = match word {
            "start" => {
                self.running = Some(scenario);
                return;
            }
            "rows" => {
                let (rows, rung) = rest.split_once(' ').unwrap_or((&rest, ""));
                self.rows
                    .push((scenario, rows.parse().unwrap_or(0), rung.to_owned()));
                return;
            }
            "end" => {
                self.ended = true;
                return;
            }
            "pass" => match self.rows.iter().find(|(name, ..)| *name == scenario) {
                Some((_, rows, rung)) if *rows > 0 => Verdict::Pass {
                    rung: rung.clone(),
                    rows: *rows,
                },
                _ => Verdict::Fail("says it passed, but compared no rows".to_owned()),
            },
            "fail" => Verdict::Fail(rest),
            "skip" => Verdict::Skip(rest),
            _ => return self.kernel(line),
        };
        self.running = None;
        self.verdicts.push((scenario, verdict));
    }

    fn kernel(&mut self, line: &str) {
        if self.disaster.is_none() && DISASTERS.iter().any(|word| line.contains(word)) {
            let when = self
                .running
                .as_ref()
                .map_or(String::new(), |name| format!(" during {name}"));
            self.disaster = Some(format!("the kernel said{when}: {line}"));
        }
    }

    /// One verdict per scenario, and whether all went as it should.
    fn finish(self, scenarios: &[String], stopped: Option<&str>) -> (Vec<(String, Verdict)>, bool) {
        let why = match (&self.disaster, stopped) {
            (Some(disaster), _) => disaster.clone(),
            (None, Some(stopped)) => format!("the guest {stopped}"),
            (None, None) if self.ended => "the guest ended without a verdict".to_owned(),
            (None, None) => "the guest ended early".to_owned(),
        };
        let mut healthy = self.disaster.is_none() && self.ended;
        let mut all = Vec::new();
        for name in scenarios {
            let said = self.verdicts.iter().rfind(|(scenario, _)| scenario == name);
            let verdict = said.map_or_else(
                || Verdict::Fail(why.clone()),
                |(_, verdict)| verdict.clone(),
            );
            healthy &= !matches!(verdict, Verdict::Fail(_));
            all.push((name.clone(), verdict));
        }
        if let Some(disaster) = self.disaster {
            // Nothing that ran in a broken kernel proves anything; say so once, beside the rest.
            all.push(("kernel-log".to_owned(), Verdict::Fail(disaster)));
        } else if !self.ended {
            all.push(("guest".to_owned(), Verdict::Fail(why)));
        }
        (all, healthy)
    }
}

/// Where the initramfs goes.
pub(crate) fn initramfs_path() -> PathBuf {
    host::target_dir().join("vm/initramfs.cpio")
}

#[cfg(test)]
mod tests {
    use super::{Transcript, Verdict};

    fn check(lines: &[&str], expected: &[(&str, &str)]) {
        let mut transcript = Transcript::default();
        lines.iter().for_each(|line| transcript.line(line));
        let (verdicts, _) = transcript.finish(&["a".to_owned(), "b".to_owned()], None);
        let said: Vec<(&str, String)> = verdicts
            .iter()
            .map(|(name, verdict)| match verdict {
                Verdict::Pass { rung, rows } => (name.as_str(), format!("{rows} by {rung}")),
                Verdict::Fail(reason) => (name.as_str(), format!("fail: {reason}")),
                Verdict::Skip(reason) => (name.as_str(), format!("skip: {reason}")),
            })
            .collect();
        let expected: Vec<(&str, String)> = expected
            .iter()
            .map(|(name, text)| (*name, (*text).to_owned()))
            .collect();
        assert_eq!(said, expected);
    }

    #[test]
    fn a_pass_needs_rows() {
        check(
            &[
                "[ 3.1] noise@@ start a",
                "@@ rows a 27 fentry oom_kill_process",
                "@@ pass a ok",
                "@@ pass b",
                "@@ end",
            ],
            &[
                ("a", "27 by fentry oom_kill_process"),
                ("b", "fail: says it passed, but compared no rows"),
            ],
        );
    }

    #[test]
    fn an_early_end_fails_what_had_not_run() {
        check(
            &["@@ skip a no cgroup v1", "@@ start b"],
            &[
                ("a", "skip: no cgroup v1"),
                ("b", "fail: the guest ended early"),
                ("guest", "fail: the guest ended early"),
            ],
        );
    }

    #[test]
    fn a_disaster_fails_the_boot() {
        let said = "the kernel said during a: watchdog: BUG: soft lockup";
        check(
            &[
                "@@ start a",
                "watchdog: BUG: soft lockup",
                "@@ rows a 1 x",
                "@@ pass a",
                "@@ rows b 1 x",
                "@@ pass b",
                "@@ end",
            ],
            &[
                ("a", "1 by x"),
                ("b", "1 by x"),
                ("kernel-log", &format!("fail: {said}")),
            ],
        );
    }
}
