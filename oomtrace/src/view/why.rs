//! Why it happened, in plain words.
//!
//! Each sentence rests on numbers of the incident and repeats them, so that a reader can check it
//! against the tables. Where the numbers are absent there is no sentence.

mod cause;
mod choice;
mod holders;
mod outcome;

pub(crate) use cause::{limit_mark, requested_bytes, tightest_limit};
pub(crate) use outcome::skip_words;

use crate::incident::Incident;

/// The explanation: one or a few sentences for each point, the most important point first.
///
/// ```
/// use oomtrace::incident::{Incident, Scope};
///
/// let incident = Incident { scope: Some(Scope::Sysrq), ..Incident::default() };
/// assert!(oomtrace::view::why::sentences(&incident)[0].contains("by hand"));
/// ```
pub fn sentences(incident: &Incident) -> Vec<String> {
    [
        outcome::without_a_kill(incident),
        cause::what_ran_out(incident),
        cause::who_asked(incident),
        holders::by_name(incident),
        choice::allocating_task(incident),
        choice::score(incident),
        choice::runner_up(incident),
        choice::adjusted(incident),
        choice::powerless_adjustment(incident),
    ]
    .into_iter()
    .flatten()
    .chain(choice::passed_over(incident))
    .chain(outcome::group(incident))
    .chain(outcome::sharers(incident))
    .chain(holders::by_cgroup(incident))
    .chain(holders::counted_twice(incident))
    .chain(holders::nobody_owns(incident))
    .collect()
}
