//! The programs themselves: loading and attaching one, and the kernel's answer when it will not.

use std::path::Path;

use aya::{
    Btf, Ebpf,
    maps::{MapData, ProgramArray},
    programs::{
        BtfTracePoint, FEntry, FExit, KProbe, ProgramError, ProgramFd, RawTracePoint,
        fentry::FEntryLink, fexit::FExitLink, kprobe::KProbeLink,
        raw_trace_point::RawTracePointLink, tp_btf::BtfTracePointLink,
    },
};

use super::super::Refusal;

/// How a program gets called.
#[derive(Clone, Copy)]
pub(super) enum Target {
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
    /// For people.
    pub(super) fn name(self) -> String {
        match self {
            Self::Fentry(function) => format!("fentry {function}"),
            Self::Fexit(function) => format!("fexit {function}"),
            Self::Kprobe(function) => format!("kprobe {function}"),
            Self::TpBtf(event) => format!("tp_btf {event}"),
            Self::RawTp(event) => format!("raw_tp {event}"),
        }
    }
}

/// Keeps a program attached.
#[expect(dead_code, reason = "held for what dropping it does")]
pub(in super::super) enum Link {
    Fentry(FEntryLink),
    Fexit(FExitLink),
    Kprobe(KProbeLink),
    TpBtf(BtfTracePointLink),
    RawTp(RawTracePointLink),
}

/// The object's programs, and what is attached of them.
pub(super) struct Programs<'a> {
    pub(super) ebpf: &'a mut Ebpf,
    pub(super) btf: &'a Btf,
    pub(super) links: Vec<Link>,
    /// Not needed to keep them running, but `/proc/PID/fdinfo` tells by them what each has cost.
    pub(super) fds: Vec<ProgramFd>,
}

impl Programs<'_> {
    /// Loads a program, if it is not yet, and attaches it.
    pub(super) fn load_and_attach(
        &mut self,
        program: &str,
        target: Target,
    ) -> Result<(), ProgramError> {
        self.load(program, target)?;
        self.attach_loaded(program, target)
    }

    /// Loads a program, if it is not yet.
    pub(super) fn load(&mut self, name: &str, target: Target) -> Result<(), ProgramError> {
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

    /// Attaches a program that is loaded.
    pub(super) fn attach_loaded(&mut self, name: &str, target: Target) -> Result<(), ProgramError> {
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
        self.fds.push(self.program(name)?.fd()?.try_clone()?);
        Ok(())
    }

    fn program(&self, name: &str) -> Result<&aya::programs::Program, ProgramError> {
        self.ebpf.program(name).ok_or(missing())
    }

    fn program_mut(&mut self, name: &str) -> Result<&mut aya::programs::Program, ProgramError> {
        self.ebpf.program_mut(name).ok_or(missing())
    }

    /// Puts a program where another continues its walk.
    pub(super) fn continue_with(&mut self, step: &str) -> Result<(), ProgramError> {
        let fd = self.program(step)?.fd()?.try_clone()?;
        let map = self.ebpf.map_mut("STEPS").ok_or(missing())?;
        let mut steps: ProgramArray<&mut MapData> = map.try_into()?;
        steps.set(0, &fd, 0)?;
        Ok(())
    }
}

/// A rung with the kernel's answer.
pub(super) fn refusal(target: Target, error: &ProgramError) -> Refusal {
    Refusal {
        rung: target.name(),
        reason: reason_of(error),
        remedy: remedy_of(target).into(),
    }
}

/// The kernel's answer in one line.
pub(super) fn reason_of(error: &ProgramError) -> String {
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

/// What would make the kernel accept such a rung.
pub(super) fn remedy_of(target: Target) -> &'static str {
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
pub(super) fn has_kprobes() -> bool {
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
