//! Which program serves which moment: the best that the running kernel accepts.
//!
//! Every rung is tried for real, because nothing else tells: a kernel may list a function and still
//! refuse to trace it. What was refused, and why, is kept for `oomtrace doctor`.

use std::path::Path;

use aya::{
    Btf, Ebpf,
    maps::{Array, MapData, ProgramArray},
    programs::{
        BtfTracePoint, FEntry, FExit, KProbe, ProgramError, RawTracePoint, fentry::FEntryLink,
        fexit::FExitLink, kprobe::KProbeLink, raw_trace_point::RawTracePointLink,
        tp_btf::BtfTracePointLink,
    },
};
use oomtrace_ebpf::layout::setting;

use super::{DecisionHook, Hook, Options, Refusal, kernel::Kernel, symbols};
use crate::error::{Error, Result};

/// How a program gets called.
#[derive(Clone, Copy)]
enum Target {
    /// fentry of a function.
    Fentry(&'static str),
    /// fexit of a function.
    Fexit(&'static str),
    /// kprobe or kretprobe, as the program's section says.
    Kprobe(&'static str),
    /// A tracepoint with typed arguments.
    TpBtf(&'static str),
    /// A tracepoint with raw arguments.
    RawTp(&'static str),
}

impl Target {
    fn name(self) -> String {
        match self {
            Self::Fentry(function) => format!("fentry {function}"),
            Self::Fexit(function) => format!("fexit {function}"),
            Self::Kprobe(function) => format!("kprobe {function}"),
            Self::TpBtf(event) => format!("tp_btf {event}"),
            Self::RawTp(event) => format!("raw_tp {event}"),
        }
    }
}

/// A program and where it goes.
#[derive(Clone, Copy)]
struct Rung {
    hook: DecisionHook,
    program: &'static str,
    target: Target,
    walk: Walk,
}

impl Rung {
    /// What would make the kernel accept it.
    fn remedy(self) -> &'static str {
        match (self.hook, self.walk) {
            // The only typed or probed hooks that may fail for their loop alone.
            (DecisionHook::Kprobe | DecisionHook::RawTp, Walk::Probe) => "kernel 5.17 or later",
            (DecisionHook::Fentry | DecisionHook::TpBtf, _)
            | (_, Walk::Direct | Walk::Steps(_)) => remedy_of(self.target),
        }
    }
}

/// How a rung goes through the processes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Walk {
    /// `bpf_loop` and direct loads.
    Direct,
    /// `bpf_loop` and probe reads.
    Probe,
    /// Bounded loops; the program that makes each step.
    Steps(&'static str),
}

impl Walk {
    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct loads",
            Self::Probe => "probe reads",
            Self::Steps(_) => "bounded loops",
        }
    }
}

const KILL: &str = "oom_kill_process";
const MARK: &str = "mark_victim";

/// Every way to see the decision, best first.
const DECISION: [Rung; 9] = [
    rung(
        DecisionHook::Fentry,
        "decision_fentry_direct",
        Target::Fentry(KILL),
        Walk::Direct,
    ),
    rung(
        DecisionHook::Fentry,
        "decision_fentry_probe",
        Target::Fentry(KILL),
        Walk::Probe,
    ),
    rung(
        DecisionHook::Fentry,
        "decision_fentry_tail",
        Target::Fentry(KILL),
        Walk::Steps("step_fentry"),
    ),
    rung(
        DecisionHook::Kprobe,
        "decision_kprobe_probe",
        Target::Kprobe(KILL),
        Walk::Probe,
    ),
    rung(
        DecisionHook::Kprobe,
        "decision_kprobe_tail",
        Target::Kprobe(KILL),
        Walk::Steps("step_kprobe"),
    ),
    rung(
        DecisionHook::TpBtf,
        "decision_tp_btf_direct",
        Target::TpBtf(MARK),
        Walk::Direct,
    ),
    rung(
        DecisionHook::TpBtf,
        "decision_tp_btf_probe",
        Target::TpBtf(MARK),
        Walk::Probe,
    ),
    rung(
        DecisionHook::RawTp,
        "decision_raw_tp_probe",
        Target::RawTp(MARK),
        Walk::Probe,
    ),
    rung(
        DecisionHook::RawTp,
        "decision_raw_tp_tail",
        Target::RawTp(MARK),
        Walk::Steps("step_raw_tp"),
    ),
];

const fn rung(hook: DecisionHook, program: &'static str, target: Target, walk: Walk) -> Rung {
    Rung {
        hook,
        program,
        target,
        walk,
    }
}

/// Keeps a program attached.
#[expect(dead_code, reason = "held for what dropping it does")]
pub(super) enum Link {
    Fentry(FEntryLink),
    Fexit(FExitLink),
    Kprobe(KProbeLink),
    TpBtf(BtfTracePointLink),
    RawTp(RawTracePointLink),
}

/// The hooks in use.
pub(super) struct Attached {
    /// What keeps them so.
    pub(super) links: Vec<Link>,
    /// For people, moment by moment.
    pub(super) hooks: Vec<Hook>,
    /// Whether the end of a decision is seen.
    pub(super) sees_close: bool,
}

/// Attaches what serves each moment, the decision last so that nothing is seen by half.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    btf: &Btf,
    kernel: &Kernel,
    options: &Options,
) -> Result<Attached> {
    let mut ladder = Ladder {
        ebpf,
        btf,
        kernel,
        links: Vec::new(),
    };
    let mut refused = Vec::new();
    for rung in DECISION {
        if !options.decision_hooks.contains(&rung.hook) {
            continue;
        }
        if let Some(attached) = ladder.try_decision(rung, options, &mut refused)? {
            return Ok(attached);
        }
    }
    Err(Error::Refused {
        moment: "the decision".into(),
        tried: refused
            .into_iter()
            .map(|refusal| (refusal.rung, refusal.reason))
            .collect(),
    })
}

struct Ladder<'a> {
    ebpf: &'a mut Ebpf,
    btf: &'a Btf,
    kernel: &'a Kernel,
    links: Vec<Link>,
}

