//! The running kernel as a source.

use std::{
    collections::{HashMap, VecDeque},
    os::fd::{AsFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Array, Map, MapData, MapError, RingBuf},
    programs::ProgramFd,
};
use oomtrace_ebpf::{
    event::{self, counter},
    layout::{config, setting},
};
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::io::{Interest, unix::AsyncFd};

use self::{cmdlines::Cmdlines, incidents::Incidents, kernel::Kernel, symbols::Symbols};
use crate::{
    assemble::assemble,
    error::{Error, Result},
    incident::{Host, Incident},
    record::{Parts, Record, Session},
};

mod attach;
mod btf;
mod cmdlines;
mod host;
mod incidents;
mod kernel;
mod object;
mod symbols;

/// How to trace.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the bulk ring, which carries the candidates, in bytes.
    pub ring_bytes: u32,
    /// Size of the reserved ring, which carries decisions, cgroups and victims, in bytes.
    pub reserved_ring_bytes: u32,
    /// Stop a snapshot after this many processes and say so.
    pub max_processes: u32,
    /// Stop a snapshot after this long and say so.
    pub max_snapshot: Duration,
    /// Also observe the kernel's own score of every candidate. Costs time in every scan.
    pub kernel_scores: bool,
    /// Read command lines.
    pub cmdlines: bool,
    /// Decision hooks that may be tried, best first. All of them by default.
    pub decision_hooks: Vec<DecisionHook>,
}

/// A way to be called at the decision, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecisionHook {
    /// fentry on `oom_kill_process`.
    Fentry,
    /// kprobe on `oom_kill_process`.
    Kprobe,
    /// `oom:mark_victim` with typed arguments.
    TpBtf,
    /// `oom:mark_victim` raw.
    RawTp,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ring_bytes: 32 << 20,
            reserved_ring_bytes: 2 << 20,
            max_processes: 200_000,
            max_snapshot: Duration::from_millis(50),
            kernel_scores: false,
            cmdlines: true,
            decision_hooks: vec![
                DecisionHook::Fentry,
                DecisionHook::Kprobe,
                DecisionHook::TpBtf,
                DecisionHook::RawTp,
            ],
        }
    }
}

/// One moment of an OOM kill and the hook that serves it.
#[derive(Clone, Debug)]
pub struct Hook {
    /// The moment: `decision`, `victims`, `kernel score`, `reclaim`, …
    pub moment: &'static str,
    /// The hook in use, such as `fentry oom_kill_process`; `None` if the moment goes unseen.
    pub rung: Option<String>,
    /// Better rungs that were tried, with the kernel's answer.
    pub refused: Vec<Refusal>,
    /// What is lost with the rung in use; empty if nothing.
    pub cost: String,
}

/// A rung the kernel did not grant.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The rung.
    pub rung: String,
    /// Why not.
    pub reason: String,
    /// What would make it work; empty if nothing here can.
    pub remedy: String,
}

/// What the kernel side counted since it was loaded; these counts are never lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Decisions seen.
    pub incidents: u64,
    /// Decisions whose record was lost.
    pub incidents_lost: u64,
    /// Victims marked.
    pub victims: u64,
    /// Victims whose record was lost.
    pub victims_lost: u64,
    /// Candidate rows lost.
    pub candidates_lost: u64,
    /// Cgroup records lost.
    pub cgroups_lost: u64,
}

/// Traces the running kernel until dropped.
pub struct Tracer {
    session: Session,
    hooks: Vec<Hook>,
    /// Keep the programs attached.
    links: Vec<attach::Link>,
    _programs: Vec<ProgramFd>,
    /// Holds the programs that a walk continues with, for as long as it is open.
    _steps: Option<Map>,
    counters: Array<MapData, u64>,
    events: RingBuf<MapData>,
    rows: RingBuf<MapData>,
    waker: Option<AsyncFd<OwnedFd>>,
    incidents: Incidents,
    symbols: Symbols,
    cmdlines: Option<Cmdlines>,
    ready: VecDeque<Incident>,
}

