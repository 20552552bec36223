//! The signals a subcommand wants to hear of, as one stream.
//!
//! A signal that was ignored when oomtrace started stays ignored, so that `nohup` keeps its word and CMD
//! finds what it would find without us. A tracer in the background of a script, where shells ignore
//! SIGINT, must still end in order by it: such signals are listened for in any case.

use std::{
    fs,
    future::poll_fn,
    task::{Context as TaskContext, Poll},
};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};

/// Listens until dropped. The process keeps its handlers even then, as tokio never removes one.
pub(crate) struct Signals {
    streams: Vec<(Signal, unix::Signal)>,
}

impl Signals {
    /// From the moment this returns, none of these is lost and none takes its default action.
    pub(crate) fn listen(wanted: &[Signal]) -> Result<Self> {
        let mut signals = Self {
            streams: Vec::new(),
        };
        signals.add(wanted)?;
        Ok(signals)
    }

    /// Listens for these too.
    pub(crate) fn add(&mut self, wanted: &[Signal]) -> Result<()> {
        let ignored = ignored();
        for &signal in wanted {
            if ignored & (1 << (signal.as_raw() - 1)) == 0 {
                self.add_one(signal)?;
            }
        }
        Ok(())
    }

    /// Listens for these too, ignored so far or not.
    pub(crate) fn add_in_any_case(&mut self, wanted: &[Signal]) -> Result<()> {
        wanted.iter().try_for_each(|&signal| self.add_one(signal))
    }

    fn add_one(&mut self, signal: Signal) -> Result<()> {
        let stream = unix::signal(SignalKind::from_raw(signal.as_raw()))
            .with_context(|| format!("cannot listen for {signal:?}"))?;
        self.streams.push((signal, stream));
        Ok(())
    }

    /// The next signal. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Signal {
        poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut TaskContext<'_>) -> Poll<Signal> {
        for (signal, stream) in &mut self.streams {
            if let Poll::Ready(Some(())) = stream.poll_recv(context) {
                return Poll::Ready(*signal);
            }
        }
        Poll::Pending
    }
}

/// The set of ignored signals, bit 0 for signal 1. Empty if it cannot be read.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}
