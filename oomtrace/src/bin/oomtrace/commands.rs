//! One straight function per subcommand. Each yields the exit status.

mod doctor;
mod run;
mod watch;

use anyhow::{Context as _, Result};
use oomtrace::source::live::{Counters, Tracer};
use tokio::runtime::{Builder, Runtime};

use crate::args::{Cli, Command};

pub(crate) fn run(cli: &Cli) -> Result<u8> {
    match &cli.command {
        Command::Watch(args) => watch::watch(args, cli.color),
        Command::Run(args) => run::run(args, cli.color),
        Command::Doctor(args) => doctor::doctor(args, cli.color),
    }
}

/// One thread is enough: there is nothing to do between two kills.
fn runtime() -> Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")
}

/// The hook that serves the decision, which says most about how much will be known.
fn decision_rung(tracer: &Tracer) -> &str {
    tracer
        .hooks()
        .iter()
        .find(|hook| hook.moment == "decision")
        .and_then(|hook| hook.rung.as_deref())
        .unwrap_or("no decision hook")
}

/// What was lost, in words; `None` if nothing was.
fn losses(counters: Counters) -> Option<String> {
    let Counters {
        incidents,
        incidents_lost,
        victims,
        victims_lost,
        candidates_lost,
        cgroups_lost,
    } = counters;
    let lost: Vec<String> = [
        (incidents_lost, format!(" of {incidents} incidents")),
        (victims_lost, format!(" of {victims} victims")),
        (candidates_lost, " candidate rows".to_owned()),
        (cgroups_lost, " cgroup records".to_owned()),
    ]
    .into_iter()
    .filter(|(count, _what)| *count > 0)
    .map(|(count, what)| format!("{count}{what}"))
    .collect();
    (!lost.is_empty()).then(|| format!("lost {}; a larger --ring loses less", lost.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_name_what_was_lost_and_nothing_else() {
        assert_eq!(losses(Counters::default()), None);
        let counters = Counters {
            incidents: 3,
            incidents_lost: 1,
            candidates_lost: 120,
            ..Counters::default()
        };
        assert_eq!(
            losses(counters).as_deref(),
            Some("lost 1 of 3 incidents, 120 candidate rows; a larger --ring loses less")
        );
    }
}