impl Tracer {
    /// Loads and attaches the programs. From the moment this returns no kill is missed.
    ///
    /// # Errors
    /// When rights are short, the kernel has no BTF, or no decision hook could be attached.
    pub fn start(options: &Options) -> Result<Self> {
        require_rights()?;
        let host = host::read()?;
        let release = host
            .kernel
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        let kernel = Kernel::read(&release, host.cpus.unwrap_or(1))?;
        let object = object::fitted(&kernel.layout, kernel.kfuncs.as_deref())?;
        let mut ebpf = load(&object, &kernel, options)?;
        let mut settings = settings(&mut ebpf)?;
        let addresses = || symbols::addresses(&ADDRESSES.map(|(name, _)| name));
        if kernel.scores_exact {
            // Without the table the scores would be off from the first kill on.
            point_out(&mut settings, &addresses())?;
        }
        let types = kernel.attach_types()?;
        let attached = attach::attach(&mut ebpf, &mut settings, &types, &kernel, options)?;
        if !kernel.scores_exact {
            // Reading all symbols takes longer than arming; a kill that comes before tells a little less
            // about the host.
            thread::spawn(move || {
                thread::sleep(SETTLED);
                point_out(&mut settings, &addresses())
            });
        }
        let events = ring(&mut ebpf, "EVENTS")?;
        let rows = ring(&mut ebpf, "ROWS")?;
        let execs = ebpf
            .take_map("CMDLINES")
            .and_then(|map| map.try_into().ok());
        let counters = ebpf
            .take_map("COUNTERS")
            .ok_or_else(|| no_map("COUNTERS"))?;
        let rungs = attached
            .hooks
            .iter()
            .filter_map(|hook| Some((hook.moment.to_owned(), hook.rung.clone()?)))
            .collect();
        let session = Session {
            host,
            rungs,
            gfp_bits: kernel.gfp_bits,
            memcg_events: kernel.memcg_events,
            scores_exact: kernel.scores_exact,
            counts_v2_failures: kernel.counts_v2_failures,
        };
        Ok(Self {
            session,
            hooks: attached.hooks,
            links: attached.links,
            _programs: attached.fds,
            _steps: ebpf.take_map("STEPS"),
            counters: Array::try_from(counters).map_err(|error| bpf("open the counters", error))?,
            events,
            rows,
            waker: None,
            incidents: Incidents::new(attached.sees_close),
            symbols: Symbols::default(),
            cmdlines: options
                .cmdlines
                .then(|| Cmdlines::scan(execs, host::boot_ns())),
            ready: VecDeque::new(),
        })
    }

    /// The machine.
    pub fn host(&self) -> &Host {
        &self.session.host
    }

    /// Which hook serves which moment.
    pub fn hooks(&self) -> &[Hook] {
        &self.hooks
    }

