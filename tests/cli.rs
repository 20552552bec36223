//! Runs the command as people do: its help, its exit codes, its errors, and what it leaves behind.
//!
//! Tests that trace need root; without it they say so and check nothing. None causes a kill: that
//! is for the kernel tests.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{self, Child, Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use expect_test::{expect, expect_file};
use rustix::process::{Pid, Signal, geteuid, kill_process};

const OOMTRACE: &str = env!("CARGO_BIN_EXE_oomtrace");

/// What is left of a cgroup that was not removed has this in its name.
const SCRATCH: &str = "oomtrace-run-";

fn oomtrace(args: &[&str]) -> Command {
    let mut command = Command::new(OOMTRACE);
    command
        .args(args)
        .stdin(Stdio::null())
        .env("COLUMNS", "80")
        .env_remove("NO_COLOR");
    command
}

fn run(args: &[&str]) -> Output {
    oomtrace(args).output().expect("the binary starts")
}

fn status(args: &[&str]) -> Option<i32> {
    run(args).status.code()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether tests that trace can run. Says why not.
fn can_trace(test: &str) -> bool {
    static OBSTACLE: OnceLock<Option<String>> = OnceLock::new();
    let obstacle = OBSTACLE.get_or_init(|| {
        if !geteuid().is_root() {
            return Some("not root".to_owned());
        }
        let doctor = run(&["doctor", "--json"]);
        (!doctor.status.success()).then(|| stdout(&doctor))
    });
    if let Some(reason) = obstacle {
        skip(test, reason);
    }
    obstacle.is_none()
}

/// Past the capture of the test harness, or nobody would read it.
fn skip(test: &str, reason: &str) {
    let _ = io::stderr().write_all(format!("skipped {test}: {reason}\n").as_bytes());
}

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("oomtrace-{test}-{}", process::id()));
        fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Every cgroup of a `run` on this machine, wherever it may be.
fn left_behind(pid: u32) -> Vec<PathBuf> {
    fn search(dir: &Path, name: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().starts_with(name) {
                    found.push(entry.path());
                }
                search(&entry.path(), name, found);
            }
        }
    }
    let mut found = Vec::new();
    search(
        Path::new("/sys/fs/cgroup"),
        &format!("{SCRATCH}{pid}-"),
        &mut found,
    );
    found
}

/// Starts, and waits until the line that says that it is armed.
fn start_watch(args: &[&str]) -> (Child, BufReader<process::ChildStderr>) {
    let mut child = oomtrace(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    stderr.read_line(&mut line).expect("readable");
    assert!(line.starts_with("oomtrace: armed ("), "{line}");
    (child, stderr)
}

fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_child(child);
    kill_process(pid, signal).expect("a live child");
}

// Help and usage.

#[test]
fn help_of_every_command() {
    for command in ["", "watch", "run", "doctor"] {
        let args: Vec<&str> = [command, "--help"]
            .into_iter()
            .filter(|arg| !arg.is_empty())
            .collect();
        let output = run(&args);
        assert!(output.status.success());
        let name = if command.is_empty() {
            "oomtrace"
        } else {
            command
        };
        let file = format!(
            "{}/../tests/data/cli/{name}.help",
            env!("CARGO_MANIFEST_DIR")
        );
        // Editors strip the blanks that clap leaves on empty lines.
        let help: String = stdout(&output)
            .lines()
            .map(|line| format!("{}\n", line.trim_end()))
            .collect();
        expect_file![file].assert_eq(&help);
        assert!(
            help.lines().all(|line| line.chars().count() <= 80),
            "{help}"
        );
    }
}

