//! What became of every test of a run, by its full name `package::binary::test`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::output::{Report, Verdict};
use crate::lab;

/// Every test seen, by outcome.
#[derive(Debug, Default)]
pub struct Record {
    /// Names of tests that passed.
    pub passed: Vec<String>,
    /// Names of tests that failed, with a reason where it is not the test's own.
    pub failed: Vec<String>,
    /// Names of tests that passed only when they were run once more.
    pub flaky: Vec<String>,
    /// Why a test did not run, by its name.
    pub skipped: BTreeMap<String, String>,
}

impl Record {
    /// Takes over what the binary `name` said, and returns how many failures that adds.
    pub fn add(&mut self, name: &str, report: Report) -> usize {
        let failed_before = self.failed.len();
        for (test, verdict) in report.verdicts {
            let full_name = format!("{name}::{test}");
            match verdict {
                Verdict::Passed => self.passed.push(full_name),
                Verdict::Failed => self.failed.push(full_name),
                Verdict::Flaky => {
                    self.flaky.push(full_name.clone());
                    self.passed.push(full_name);
                }
                Verdict::Ignored => {
                    let reason = report.reasons.get(&test).map_or("marked to be ignored", String::as_str);
                    self.skipped.insert(full_name, reason.to_owned());
                }
            }
        }
        self.failed.extend(report.doubts.iter().map(|doubt| format!("{name}: {doubt}")));
        self.failed.len() - failed_before
    }

    /// Takes note that of the failed tests these passed when they were repeated.
    pub fn passed_when_repeated(&mut self, passed: &[String]) {
        let (flaky, failed) =
            std::mem::take(&mut self.failed).into_iter().partition(|test| passed.contains(test));
        self.failed = failed;
        self.passed.extend(Vec::clone(&flaky));
        self.flaky.extend(flaky);
    }

    /// Adds another record.
    pub fn take_over(&mut self, other: Self) {
        self.passed.extend(other.passed);
        self.failed.extend(other.failed);
        self.flaky.extend(other.flaky);
        self.skipped.extend(other.skipped);
    }

    /// Takes out what this host could not run and the lab did.
    pub fn settle_skipped_here(&mut self) {
        for name in self.passed.iter().filter_map(|name| lab::outside(name)) {
            if self.skipped.remove(name).is_some() {
                println!("not skipped: {name} ran in the lab");
            }
        }
    }

    /// The skipped, the flaky and the failed tests, one a line.
    pub fn listing(&self) -> String {
        let mut listing = String::new();
        for (name, reason) in &self.skipped {
            // Writing to a String cannot fail.
            let _ = writeln!(listing, "skipped {name}: {reason}");
        }
        for name in &self.flaky {
            let _ =
                writeln!(listing, "flaky   {name}: failed, and passed when it was run once more by itself");
        }
        for name in &self.failed {
            let _ = writeln!(listing, "failed  {name}");
        }
        listing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::output::parse;

    #[test]
    fn what_was_skipped_here_and_passed_in_the_lab_is_no_skipped_test() {
        let skipped = ["p::b::one", "p::b::two"].map(|name| (name.to_owned(), "needs it".to_owned()));
        let passed = vec!["lab-6.1::p::b::one".to_owned()];
        let mut record = Record { passed, skipped: skipped.into(), ..Record::default() };
        record.settle_skipped_here();
        assert_eq!(record.skipped.into_keys().collect::<Vec<_>>(), ["p::b::two"]);
    }

    #[test]
    fn what_passes_when_it_is_repeated_is_flaky_and_the_rest_has_failed() {
        let failed = ["lab-6.1::p::b::one", "lab-6.1::p::b::two"].map(str::to_owned).to_vec();
        let mut first = Record { failed, ..Record::default() };
        first.passed_when_repeated(&["lab-6.1::p::b::one".to_owned(), "lab-6.1::p::b::three".to_owned()]);
        let mut record = Record { passed: vec!["p::b::one".to_owned()], ..Record::default() };
        record.take_over(first);
        assert_eq!(record.passed, ["p::b::one", "lab-6.1::p::b::one"]);
        assert_eq!(
            (record.flaky, record.failed),
            (vec!["lab-6.1::p::b::one".to_owned()], vec!["lab-6.1::p::b::two".to_owned()])
        );
    }

    #[test]
    fn tests_are_recorded_under_the_name_of_their_binary() {
        let mut record = Record::default();
        let added = record.add(
            "forkd::api",
            parse(
                "SKIP boots: needs root\nrunning 3 tests\n\
                 test boots ... ignored\ntest lists ... ok\ntest deletes ... FAILED\n\
                 test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured\n",
            ),
        );
        assert_eq!(added, 1);
        assert_eq!(record.passed, ["forkd::api::lists"]);
        assert_eq!(record.failed, ["forkd::api::deletes"]);
        assert_eq!(record.listing(), "skipped forkd::api::boots: needs root\nfailed  forkd::api::deletes\n");
    }
}
