//! `oomtrace watch`: reports kills as they happen.

use anyhow::{Context as _, Result};
use oomtrace::source::live::Tracer;
use rustix::process::Signal;
use tokio::time::Instant;

use super::{decision_rung, losses, runtime};
use crate::{
    args::{Color, Watch},
    memory,
    output::{self, Report},
    signals::Signals,
};

pub(super) fn watch(args: &Watch, color: Color) -> Result<u8> {
    runtime()?.block_on(until_stopped(args, color))
}

async fn until_stopped(args: &Watch, color: Color) -> Result<u8> {
    let mut report = Report::stdout(args.format, color);
    // A signal until here just ends the process, and the kernel detaches what was attached.
    let mut tracer = Tracer::start(&args.trace.options())?;
    let mut stop = Signals::listen(&[Signal::HUP])?;
    stop.add_in_any_case(&[Signal::INT, Signal::TERM])?;
    output::say(format_args!("armed ({})", decision_rung(&tracer)));
    memory::give_back();

    let deadline = args.duration.and_then(|d| Instant::now().checked_add(d));
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        tokio::select! {
            incident = tracer.incident() => {
                report.write(&incident?)?;
                memory::give_back();
                left -= 1;
            }
            _signal = stop.next() => break,
            () = reached(deadline) => break,
        }
    }
    finish(tracer, &mut report, left)?;
    Ok(0)
}

/// Detaches, and shows what was still under way.
fn finish(tracer: Tracer, report: &mut Report, left: u64) -> Result<()> {
    let counters = tracer.counters().context("cannot read the loss counts")?;
    let unfinished = tracer.finish()?;
    if let Some(losses) = losses(counters) {
        output::say(format_args!("{losses}"));
    }
    let left = usize::try_from(left).unwrap_or(usize::MAX);
    for incident in unfinished.iter().take(left) {
        report.write(incident)?;
    }
    Ok(())
}

async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
