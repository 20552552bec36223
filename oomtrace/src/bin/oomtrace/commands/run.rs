//! `oomtrace run`: traces while one command runs, and exits as it did.
//!
//! Once the command has started, nothing of ours may change its fate or its exit status: a trace
//! or a report that fails is said on standard error, and the command goes on.

mod child;

use std::{path::Path, time::Duration};

use anyhow::{Result, bail};
use oomtrace::{incident::Incident, source::live::Tracer};
use rustix::process::Signal;
use tokio::time::{Instant, timeout, timeout_at};

use self::child::Child;
use super::{losses, runtime};
use crate::{
    args::{Color, Run},
    cgroup::{Limits, Scratch},
    lookup,
    output::{self, Report},
    signals::Signals,
};

/// How long incidents may take to complete after the command has ended.
const AFTERMATH: Duration = Duration::from_secs(2);

/// Passed on to the command. Before there is one, they end oomtrace.
const ENDING: &[Signal] = &[Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];

/// Passed on to the command. Heard of only once the trace is armed, as a signal that is handled
/// makes the kernel give up the loading of a program.
///
/// SIGTSTP is not among them: Ctrl-Z stops the whole job, oomtrace included, and `fg` continues
/// all of it, by default actions alone.
const OTHERS: &[Signal] = &[Signal::USR1, Signal::USR2, Signal::WINCH, Signal::CONT];

pub(super) fn run(args: &Run, color: Color) -> Result<u8> {
    let Some(command) = args.command.first() else {
        bail!("CMD is missing");
    };
    match lookup::check(command) {
        Ok(()) => runtime()?.block_on(trace(args, color)),
        Err(status) => Ok(status),
    }
}

async fn trace(args: &Run, color: Color) -> Result<u8> {
    // Everything that can fail comes before the command, and undoes itself.
    let mut signals = Signals::listen(ENDING)?;
    let report = report(args, color)?;
    let tracer = Tracer::start(&args.trace.options());
    if let Some(status) = interrupted(&mut signals).await {
        return Ok(status);
    }
    let mut tracer = tracer?;
    signals.add(OTHERS)?;
    let scratch = scratch(args)?;
    let mut child = Child::start(&args.command, scratch.as_ref())?;

    let mut printer = Printer::new(report);
    let status = attend(&mut child, &mut tracer, &mut signals, &mut printer).await?;
    printer.rest(&mut tracer, &mut signals).await;
    // Not before: the cgroup's name is part of the incidents above.
    drop(scratch);
    let nothing = printer.finish(tracer);
    if nothing && args.output.is_none() && !args.format.json {
        output::say(format_args!("no OOM kill happened"));
    }
    Ok(status)
}

/// The exit status, if a signal has arrived already.
async fn interrupted(signals: &mut Signals) -> Option<u8> {
    let signal = timeout(Duration::ZERO, signals.next()).await.ok()?;
    Some(child::status_of(signal.as_raw()))
}

/// Shows incidents and passes signals on until the command ends.
async fn attend(
    child: &mut Child,
    tracer: &mut Tracer,
    signals: &mut Signals,
    printer: &mut Printer,
) -> Result<u8> {
    let mut tracing = true;
    loop {
        tokio::select! {
            status = child.ended() => return status,
            signal = signals.next() => child.forward(signal),
            incident = tracer.incident(), if tracing => match incident {
                Ok(incident) => printer.print(&incident),
                Err(error) => {
                    output::say(format_args!("{:#}", anyhow::Error::from(error)));
                    tracing = false;
                }
            },
        }
    }
}

fn report(args: &Run, color: Color) -> Result<Report> {
    match args.output.as_deref() {
        None => Ok(Report::stderr(args.format, color)),
        Some(path) if path == Path::new("-") => Ok(Report::stdout(args.format, color)),
        Some(path) => Report::file(path, args.format, color),
    }
}

fn scratch(args: &Run) -> Result<Option<Scratch>> {
    let limits = Limits {
        memory_max: args.memory_max,
        swap_max: args.swap_max,
    };
    match limits {
        Limits {
            memory_max: None,
            swap_max: None,
        } => Ok(None),
        limits => Scratch::create(limits).map(Some),
    }
}

/// Prints incidents, counts them, and says once when that fails.
struct Printer {
    report: Report,
    shown: u64,
    failed: bool,
}

impl Printer {
    fn new(mut report: Report) -> Self {
        report.keep();
        Self {
            report,
            shown: 0,
            failed: false,
        }
    }

    fn print(&mut self, incident: &Incident) {
        self.shown += 1;
        if self.failed {
            return;
        }
        if let Err(error) = self.report.write(incident) {
            self.failed = true;
            if !output::is_broken_pipe(&error) {
                output::say(format_args!("{error:#}"));
            }
        }
    }

    /// Waits for incidents that the kernel side has seen and that are not complete yet.
    async fn rest(&mut self, tracer: &mut Tracer, signals: &mut Signals) {
        let deadline = Instant::now() + AFTERMATH;
        while tracer
            .counters()
            .is_ok_and(|seen| seen.incidents.saturating_sub(seen.incidents_lost) > self.shown)
        {
            let incident = tokio::select! {
                incident = timeout_at(deadline, tracer.incident()) => incident,
                _signal = signals.next() => return,
            };
            match incident {
                Ok(Ok(incident)) => self.print(&incident),
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }

    /// Detaches and prints what is unfinished. Yields whether nothing happened at all.
    fn finish(&mut self, tracer: Tracer) -> bool {
        let counters = tracer.counters().unwrap_or_default();
        match tracer.finish() {
            Ok(unfinished) => unfinished.iter().for_each(|incident| self.print(incident)),
            Err(error) => output::say(format_args!("{:#}", anyhow::Error::from(error))),
        }
        if let Some(losses) = losses(counters) {
            output::say(format_args!("{losses}"));
        }
        self.shown == 0 && counters.incidents == 0
    }
}