impl Ladder<'_> {
    /// Tries one way to see the decision, with all that belongs to it. `None` if the kernel refuses.
    fn try_decision(
        &mut self,
        rung: Rung,
        options: &Options,
        refused: &mut Vec<Refusal>,
    ) -> Result<Option<Attached>> {
        // What an earlier rung had attached before it failed.
        self.links.clear();
        let name = format!("{} ({})", rung.target.name(), rung.walk.name());
        let mut refuse = |reason: String, remedy: &str| {
            refused.push(Refusal {
                rung: name.clone(),
                reason,
                remedy: remedy.into(),
            });
        };
        if rung.walk == Walk::Direct && self.kernel.kfuncs.is_none() {
            refuse(
                "no bpf_rdonly_cast in this kernel".into(),
                "kernel 6.2 or later",
            );
            return Ok(None);
        }
        if matches!(rung.target, Target::TpBtf(_)) && !self.kernel.mark_has_task() {
            refuse(
                "mark_victim hands over a number, not a task".into(),
                "kernel 6.9 or later",
            );
            return Ok(None);
        }
        if rung.hook == DecisionHook::Kprobe && !has_kprobes() {
            refuse("this kernel has no kprobes".into(), remedy_of(rung.target));
            return Ok(None);
        }
        if let Err(error) = self.load_decision(rung) {
            refuse(reason_of(&error), rung.remedy());
            return Ok(None);
        }
        let mut hooks = Vec::new();
        let mut sees_close = false;
        if matches!(rung.hook, DecisionHook::Fentry | DecisionHook::Kprobe) {
            let victims = self.victims(rung.hook);
            if victims.rung.is_none() {
                let why = victims
                    .refused
                    .first()
                    .map(|refusal| refusal.reason.clone());
                refuse(
                    format!("victims would go unseen: {}", why.unwrap_or_default()),
                    "",
                );
                return Ok(None);
            }
            hooks.push(victims);
            let kill = self.kill(rung.hook);
            self.set(setting::KILL_HOOK, u64::from(kill.rung.is_some()))?;
            hooks.push(kill);
            let close = self.close(rung.hook);
            sees_close = close.rung.is_some();
            hooks.push(close);
            hooks.push(self.score(options));
        } else {
            hooks.push(Hook {
                moment: "victims",
                rung: Some(rung.target.name()),
                refused: Vec::new(),
                cost: "a mark does not tell whether the process was dying already".into(),
            });
            hooks.push(self.reclaim());
        }
        hooks.push(self.exec(options));
        if let Err(error) = self.attach_loaded(rung.program, rung.target) {
            refuse(reason_of(&error), remedy_of(rung.target));
            return Ok(None);
        }
        let cost = decision_cost(rung);
        hooks.insert(
            0,
            Hook {
                moment: "decision",
                rung: Some(name.clone()),
                refused: refused.clone(),
                cost,
            },
        );
        Ok(Some(Attached {
            links: std::mem::take(&mut self.links),
            hooks,
            sees_close,
        }))
    }

    fn load_decision(&mut self, rung: Rung) -> Result<(), ProgramError> {
        self.load(rung.program, rung.target)?;
        if let Walk::Steps(step) = rung.walk {
            self.load(step, rung.target)?;
            let fd = self.program(step)?.fd()?.try_clone()?;
            let map = self.ebpf.map_mut("STEPS").ok_or(missing())?;
            let mut steps: ProgramArray<&mut MapData> = map.try_into()?;
            steps.set(0, &fd, 0)?;
        }
        Ok(())
    }

    fn victims(&mut self, hook: DecisionHook) -> Hook {
        let fentry = ("victim_fentry", Target::Fentry("mark_oom_victim"));
        let kprobe = ("victim_kprobe", Target::Kprobe("mark_oom_victim"));
        self.first_of(
            "victims",
            "no victim but the chosen one is known",
            pick(hook, fentry, kprobe),
        )
    }

    fn kill(&mut self, hook: DecisionHook) -> Hook {
        let fentry = ("kill_fentry", Target::Fentry("__oom_kill_process"));
        let kprobe = ("kill_kprobe", Target::Kprobe("__oom_kill_process"));
        let cost = "a kill cannot be told from reserves given to a dying process";
        self.first_of("kill", cost, pick(hook, fentry, kprobe))
    }

    fn close(&mut self, hook: DecisionHook) -> Hook {
        let fexit = ("close_fexit", Target::Fexit(KILL));
        let kprobe = ("close_kretprobe", Target::Kprobe(KILL));
        let cost = "the last victim of a group is known by silence only";
        self.first_of("end", cost, pick(hook, fexit, kprobe))
    }

    fn score(&mut self, options: &Options) -> Hook {
        if !options.kernel_scores {
            return Hook {
                moment: "kernel score",
                rung: None,
                refused: Vec::new(),
                cost: "off; --kernel-scores compares the kernel's own score of every candidate \
                       with the one recomputed"
                    .into(),
            };
        }
        let parts = [
            ("scan_begin", Target::Fentry("out_of_memory")),
            ("scan_end", Target::Fexit("out_of_memory")),
            ("scored", Target::Fexit("oom_badness")),
        ];
        let mut refused = Vec::new();
        if symbols::any_starts_with("oom_badness.part.") {
            // The killer calls the part; the whole is left for /proc.
            refused.push(Refusal {
                rung: "fexit oom_badness".into(),
                reason: "the compiler split the function, so the killer does not call it".into(),
                remedy: "kernel 6.1 or later".into(),
            });
        } else {
            for (program, target) in parts {
                if let Err(error) = self.load_and_attach(program, target) {
                    refused.push(refusal(target, &error));
                }
            }
        }
        let complete = refused.is_empty();
        Hook {
            moment: "kernel score",
            rung: complete.then(|| "fexit oom_badness".into()),
            refused,
            cost: if complete {
                String::new()
            } else {
                "scores are recomputed only".into()
            },
        }
    }

    fn reclaim(&mut self) -> Hook {
        let parts = [
            (
                "reclaim_memcg",
                Target::RawTp("mm_vmscan_memcg_reclaim_begin"),
            ),
            (
                "reclaim_direct",
                Target::RawTp("mm_vmscan_direct_reclaim_begin"),
            ),
        ];
        let mut refused = Vec::new();
        for (program, target) in parts {
            if let Err(error) = self.load_and_attach(program, target) {
                refused.push(refusal(target, &error));
            }
        }
        if let Err(error) = self.reclaim_end() {
            refused.push(refusal(
                Target::RawTp("mm_vmscan_memcg_reclaim_end"),
                &error,
            ));
        }
        let complete = refused.is_empty();
        Hook {
            moment: "reclaim",
            rung: complete.then(|| "raw_tp mm_vmscan_*_reclaim_*".into()),
            refused,
            cost: if complete {
                String::new()
            } else {
                "gfp and order may be unknown".into()
            },
        }
    }

    fn exec(&mut self, options: &Options) -> Hook {
        let target = Target::RawTp("sched_process_exec");
        let refused = if options.cmdlines {
            let attached = self.load_and_attach("exec", target);
            attached
                .err()
                .map(|error| refusal(target, &error))
                .into_iter()
                .collect()
        } else {
            Vec::new()
        };
        let on = options.cmdlines && refused.is_empty();
        let cost = match (options.cmdlines, on) {
            (_, true) => "",
            (true, false) => "command lines of processes that are gone by then stay unknown",
            (false, false) => "off by --no-cmdline",
        };
        Hook {
            moment: "command lines",
            rung: on.then(|| target.name()),
            refused,
            cost: cost.into(),
        }
    }

    /// One program for both ends.
    fn reclaim_end(&mut self) -> Result<(), ProgramError> {
        for event in [
            "mm_vmscan_memcg_reclaim_end",
            "mm_vmscan_direct_reclaim_end",
        ] {
            self.load_and_attach("reclaim_end", Target::RawTp(event))?;
        }
        Ok(())
    }

    /// Attaches the first that the kernel accepts.
    fn first_of(
        &mut self,
        moment: &'static str,
        cost: &str,
        choices: [(&'static str, Target); 2],
    ) -> Hook {
        let mut refused = Vec::new();
        for (program, target) in choices {
            if matches!(target, Target::Kprobe(_)) && !has_kprobes() {
                continue;
            }
            match self.load_and_attach(program, target) {
                Ok(()) => {
                    let rung = Some(target.name());
                    return Hook {
                        moment,
                        rung,
                        refused,
                        cost: String::new(),
                    };
                }
                Err(error) => refused.push(refusal(target, &error)),
            }
        }
        Hook {
            moment,
            rung: None,
            refused,
            cost: cost.into(),
        }
    }

    fn load_and_attach(&mut self, program: &str, target: Target) -> Result<(), ProgramError> {
        self.load(program, target)?;
        self.attach_loaded(program, target)
    }

    fn load(&mut self, name: &str, target: Target) -> Result<(), ProgramError> {
        let btf = self.btf;
        let program = self.program_mut(name)?;
        if program.fd().is_ok() {
            return Ok(());
        }
        match target {
            Target::Fentry(function) => <&mut FEntry>::try_from(program)?.load(function, btf),
            Target::Fexit(function) => <&mut FExit>::try_from(program)?.load(function, btf),
            Target::Kprobe(_) => <&mut KProbe>::try_from(program)?.load(),
            Target::TpBtf(event) => <&mut BtfTracePoint>::try_from(program)?.load(event, btf),
            Target::RawTp(_) => <&mut RawTracePoint>::try_from(program)?.load(),
        }
    }

    fn attach_loaded(&mut self, name: &str, target: Target) -> Result<(), ProgramError> {
        let program = self.program_mut(name)?;
        let link = match target {
            Target::Fentry(_) => {
                let program = <&mut FEntry>::try_from(program)?;
                let id = program.attach()?;
                Link::Fentry(program.take_link(id)?)
            }
            Target::Fexit(_) => {
                let program = <&mut FExit>::try_from(program)?;
                let id = program.attach()?;
                Link::Fexit(program.take_link(id)?)
            }
            Target::Kprobe(function) => {
                let program = <&mut KProbe>::try_from(program)?;
                let id = program.attach(function, 0)?;
                Link::Kprobe(program.take_link(id)?)
            }
            Target::TpBtf(_) => {
                let program = <&mut BtfTracePoint>::try_from(program)?;
                let id = program.attach()?;
                Link::TpBtf(program.take_link(id)?)
            }
            Target::RawTp(event) => {
                let program = <&mut RawTracePoint>::try_from(program)?;
                let id = program.attach(event)?;
                Link::RawTp(program.take_link(id)?)
            }
        };
        self.links.push(link);
        Ok(())
    }

    fn program(&self, name: &str) -> Result<&aya::programs::Program, ProgramError> {
        self.ebpf.program(name).ok_or(missing())
    }

    fn program_mut(&mut self, name: &str) -> Result<&mut aya::programs::Program, ProgramError> {
        self.ebpf.program_mut(name).ok_or(missing())
    }

    fn set(&mut self, slot: u32, value: u64) -> Result<()> {
        set(self.ebpf, slot, value)
    }
}

/// Tells the programs what was found out after they were loaded.
pub(super) fn set(ebpf: &mut Ebpf, slot: u32, value: u64) -> Result<()> {
    let bpf = |source: aya::maps::MapError| Error::Bpf {
        what: "write the settings map".into(),
        source: Some(Box::new(source)),
    };
    let map = ebpf.map_mut("SETTINGS").ok_or_else(|| Error::Bpf {
        what: "find the settings map".into(),
        source: None,
    })?;
    let mut settings: Array<&mut MapData, u64> = map.try_into().map_err(bpf)?;
    settings.set(slot, value, 0).map_err(bpf)
}

/// The same kind of hook first, the other as a fallback.
fn pick<T>(hook: DecisionHook, typed: T, probe: T) -> [T; 2] {
    if hook == DecisionHook::Kprobe {
        [probe, typed]
    } else {
        [typed, probe]
    }
}

fn decision_cost(rung: Rung) -> String {
    match rung.hook {
        DecisionHook::Fentry | DecisionHook::Kprobe => match rung.walk {
            Walk::Direct | Walk::Probe => String::new(),
            Walk::Steps(_) => "snapshots stop at some 120,000 processes".into(),
        },
        DecisionHook::TpBtf | DecisionHook::RawTp => "the snapshot comes after the kernel's report, \
            without oom_control: scope, gfp and order are inferred, the kernel's own score is unknown"
            .into(),
    }
}

fn refusal(target: Target, error: &ProgramError) -> Refusal {
    Refusal {
        rung: target.name(),
        reason: reason_of(error),
        remedy: remedy_of(target).into(),
    }
}

/// The kernel's answer in one line.
fn reason_of(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            let log = verifier_log.to_string();
            let line = log.lines().rev().find(|line| {
                let line = line.trim();
                !line.is_empty()
                    && !line.starts_with("processed ")
                    && !line.starts_with("verification time")
                    && !line.starts_with("stack depth")
            });
            match line {
                Some(line) => format!("{io_error}: {}", line.trim()),
                None => io_error.to_string(),
            }
        }
        ProgramError::SyscallError(syscall) => {
            format!("{}: {}", syscall.call, syscall.io_error)
        }
        other => other.to_string(),
    }
}

fn remedy_of(target: Target) -> &'static str {
    match target {
        Target::Fentry(_) | Target::Fexit(_) => {
            "CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS (x86 5.5, arm64 6.6), and no policy against \
             tracing programs"
        }
        Target::Kprobe(_) => "CONFIG_KPROBES and CONFIG_KPROBE_EVENTS",
        Target::TpBtf(_) | Target::RawTp(_) => "CONFIG_BPF_EVENTS, and kernel 5.8 or later",
    }
}

/// Whether kprobes can be had at all. Loading programs for them succeeds without, and takes a while.
fn has_kprobes() -> bool {
    [
        "/sys/bus/event_source/devices/kprobe",
        "/sys/kernel/tracing/kprobe_events",
        "/sys/kernel/debug/tracing/kprobe_events",
    ]
    .iter()
    .any(|path| Path::new(path).exists())
}

fn missing() -> ProgramError {
    ProgramError::NotLoaded
}