#[test]
fn usage_errors_exit_with_2() {
    for args in [
        &[][..],
        &["nonsense"],
        &["watch", "--json", "--brief"],
        &["watch", "--count", "0"],
        &["watch", "--duration", "10"],
        &["watch", "--ring", "1K"],
        &["watch", "--hook", "lsm"],
        &["run"],
        &["run", "--memory-max", "0", "--", "true"],
        &["run", "--memory-max", "lots", "--", "true"],
        &["run", "--memory-max", "99999999T", "--", "true"],
        &["--color", "sometimes", "doctor"],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn a_bad_size_is_explained_in_one_line() {
    let output = run(&["run", "--memory-max", "12Q", "--", "true"]);
    let text = stderr(&output);
    let first = text.lines().next().unwrap_or_default();
    expect![[
        "error: invalid value '12Q' for '--memory-max <SIZE>': expected a size such as 512M, 1.5GiB or 65536 (K, M, G and T are powers of 1024)"
    ]]
    .assert_eq(first);
}

// The command of `run` that cannot be run: none of these needs rights.

#[test]
fn command_not_found_is_127() {
    for name in ["no-such-command-here", "/no/such/path", "", "/etc/passwd/x"] {
        let output = run(&["run", "--memory-max", "64M", "--", name]);
        assert_eq!(output.status.code(), Some(127), "{name:?}");
        assert_eq!(stderr(&output), format!("oomtrace: {name}: not found\n"));
    }
}

#[test]
fn command_not_executable_is_126() {
    let scratch = Scratch::new("not-executable");
    let file = scratch.path("data");
    fs::write(&file, "#!/bin/sh\n").expect("tmp");
    let output = run(&["run", "--", &file]);
    assert_eq!(output.status.code(), Some(126));
    assert_eq!(
        stderr(&output),
        format!("oomtrace: {file}: not executable: Permission denied (os error 13)\n")
    );

    let output = run(&["run", "--", "/etc"]);
    assert_eq!(output.status.code(), Some(126));
    assert_eq!(stderr(&output), "oomtrace: /etc: is a directory\n");
}

#[test]
fn a_command_that_only_others_in_path_can_run_is_found() {
    if !can_trace("a_command_that_only_others_in_path_can_run_is_found") {
        return;
    }
    let scratch = Scratch::new("path");
    fs::write(scratch.path("true"), "not executable").expect("tmp");
    let path = format!(
        "{}:{}",
        scratch.path(""),
        std::env::var("PATH").unwrap_or_default()
    );
    let output = oomtrace(&["run", "--", "true"])
        .env("PATH", path)
        .output()
        .expect("the binary starts");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

/// The look-up succeeds, and only the kernel can tell that the interpreter is missing.
#[test]
fn missing_interpreter_is_127() {
    if !can_trace("missing_interpreter_is_127") {
        return;
    }
    let scratch = Scratch::new("interpreter");
    let file = scratch.path("script");
    fs::write(&file, "#!/no/such/interpreter\n").expect("tmp");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("tmp");
    let output = run(&["run", "--", &file]);
    assert_eq!(output.status.code(), Some(127));
    let text = stderr(&output);
    let said = format!("oomtrace: {file}: its interpreter was not found\n");
    assert!(text.starts_with(&said), "{text}");
}

// Exit status and signals.

#[test]
fn exit_status_is_that_of_the_command() {
    if !can_trace("exit_status_is_that_of_the_command") {
        return;
    }
    for memory in [&[][..], &["--memory-max", "64M"]] {
        let status = |script: &str| {
            let args = [&["run"], memory, &["--", "sh", "-c", script]].concat();
            status(&args)
        };
        assert_eq!(status("exit 0"), Some(0));
        assert_eq!(status("exit 3"), Some(3));
        assert_eq!(status("exit 127"), Some(127));
        assert_eq!(status("kill -TERM $$"), Some(143));
        assert_eq!(status("kill -KILL $$"), Some(137));
    }
}

#[test]
fn the_command_owns_standard_input_and_output() {
    if !can_trace("the_command_owns_standard_input_and_output") {
        return;
    }
    let scratch = Scratch::new("stdio");
    fs::write(scratch.path("in"), "from standard input\n").expect("tmp");
    let output = oomtrace(&["run", "cat"])
        .stdin(fs::File::open(scratch.path("in")).expect("tmp"))
        .output()
        .expect("the binary starts");
    assert_eq!(stdout(&output), "from standard input\n");
    assert_eq!(stderr(&output), "oomtrace: no OOM kill happened\n");
    // Flags after the command are the command's.
    let output = run(&["run", "--json", "echo", "--json", "--", "-o"]);
    assert_eq!(stdout(&output), "--json -- -o\n");
    assert_eq!(stderr(&output), "");
}

#[test]
fn signals_are_passed_on_to_the_command() {
    if !can_trace("signals_are_passed_on_to_the_command") {
        return;
    }
    let script = "trap 'exit 9' TERM; trap 'exit 10' HUP; trap 'exit 11' USR1; trap 'exit 12' INT; \
                  echo ready; while :; do sleep 0.01; done";
    for (signal, status) in [
        (Signal::TERM, 9),
        (Signal::HUP, 10),
        (Signal::USR1, 11),
        (Signal::INT, 12),
    ] {
        // A group of its own is not in the foreground of any terminal. Whoever runs the tests in the
        // background ignores SIGINT, and a shell cannot trap what was ignored when it started.
        let run = ["run", "--memory-max", "64M", "--", "sh", "-c", script];
        let mut child = Command::new("env")
            .arg("--default-signal=TERM,HUP,USR1,INT")
            .arg(OOMTRACE)
            .args(run)
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("the binary starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped"))
            .read_line(&mut line)
            .expect("readable");
        assert_eq!(line, "ready\n");
        send(&child, signal);
        assert_eq!(child.wait().expect("ended").code(), Some(status));
        assert_eq!(left_behind(child.id()), Vec::<PathBuf>::new());
    }
}

#[test]
fn ignored_signals_stay_ignored() {
    if !can_trace("ignored_signals_stay_ignored") {
        return;
    }
    let script = format!("trap '' HUP; exec {OOMTRACE} run -- grep SigIgn: /proc/self/status");
    let output = Command::new("sh")
        .args(["-c", &script])
        .output()
        .expect("sh");
    let text = stdout(&output);
    let mask = text.trim().strip_prefix("SigIgn:").unwrap_or_default();
    let mask = u64::from_str_radix(mask.trim(), 16).expect("a mask");
    assert_eq!(mask & 1, 1, "SIGHUP is bit 0: {text}");
}

#[test]
fn first_process_of_a_pid_namespace() {
    let test = "first_process_of_a_pid_namespace";
    if !can_trace(test) {
        return;
    }
    let unshare = |args: &[&str]| {
        let mut command = Command::new("unshare");
        command
            .args(["--pid", "--fork", "--mount-proc", OOMTRACE, "run", "--"])
            .args(args)
            .stdin(Stdio::null());
        command
    };
    match unshare(&["true"]).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => return skip(test, &stderr(&output)),
        Err(error) => return skip(test, &error.to_string()),
    }
    // The orphan ends long before the command does, and must not stay a zombie.
    let script = "(sleep 0.01 &); sleep 0.3; grep -l '^State:.Z' /proc/[0-9]*/status; exit 7";
    let output = unshare(&["sh", "-c", script]).output().expect("unshare");
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    assert_eq!(stdout(&output), "", "zombies");
}

// Cgroups.

#[test]
fn cgroup_is_entered_and_removed() {
    let test = "cgroup_is_entered_and_removed";
    if !can_trace(test) {
        return;
    }
    let script = "cat /proc/self/cgroup; echo parent $PPID";
    let output = run(&["run", "--memory-max", "64M", "--", "sh", "-c", script]);
    let text = stdout(&output);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(text.contains(SCRATCH), "{text}");
    let parent = text.lines().find_map(|line| line.strip_prefix("parent "));
    let parent = parent.and_then(|pid| pid.parse().ok()).expect("a pid");
    assert_eq!(left_behind(parent), Vec::<PathBuf>::new());
}

#[test]
fn background_processes_go_on_outside_the_cgroup() {
    if !can_trace("background_processes_go_on_outside_the_cgroup") {
        return;
    }
    let script = "sleep 60 >/dev/null 2>&1 & echo $!; echo $PPID";
    let output = run(&["run", "--memory-max", "64M", "--", "sh", "-c", script]);
    let text = stdout(&output);
    let pids: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    let &[sleep, parent] = pids.as_slice() else {
        panic!("{text}")
    };
    let alive = Path::new("/proc").join(sleep.to_string()).exists();
    let cgroup = fs::read_to_string(format!("/proc/{sleep}/cgroup")).unwrap_or_default();
    let pid = Pid::from_raw(sleep.cast_signed()).expect("not zero");
    let _ = kill_process(pid, Signal::KILL);
    assert!(alive, "it was killed");
    assert!(!cgroup.contains(SCRATCH), "{cgroup}");
    assert!(stderr(&output).contains(&format!("without the limit: {sleep}\n")));
    assert_eq!(left_behind(parent), Vec::<PathBuf>::new());
}

// Where reports go.

#[test]
fn output_file_is_private_and_new() {
    if !can_trace("output_file_is_private_and_new") {
        return;
    }
    let scratch = Scratch::new("output");
    let file = scratch.path("report");
    let output = run(&["run", "-o", &file, "--", "true"]);
    assert!(output.status.success());
    assert_eq!(stderr(&output), "");
    let mode = fs::metadata(&file).expect("made").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    fs::write(&file, "old").expect("tmp");
    assert!(run(&["run", "-o", &file, "--", "true"]).status.success());
    assert_eq!(fs::read(&file).expect("there"), b"");
}

#[test]
fn output_that_is_no_file_is_refused() {
    let scratch = Scratch::new("refused");
    let link = scratch.path("link");
    let target = scratch.path("target");
    symlink(&target, &link).expect("tmp");
    for (path, why) in [
        (scratch.path(""), "is a directory; name a file"),
        (link.clone(), "is a symbolic link; name the file itself"),
        (
            scratch.path("no/such/place"),
            "No such file or directory (os error 2)",
        ),
    ] {
        let output = run(&["run", "-o", &path, "--", "true"]);
        assert_eq!(output.status.code(), Some(1), "{path}");
        assert_eq!(stderr(&output), format!("oomtrace: -o {path}: {why}\n"));
    }
    fs::write(&target, "precious").expect("tmp");
    assert_eq!(status(&["run", "-o", &link, "--", "true"]), Some(1));
    assert_eq!(fs::read(&target).expect("there"), b"precious");
}

#[test]
fn broken_pipe_is_success() {
    let mut child = oomtrace(&["doctor"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ended");
    assert_eq!(output.status.signal(), None);
    assert_eq!(stderr(&output), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn colour_only_where_wanted() {
    let escape = |command: &mut Command| {
        let output = command.output().expect("the binary starts");
        output.stdout.contains(&0x1b)
    };
    assert!(!escape(&mut oomtrace(&["doctor"])), "no terminal");
    assert!(escape(&mut oomtrace(&["--color", "always", "doctor"])));
    assert!(!escape(&mut oomtrace(&["--color", "never", "doctor"])));
    // `script` lends a terminal.
    let terminal = |environment: &str| {
        Command::new("script")
            .args([
                "-qec",
                &format!("env {environment} {OOMTRACE} doctor"),
                "/dev/null",
            ])
            .stdin(Stdio::null())
            .output()
            .map(|output| output.stdout.contains(&0x1b))
    };
    match terminal("-u NO_COLOR") {
        Ok(coloured) => assert!(coloured, "on a terminal"),
        Err(error) => return skip("colour_only_where_wanted", &format!("script: {error}")),
    }
    assert!(!terminal("NO_COLOR=1").expect("as before"));
    assert!(terminal("NO_COLOR=").expect("as before"));
}

#[test]
fn doctor_json_is_one_object() {
    let output = run(&["doctor", "--json"]);
    let text = stdout(&output);
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(text.lines().count(), 1);
    assert_eq!(value["works"], output.status.success());
    assert!(
        value["checks"]
            .as_array()
            .is_some_and(|checks| checks.len() >= 8)
    );
    assert!(value["hooks"].is_array());
}

// Watching.

#[test]
fn watch_ends_in_order_on_signals() {
    if !can_trace("watch_ends_in_order_on_signals") {
        return;
    }
    // SIGHUP is honoured where it is ignored, as `nohup` asks.
    let mut signals = vec![Signal::INT, Signal::TERM];
    if !is_ignored(Signal::HUP) {
        signals.push(Signal::HUP);
    }
    for signal in signals {
        let (mut child, mut stderr) = start_watch(&["watch"]);
        send(&child, signal);
        assert_eq!(child.wait().expect("ended").code(), Some(0), "{signal:?}");
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).expect("readable");
        assert_eq!(rest, "", "{signal:?}");
    }
}

fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("readable");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = u64::from_str_radix(mask.expect("there").trim(), 16).expect("a mask");
    mask & (1 << (signal.as_raw() - 1)) != 0
}

#[test]
fn watch_ends_after_its_duration() {
    if !can_trace("watch_ends_after_its_duration") {
        return;
    }
    let begin = Instant::now();
    let (mut child, _stderr) = start_watch(&["watch", "--duration", "300ms", "--json"]);
    assert!(child.wait().expect("ended").success());
    assert!(begin.elapsed() >= Duration::from_millis(300));
}

// Rights.

/// Runs without any right at all, from a place where an unprivileged user may execute it.
#[test]
fn without_rights_one_line_says_how_to_get_them() {
    let test = "without_rights_one_line_says_how_to_get_them";
    let scratch = Scratch::new("rights");
    let binary = scratch.path("oomtrace");
    fs::copy(OOMTRACE, &binary).expect("tmp");
    fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o777)).expect("tmp");
    let nobody = |args: &[&str]| {
        let mut command = if geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
            command.arg(&binary);
            command
        } else {
            Command::new(&binary)
        };
        command
            .args(args)
            .current_dir(&scratch.0)
            .stdin(Stdio::null());
        command.output()
    };
    match nobody(&["--version"]) {
        Ok(output) if output.status.success() => {}
        Ok(output) => return skip(test, &stderr(&output)),
        Err(error) => return skip(test, &format!("setpriv: {error}")),
    }
    for args in [
        &["watch", "--duration", "1s"][..],
        &[
            "run",
            "-o",
            "report",
            "--memory-max",
            "64M",
            "--",
            "touch",
            "started",
        ],
    ] {
        let output = nobody(args).expect("as before");
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.starts_with("oomtrace: not permitted to "), "{text}");
        assert!(text.contains("root"), "{text}");
        assert!(output.stdout.is_empty());
    }
    // Neither the report nor the command's work: nothing had begun.
    assert!(!Path::new(&scratch.path("report")).exists());
    assert!(!Path::new(&scratch.path("started")).exists());

    let output = nobody(&["doctor"]).expect("as before");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stdout(&output).contains("FAIL rights"),
        "{}",
        stdout(&output)
    );
}