    /// Waits for the next incident, at most for `timeout`. `None` when the time is up.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn next_incident(&mut self, timeout: Option<Duration>) -> Result<Option<Incident>> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            self.drain(Instant::now())?;
            if let Some(incident) = self.ready.pop_front() {
                return Ok(Some(incident));
            }
            let until = [deadline, self.incidents.deadline()]
                .into_iter()
                .flatten()
                .min();
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Ok(None);
            }
            self.wait(until.map(|until| until.saturating_duration_since(now)))?;
        }
    }

    /// The next incident, for use under tokio. Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`Self::next_incident`].
    pub async fn incident(&mut self) -> Result<Incident> {
        loop {
            self.drain(Instant::now())?;
            if let Some(incident) = self.ready.pop_front() {
                return Ok(incident);
            }
            let deadline = self.incidents.deadline();
            let waker = match &mut self.waker {
                Some(waker) => waker,
                none => none.insert(waker_of(&self.events)?),
            };
            let woken = async {
                let mut guard = waker.readable().await.map_err(ring_io)?;
                guard.clear_ready();
                Ok(())
            };
            match deadline {
                None => woken.await?,
                Some(deadline) => {
                    // Either is reason enough to look.
                    match tokio::time::timeout_at(deadline.into(), woken).await {
                        Ok(woken) => woken?,
                        Err(_elapsed) => {}
                    }
                }
            }
        }
    }

    /// What the kernel side counted.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self) -> Result<Counters> {
        let read = |slot| {
            self.counters
                .get(&slot, 0)
                .map_err(|error| bpf("read the counters", error))
        };
        Ok(Counters {
            incidents: read(counter::INCIDENTS)?,
            incidents_lost: read(counter::BEGIN_LOST)?,
            victims: read(counter::VICTIMS)?,
            victims_lost: read(counter::VICTIMS_LOST)?,
            candidates_lost: read(counter::ROWS_LOST)?,
            cgroups_lost: read(counter::CGROUPS_LOST)?,
        })
    }

    /// Detaches, and yields what was still under way, each marked as unfinished.
    ///
    /// # Errors
    /// As [`Self::next_incident`].
    pub fn finish(mut self) -> Result<Vec<Incident>> {
        self.links.clear();
        self.drain(Instant::now())?;
        for mut parts in self.incidents.take_all() {
            parts.notes.unfinished = Some("tracing ended before the kill was over".into());
            self.pass_on(parts);
        }
        Ok(self.ready.into())
    }

    /// Takes all that the kernel side has sent, and passes on what is complete.
    fn drain(&mut self, now: Instant) -> Result<()> {
        // Rows are sent before the record that ends their snapshot, so whoever has read that record
        // finds all of them.
        while let Some(item) = self.events.next() {
            self.incidents.push(Record::decode(&item)?, now);
        }
        while let Some(item) = self.rows.next() {
            self.incidents.push(Record::decode(&item)?, now);
        }
        for parts in self.incidents.take_ready(now) {
            self.pass_on(parts);
        }
        Ok(())
    }

    fn pass_on(&mut self, mut parts: Parts) {
        parts.notes.wall_minus_boot_ns = Some(host::wall_minus_boot_ns());
        if let Some(begin) = &parts.begin {
            let frames = usize::try_from(begin.stack_len)
                .unwrap_or(0)
                .min(begin.stack.len());
            parts.notes.symbols = self.symbols.resolve(&begin.stack[..frames]);
        }
        let execs_seen = self.counters.get(&counter::EXECS, 0).unwrap_or(u64::MAX);
        if let Some(cmdlines) = &mut self.cmdlines {
            parts.notes.cmdlines = cmdlines.of_all(&worth_naming(&parts), &parts.rows, execs_seen);
        }
        self.ready.push_back(assemble(&self.session, &parts));
    }

    fn wait(&self, timeout: Option<Duration>) -> Result<()> {
        let mut fds = [PollFd::new(&self.events, PollFlags::IN)];
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(ring_io(errno.into())),
        }
    }
}

/// What the programs may be told after they are loaded, by `setting`'s constants.
type Settings = Array<MapData, u64>;

/// What can wait leaves the CPUs to arming for so long.
const SETTLED: Duration = Duration::from_millis(20);

/// Data symbols that tell more about the host, and where the programs expect their addresses.
const ADDRESSES: [(&str, u32); 4] = [
    ("__per_cpu_offset", setting::PER_CPU_OFFSET),
    // `NR_FREE_PAGES` is the first of the zone counters (enum zone_stat_item, include/linux/mmzone.h).
    ("vm_zone_stat", setting::FREE_PAGES),
    ("nr_swap_pages", setting::NR_SWAP_PAGES),
    ("total_swap_pages", setting::TOTAL_SWAP_PAGES),
];

/// Processes whose command lines are looked up: all victims, the trigger, and the largest.
fn worth_naming(parts: &Parts) -> Vec<(u32, u64)> {
    const LARGEST: usize = 64;
    let mut rows: Vec<&event::Row> = parts.rows.iter().collect();
    let size = |row: &event::Row| {
        row.rss
            .iter()
            .fold(0i64, |sum, &pages| sum.saturating_add(pages))
    };
    rows.sort_unstable_by_key(|row| std::cmp::Reverse(size(row)));
    let mut wanted: Vec<(u32, u64)> = rows
        .iter()
        .take(LARGEST)
        .map(|row| (row.tgid, row.start_boot_ns))
        .collect();
    wanted.extend(
        parts
            .victims
            .iter()
            .map(|victim| (victim.row.tgid, victim.row.start_boot_ns)),
    );
    wanted.extend(
        parts
            .begin
            .iter()
            .map(|begin| (begin.tgid, begin.start_boot_ns)),
    );
    wanted.sort_unstable();
    wanted.dedup();
    wanted
}

