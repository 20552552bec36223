//! Counts what passed, failed and was skipped.

use std::fmt;

/// Counts, added up over the parts of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    /// Takes the counts from a line, if it is the closing one of libtest or of what speaks like it.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some((_, counts)) = line
            .split_once("test result: ")
            .and_then(|(_, rest)| rest.split_once(". "))
        {
            for part in counts.split("; ") {
                let (count, word) = part.split_once(' ').unwrap_or(("", ""));
                let count = count.parse().unwrap_or(0);
                match word {
                    "passed" => self.passed += count,
                    "failed" => self.failed += count,
                    "ignored" => self.skipped += count,
                    _ => {}
                }
            }
        }
    }

    /// A run that failed has failed at something, even if it did not live to say at what.
    pub(crate) fn ended(&mut self, success: bool) {
        if !success && self.failed == 0 {
            self.failed = 1;
        }
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn counts_are_taken_from_result_lines() {
        let mut tally = Tally::default();
        for line in [
            "test result: ok. 7 passed; 0 failed; 2 ignored; 0 measured; 1 filtered out; finished in 0.00s",
            "test result: FAILED. 1 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out",
            "test live::memcg ... ok (27 rows compared; fentry)",
        ] {
            tally.line(line);
        }
        assert_eq!(tally.to_string(), "8 passed, 3 failed, 2 skipped");
        let mut dead = Tally::default();
        dead.ended(false);
        assert_eq!(dead.failed, 1);
    }
}
