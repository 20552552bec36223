//! Which program serves which moment: the best that the running kernel accepts.
//!
//! Every rung is tried for real, because nothing else tells: a kernel may list a function and still
//! refuse to trace it. What was refused, and why, is kept for `oomtrace doctor`.

use aya::{
    Btf, Ebpf,
    programs::{ProgramError, ProgramFd},
};
use oomtrace_ebpf::layout::setting;

use self::program::{Programs, Target, has_kprobes, reason_of, refusal, remedy_of};
use super::{DecisionHook, Hook, Options, Refusal, Settings, kernel::Kernel, symbols};
use crate::error::{Error, Result};

mod program;

pub(super) use program::Link;

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

/// The hooks in use.
pub(super) struct Attached {
    /// What keeps them so.
    pub(super) links: Vec<Link>,
    /// The programs themselves.
    pub(super) fds: Vec<ProgramFd>,
    /// For people, moment by moment.
    pub(super) hooks: Vec<Hook>,
    /// Whether the end of a decision is seen.
    pub(super) sees_close: bool,
}

/// Attaches what serves each moment, the decision last so that nothing is seen by half.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    settings: &mut Settings,
    btf: &Btf,
    kernel: &Kernel,
    options: &Options,
) -> Result<Attached> {
    let mut ladder = Ladder {
        programs: Programs {
            ebpf,
            btf,
            links: Vec::new(),
            fds: Vec::new(),
        },
        settings,
        kernel,
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
    programs: Programs<'a>,
    settings: &'a mut Settings,
    kernel: &'a Kernel,
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
        self.programs.links.clear();
        self.programs.fds.clear();
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
        if let Err(error) = self.programs.attach_loaded(rung.program, rung.target) {
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
            links: std::mem::take(&mut self.programs.links),
            fds: std::mem::take(&mut self.programs.fds),
            hooks,
            sees_close,
        }))
    }

    fn load_decision(&mut self, rung: Rung) -> Result<(), ProgramError> {
        self.programs.load(rung.program, rung.target)?;
        if let Walk::Steps(step) = rung.walk {
            self.programs.load(step, rung.target)?;
            self.programs.continue_with(step)?;
        }
        Ok(())
    }

    fn set(&mut self, slot: u32, value: u64) -> Result<()> {
        self.settings
            .set(slot, value, 0)
            .map_err(|error| Error::Bpf {
                what: "write the settings".into(),
                source: Some(Box::new(error)),
            })
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
                if let Err(error) = self.programs.load_and_attach(program, target) {
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
            if let Err(error) = self.programs.load_and_attach(program, target) {
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
            let attached = self.programs.load_and_attach("exec", target);
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
            self.programs
                .load_and_attach("reclaim_end", Target::RawTp(event))?;
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
            match self.programs.load_and_attach(program, target) {
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
        DecisionHook::TpBtf | DecisionHook::RawTp => {
            "the snapshot comes after the kernel's report, without oom_control: scope is inferred, \
             gfp and order are unknown for a cgroup's limit, and so is the kernel's own score"
                .into()
        }
    }
}