fn load(object: &[u8], kernel: &Kernel, options: &Options) -> Result<Ebpf> {
    let mut config = kernel.config;
    config[config::MAX_ROWS] = u64::from(options.max_processes);
    config[config::MAX_NS] = u64::try_from(options.max_snapshot.as_nanos()).unwrap_or(u64::MAX);
    config[config::KERNEL_POINTS] = u64::from(options.kernel_scores);
    EbpfLoader::new()
        .override_global("LAYOUT", &kernel.layout, true)
        .override_global("CONFIG", &config, true)
        .map_max_entries("EVENTS", options.reserved_ring_bytes)
        .map_max_entries("ROWS", options.ring_bytes)
        .map_max_entries("POINTS", if options.kernel_scores { 131_072 } else { 64 })
        .load(object)
        .map_err(load_error)
}

fn load_error(error: EbpfError) -> Error {
    if let EbpfError::MapError(MapError::CreateError { io_error, .. }) = &error
        && io_error.kind() == std::io::ErrorKind::PermissionDenied
    {
        return Error::NotPermitted {
            what: "create BPF maps".into(),
            remedy: "run as root, or with CAP_BPF and CAP_PERFMON (before kernel 5.11 also \
                     CAP_SYS_RESOURCE)"
                .into(),
        };
    }
    bpf("load the BPF object", error)
}

fn settings(ebpf: &mut Ebpf) -> Result<Settings> {
    let map = ebpf
        .take_map("SETTINGS")
        .ok_or_else(|| no_map("SETTINGS"))?;
    Array::try_from(map).map_err(|error| bpf("open the settings", error))
}

/// Tells the programs where to find what.
fn point_out(settings: &mut Settings, found: &HashMap<&'static str, u64>) -> Result<()> {
    for (name, slot) in ADDRESSES {
        if let Some(&address) = found.get(name) {
            settings
                .set(slot, address, 0)
                .map_err(|error| bpf("write the settings", error))?;
        }
    }
    Ok(())
}

/// Says plainly what right is missing, before the kernel says it obscurely.
fn require_rights() -> Result<()> {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    const CAP_PERFMON: u64 = 1 << 38;
    const CAP_BPF: u64 = 1 << 39;
    let held = host::capabilities().unwrap_or(u64::MAX);
    if held & CAP_SYS_ADMIN != 0 {
        return Ok(());
    }
    let missing: Vec<&str> = [(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON")]
        .into_iter()
        .filter_map(|(bit, name)| (held & bit == 0).then_some(name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::NotPermitted {
        what: "trace the kernel".into(),
        remedy: format!(
            "it takes {}; run as root (sudo oomtrace …)",
            missing.join(" and ")
        ),
    })
}

fn ring(ebpf: &mut Ebpf, name: &str) -> Result<RingBuf<MapData>> {
    let map = ebpf.take_map(name).ok_or_else(|| no_map(name))?;
    RingBuf::try_from(map).map_err(|error| bpf("open a ring buffer", error))
}

#[expect(
    deprecated,
    reason = "an OwnedFd keeps the promise that this cannot check, and the replacement is unsafe"
)]
fn waker_of(ring: &RingBuf<MapData>) -> Result<AsyncFd<OwnedFd>> {
    let fd = ring.as_fd().try_clone_to_owned().map_err(ring_io)?;
    AsyncFd::with_interest(fd, Interest::READABLE).map_err(ring_io)
}

fn ring_io(source: std::io::Error) -> Error {
    Error::Io {
        path: "the ring buffer".into(),
        source,
    }
}

fn no_map(name: &str) -> Error {
    Error::Bpf {
        what: format!("find the map {name} in the BPF object"),
        source: None,
    }
}

fn bpf(what: &str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Bpf {
        what: what.into(),
        source: Some(Box::new(source)),
    }
}
