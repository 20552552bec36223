//! What the tests kill: this same binary, run again as `kernel workload KIND [SIZE] [OPTION…]`.
//!
//! A workload arranges itself, says `ready` on stdout and then sleeps in one `read` of stdin, so
//! that nothing about it moves while the kernel and the tracer look at it. End of file on stdin ends
//! it, and with it every process it forked: when the tests die, nothing stays behind.

use std::{
    ffi::{CString, OsString},
    fs,
    io::{self, Read, Write},
    os::unix::ffi::OsStringExt,
    path::PathBuf,
    process, ptr, thread,
};

use anyhow::{Context, bail, ensure};

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;

/// The options, in the order in which they take effect.
#[derive(Default)]
struct Options {
    cgroup: Option<PathBuf>,
    oom_score_adj: Option<i32>,
    name: Option<Vec<u8>>,
    uid: Option<u32>,
}

/// Runs the workload that `args` describe; never returns.
pub(crate) fn main(mut args: impl Iterator<Item = OsString>) -> ! {
    let code = match run(&mut args) {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(io::stderr(), "workload: {error:#}");
            1
        }
    };
    process::exit(code)
}

fn run(args: &mut dyn Iterator<Item = OsString>) -> anyhow::Result<()> {
    let kind = args.next().context("which workload?")?;
    let size: usize = text(args.next())?.parse().context("size of the workload")?;
    options(args)?.apply()?;
    match kind.to_str() {
        Some("hold") => {
            hold(size)?;
            sleep("ready")
        }
        Some("grow") => grow(size),
        Some("fork") => fork(size),
        Some("share-mm") => share_mm(size),
        Some("leader-exits") => leader_exits(size),
        _ => bail!("no workload {kind:?}"),
    }
}

fn text(arg: Option<OsString>) -> anyhow::Result<String> {
    let arg = arg.context("an argument is missing")?;
    arg.into_string()
        .map_err(|arg| anyhow::anyhow!("not UTF-8: {arg:?}"))
}

fn options(args: &mut dyn Iterator<Item = OsString>) -> anyhow::Result<Options> {
    let mut options = Options::default();
    while let Some(option) = args.next() {
        match option.to_str() {
            Some("--cgroup") => options.cgroup = args.next().map(PathBuf::from),
            Some("--adj") => options.oom_score_adj = Some(text(args.next())?.parse()?),
            Some("--name") => options.name = args.next().map(OsString::into_vec),
            Some("--uid") => options.uid = Some(text(args.next())?.parse()?),
            _ => bail!("no option {option:?}"),
        }
    }
    Ok(options)
}

impl Options {
    fn apply(self) -> anyhow::Result<()> {
        if let Some(cgroup) = self.cgroup {
            // Before any memory is touched, so that it is charged where it belongs.
            let file = cgroup.join("cgroup.procs");
            fs::write(&file, "0").with_context(|| format!("join {}", cgroup.display()))?;
        }
        if let Some(adj) = self.oom_score_adj {
            fs::write("/proc/self/oom_score_adj", adj.to_string()).context("oom_score_adj")?;
        }
        if let Some(name) = self.name {
            set_name(&name)?;
        }
        if let Some(uid) = self.uid {
            // SAFETY: a call without pointers.
            let done = unsafe { libc::setuid(uid) };
            ensure!(done == 0, "setuid: {}", io::Error::last_os_error());
        }
        Ok(())
    }
}

fn set_name(name: &[u8]) -> anyhow::Result<()> {
    let name = CString::new(name).context("a name holds no NUL")?;
    // SAFETY: the pointer is to a NUL-terminated string that outlives the call.
    let done = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    ensure!(done == 0, "PR_SET_NAME: {}", io::Error::last_os_error());
    Ok(())
}

/// Touches `mib` MiB for ever: one in sixteen of them shared, the rest anonymous.
fn hold(mib: usize) -> anyhow::Result<()> {
    let shared = mib * MIB / 16 / PAGE * PAGE;
    touch(map(shared, libc::MAP_SHARED)?, shared);
    let anon = mib * MIB - shared;
    touch(map(anon, libc::MAP_PRIVATE)?, anon);
    Ok(())
}

