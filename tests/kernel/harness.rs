//! Runs tests one after the other and tells of them as cargo's own harness does.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::context::{Skip, Verdict};

/// What to run, from the command line.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    filters: BTreeSet<String>,
    exact: bool,
    pub(crate) list: bool,
}

impl Selection {
    /// Takes the arguments of libtest that matter here and passes over the rest.
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> Self {
        let mut selection = Self::default();
        let mut args = args.peekable();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--exact" => selection.exact = true,
                "--list" => selection.list = true,
                // These take a value, which is no name of a test.
                "--test-threads" | "--format" | "--color" | "--skip" | "--logfile" | "-Z" => {
                    args.next();
                }
                flag if flag.starts_with('-') => {}
                _ => {
                    selection.filters.insert(arg);
                }
            }
        }
        selection
    }

    pub(crate) fn includes(&self, name: &str) -> bool {
        let matches = |filter: &String| {
            if self.exact {
                name == filter
            } else {
                name.contains(filter.as_str())
            }
        };
        self.filters.is_empty() || self.filters.iter().any(matches)
    }
}

/// How a test ended.
pub(crate) enum Outcome {
    Passed(Option<Verdict>),
    Skipped(String),
    Failed(String),
}

/// Runs one test; a panic is a failure.
pub(crate) fn run(test: impl FnOnce() -> anyhow::Result<Option<Verdict>>) -> Outcome {
    match catch_unwind(AssertUnwindSafe(test)) {
        Ok(Ok(verdict)) => Outcome::Passed(verdict),
        Ok(Err(error)) => match error.downcast::<Skip>() {
            Ok(Skip(reason)) => Outcome::Skipped(reason),
            Err(error) => Outcome::Failed(format!("{error:#}")),
        },
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Outcome::Failed(format!("panicked: {}", text.unwrap_or("without a text")))
        }
    }
}

/// Counts outcomes and prints them.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    passed: usize,
    failed: usize,
    ignored: usize,
    pub(crate) filtered_out: usize,
}

impl Summary {
    pub(crate) fn add(&mut self, name: &str, outcome: Outcome) {
        match outcome {
            Outcome::Passed(None) => {
                self.passed += 1;
                line(&format!("test {name} ... ok"));
            }
            Outcome::Passed(Some(verdict)) => {
                self.passed += 1;
                let Verdict {
                    rung,
                    rows,
                    values,
                    note,
                } = verdict;
                line(&format!(
                    "test {name} ... ok ({rows} rows, {values} values compared; {note}; {rung})"
                ));
            }
            Outcome::Skipped(reason) => {
                self.ignored += 1;
                line(&format!("test {name} ... ignored, {reason}"));
            }
            Outcome::Failed(reason) => {
                self.failed += 1;
                line(&format!("test {name} ... FAILED\n    {reason}"));
            }
        }
    }

    /// Prints the last line and says whether all is well.
    pub(crate) fn finish(self) -> bool {
        let ok = self.failed == 0;
        line(&format!(
            "\ntest result: {}. {} passed; {} failed; {} ignored; 0 measured; {} filtered out",
            if ok { "ok" } else { "FAILED" },
            self.passed,
            self.failed,
            self.ignored,
            self.filtered_out
        ));
        ok
    }
}

/// Prints a line at once, wherever stdout leads.
pub(crate) fn line(text: &str) {
    let mut out = io::stdout();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Tests of the harness itself.
pub(crate) mod tests {
    use anyhow::{bail, ensure};

    use super::{Outcome, Selection, run};
    use crate::context::Skip;

    pub(crate) fn a_skip_is_no_pass_and_a_panic_a_failure() -> anyhow::Result<()> {
        let skipped = run(|| Err(Skip("no cgroup".to_owned()).into()));
        ensure!(matches!(skipped, Outcome::Skipped(reason) if reason == "no cgroup"));
        let failed = run(|| bail!("a difference"));
        ensure!(matches!(failed, Outcome::Failed(reason) if reason == "a difference"));
        // Without the hook, which would print a backtrace.
        let panicked = run(|| std::panic::resume_unwind(Box::new("empty")));
        ensure!(matches!(panicked, Outcome::Failed(reason) if reason.contains("empty")));
        Ok(())
    }

    pub(crate) fn filters_are_those_of_cargo() -> anyhow::Result<()> {
        let parse = |args: &[&str]| Selection::parse(args.iter().map(|&arg| arg.to_owned()));
        ensure!(parse(&[]).includes("live::adj"));
        ensure!(parse(&["--nocapture", "--test-threads", "1"]).includes("live::adj"));
        ensure!(parse(&["adj"]).includes("live::adj") && !parse(&["adj"]).includes("live::many"));
        ensure!(!parse(&["--exact", "adj"]).includes("live::adj"));
        ensure!(parse(&["live::adj", "--exact"]).includes("live::adj"));
        Ok(())
    }
}