/// Maps `len` bytes in pages of the small size only, so that counts do not depend on luck.
fn map(len: usize, flags: libc::c_int) -> anyhow::Result<*mut u8> {
    if len == 0 {
        return Ok(ptr::null_mut());
    }
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a fresh anonymous mapping, which nothing else refers to.
    let at = unsafe {
        libc::mmap(
            ptr::null_mut(),
            len,
            protection,
            flags | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    ensure!(
        at != libc::MAP_FAILED,
        "mmap: {}",
        io::Error::last_os_error()
    );
    // SAFETY: the range was just mapped. A kernel without huge pages refuses, which is as good.
    unsafe { libc::madvise(at, len, libc::MADV_NOHUGEPAGE) };
    Ok(at.cast())
}

fn touch(at: *mut u8, len: usize) {
    for offset in (0..len).step_by(PAGE) {
        // SAFETY: within the mapping of `len` bytes at `at`, which is never unmapped.
        unsafe { at.add(offset).write_volatile(1) };
    }
}

/// Waits for a word, then grows by `mib` MiB and sleeps: the one that meets the limit.
fn grow(mib: usize) -> anyhow::Result<()> {
    let at = map(mib * MIB, libc::MAP_PRIVATE)?;
    say("ready")?;
    if io::stdin()
        .read(&mut [0; 16])
        .context("wait for the word")?
        == 0
    {
        return Ok(());
    }
    touch(at, mib * MIB);
    sleep("grown")
}

/// Forks `count` children that differ in name and size, and stays as their parent.
fn fork(count: usize) -> anyhow::Result<()> {
    // The kernel reaps them, whoever kills them.
    // SAFETY: SIG_IGN is no handler that could be unsound.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    for index in 0..count {
        // SAFETY: this process has one thread.
        match unsafe { libc::fork() } {
            -1 => bail!("fork {index}: {}", io::Error::last_os_error()),
            0 => {
                set_name(format!("child {index}").as_bytes())?;
                let len = index % 8 * PAGE;
                touch(map(len, libc::MAP_PRIVATE)?, len);
                read_to_end()
            }
            _ => {}
        }
    }
    sleep("ready")
}

/// Two processes, one address space.
fn share_mm(mib: usize) -> anyhow::Result<()> {
    extern "C" fn sharer(_: *mut libc::c_void) -> libc::c_int {
        read_to_end()
    }
    hold(mib)?;
    let stack = map(64 << 10, libc::MAP_PRIVATE)?;
    // SAFETY: the child runs `sharer` on a stack of its own, which only reads and exits.
    let pid = unsafe {
        let top = stack.add(64 << 10).cast();
        libc::clone(sharer, top, libc::CLONE_VM | libc::SIGCHLD, ptr::null_mut())
    };
    ensure!(pid > 0, "clone: {}", io::Error::last_os_error());
    sleep(&format!("ready {pid}"))
}

/// A process whose first thread is gone while another holds the memory.
fn leader_exits(mib: usize) -> anyhow::Result<()> {
    thread::spawn(move || {
        let done = hold(mib).and_then(|()| {
            set_name(b"second")?;
            // SAFETY: a call without pointers.
            let tid = unsafe { libc::syscall(libc::SYS_gettid) };
            wait_for_dead_leader()?;
            sleep(&format!("ready {tid}"))
        });
        process::exit(i32::from(done.is_err()));
    });
    // SAFETY: ends this thread only. What the other needs is on its own stack or on the heap.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("a thread that has exited")
}

fn wait_for_dead_leader() -> anyhow::Result<()> {
    loop {
        let status = fs::read_to_string(format!("/proc/{}/status", process::id()))?;
        if status.contains("\nState:\tZ") {
            return Ok(());
        }
        thread::yield_now();
    }
}

fn say(word: &str) -> anyhow::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{word}")
        .and_then(|()| out.flush())
        .context("say")
}

fn sleep(word: &str) -> anyhow::Result<()> {
    say(word)?;
    read_to_end()
}

/// Sleeps until stdin ends, then ends the process. Touches neither heap nor locks, and so is fit
/// for a process that shares its memory with another.
fn read_to_end() -> ! {
    let mut byte = 0u8;
    // SAFETY: one byte of this stack frame; `_exit` runs nothing of this process.
    unsafe {
        while libc::read(0, (&raw mut byte).cast(), 1) > 0 {}
        libc::_exit(0)
    }
}
