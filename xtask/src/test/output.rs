//! Reads what a test binary prints: libtest and libtest-mimic say the same, line by line.

use std::collections::BTreeMap;

/// How one test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It ran and passed.
    Passed,
    /// It ran and failed, or how it ended could not be read.
    Failed,
    /// It failed, and passed when it was run once more by itself.
    Flaky,
    /// It did not run.
    Ignored,
}

/// What one test binary said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Every test that it named, in its order.
    pub verdicts: Vec<(String, Verdict)>,
    /// Why a test did not run, by its name.
    pub reasons: BTreeMap<String, String>,
    /// Contradictions between the tests named and the binary's own count.
    pub doubts: Vec<String>,
}

impl Report {
    /// The tests that failed.
    pub fn failed(&self) -> impl Iterator<Item = &str> {
        self.verdicts.iter().filter(|(_, verdict)| *verdict == Verdict::Failed).map(|(name, _)| name.as_str())
    }

    /// Whether a test failed at first only.
    pub fn has_flaky(&self) -> bool {
        self.verdicts.iter().any(|(_, verdict)| *verdict == Verdict::Flaky)
    }

    /// Takes note that the failed test `name` passed when it was repeated.
    pub fn passed_when_repeated(&mut self, name: &str) {
        let failed =
            self.verdicts.iter_mut().filter(|(test, verdict)| test == name && *verdict == Verdict::Failed);
        failed.for_each(|(_, verdict)| *verdict = Verdict::Flaky);
    }
}

/// Reads the whole standard output of one or more test binaries.
pub fn parse(output: &str) -> Report {
    let mut reader = Reader::default();
    for line in output.lines() {
        reader.line(line);
    }
    reader.finish()
}

#[derive(Default)]
struct Reader {
    report: Report,
    /// A test whose verdict is on a line of its own, because the test printed in between.
    pending: Option<String>,
    /// Between `failures:` and the summary stands what failed tests printed, which may look like anything.
    quoting: bool,
    /// Verdicts that an earlier summary has covered.
    counted: usize,
    expects_summary: bool,
}

impl Reader {
    fn line(&mut self, line: &str) {
        if let Some(summary) = line.strip_prefix("test result: ") {
            self.settle_pending();
            self.quoting = false;
            self.compare_with(summary);
        } else if self.quoting {
        } else if line == "failures:" {
            self.quoting = true;
        } else if let Some((name, reason)) = line.strip_prefix("SKIP ").and_then(|it| it.split_once(": ")) {
            self.report.reasons.insert(name.to_owned(), reason.to_owned());
        } else if line.starts_with("running ") && (line.ends_with(" tests") || line.ends_with(" test")) {
            self.settle_pending();
            self.expects_summary = true;
        } else if let Some((name, rest)) = line.strip_prefix("test ").and_then(|it| it.rsplit_once(" ... ")) {
            self.settle_pending();
            self.named(clean(name), rest);
        } else if let Some(name) = line.strip_prefix("test ").and_then(|it| it.strip_suffix(" ...")) {
            self.settle_pending();
            self.pending = Some(clean(name));
        } else if let Some(verdict) = verdict(line)
            && let Some(name) = self.pending.take()
        {
            self.report.verdicts.push((name, verdict));
        }
    }

    fn named(&mut self, name: String, rest: &str) {
        match verdict(rest) {
            Some(verdict) => {
                if let Some(reason) = rest.strip_prefix("ignored, ") {
                    self.report.reasons.entry(name.clone()).or_insert_with(|| reason.to_owned());
                }
                self.report.verdicts.push((name, verdict));
            }
            None => self.pending = Some(name),
        }
    }

    fn settle_pending(&mut self) {
        if let Some(name) = self.pending.take() {
            self.report.doubts.push(format!("how {name} ended could not be read"));
            self.report.verdicts.push((name, Verdict::Failed));
        }
    }

    fn compare_with(&mut self, summary: &str) {
        self.expects_summary = false;
        let here = &self.report.verdicts[self.counted..];
        for (verdict, word) in
            [(Verdict::Passed, "passed"), (Verdict::Failed, "failed"), (Verdict::Ignored, "ignored")]
        {
            let named = here.iter().filter(|(_, each)| *each == verdict).count();
            let counted = count(summary, word);
            if counted != Some(named) {
                let counted = counted.map_or("no number".to_owned(), |count| count.to_string());
                self.report
                    .doubts
                    .push(format!("{named} tests were named as {word}, the summary says {counted}"));
            }
        }
        self.counted = self.report.verdicts.len();
    }

    fn finish(mut self) -> Report {
        self.settle_pending();
        if self.expects_summary {
            self.report.doubts.push("it ended before its summary".to_owned());
        }
        self.report
    }
}

fn verdict(text: &str) -> Option<Verdict> {
    // A time in brackets may follow.
    let word = text.split([' ', ',']).next()?;
    match word {
        "ok" => Some(Verdict::Passed),
        "FAILED" => Some(Verdict::Failed),
        "ignored" => Some(Verdict::Ignored),
        _ => None,
    }
}

/// The test's name without padding and without libtest's remark on how it is run.
fn clean(name: &str) -> String {
    let name = name.trim_end();
    let remarks = [" - should panic", " - compile fail", " - compile"];
    remarks.iter().find_map(|remark| name.strip_suffix(remark)).unwrap_or(name).to_owned()
}

/// The number before `word` in `ok. 3 passed; 0 failed; 1 ignored; ...`.
fn count(summary: &str, word: &str) -> Option<usize> {
    let before = summary.split(['.', ';']).find_map(|part| part.trim().strip_suffix(word))?;
    before.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::Verdict::{Failed, Ignored, Passed};
    use super::*;

    #[track_caller]
    fn check(output: &str, expected: &[(&str, Verdict)]) -> Report {
        let report = parse(output);
        let named: Vec<(&str, Verdict)> = report.verdicts.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        assert_eq!(named, expected);
        report
    }

    #[test]
    fn every_verdict_of_libtest_is_read() {
        let report = check(
            "\nrunning 4 tests\n\
             test a::one ... ok\n\
             test a::two - should panic ... ok\n\
             test a::three ... ignored, needs a printer\n\
             test a::four ... FAILED\n\n\
             failures:\n\n---- a::four stdout ----\n\
             test forged ... ok\n\n\
             failures:\n    a::four\n\n\
             test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
            &[("a::one", Passed), ("a::two", Passed), ("a::three", Ignored), ("a::four", Failed)],
        );
        assert_eq!(report.reasons["a::three"], "needs a printer");
        assert_eq!(report.doubts, [""; 0]);
    }

    #[test]
    fn a_skip_line_gives_the_reason_of_an_ignored_test() {
        let report = check(
            "SKIP api::boots: needs /dev/kvm (No such file); needs root\n\
             running 2 tests\n\
             test api::boots          ... ignored\n\
             test api::refuses_a_name ... ok\n\n\
             test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n",
            &[("api::boots", Ignored), ("api::refuses_a_name", Passed)],
        );
        assert_eq!(report.reasons["api::boots"], "needs /dev/kvm (No such file); needs root");
        assert_eq!(report.doubts, [""; 0]);
    }

    #[test]
    fn a_verdict_after_what_the_test_printed_is_read() {
        let report = check(
            "running 2 tests\n\
             test noisy ... booting\n\
             ready after 3 ms\n\
             ok\n\
             test quiet ... FAILED\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s\n",
            &[("noisy", Passed), ("quiet", Failed)],
        );
        assert_eq!(report.doubts, [""; 0]);
    }

    #[test]
    fn a_test_without_a_readable_verdict_did_not_pass() {
        let report = check(
            "running 1 test\n\
             test noisy ... half a line and thenok\n\
             test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s\n",
            &[("noisy", Failed)],
        );
        assert_eq!(report.doubts[0], "how noisy ended could not be read");
    }

    #[test]
    fn a_binary_that_dies_in_a_test_is_noticed() {
        let report = check("running 2 tests\ntest a ... ok\ntest b ... ", &[("a", Passed), ("b", Failed)]);
        assert_eq!(report.doubts, ["how b ended could not be read", "it ended before its summary"]);
    }

    #[test]
    fn a_count_that_differs_from_the_tests_named_is_noticed() {
        let report = check(
            "running 2 tests\ntest a ... ok\n\
             test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s\n",
            &[("a", Passed)],
        );
        assert_eq!(report.doubts, ["1 tests were named as passed, the summary says 2"]);
    }

    #[test]
    fn doc_tests_of_several_crates_are_read_from_one_output() {
        let summary =
            "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s\n";
        let report = check(
            &format!(
                "\nrunning 1 test\ntest a/src/lib.rs - f (line 3) ... ok\n\n{summary}\n\
                 running 1 test\ntest b/src/lib.rs - g (line 9) - compile ... ok\n\n{summary}\n\
                 all doctests ran in 0.20s; merged doctests compilation took 0.10s\n"
            ),
            &[("a/src/lib.rs - f (line 3)", Passed), ("b/src/lib.rs - g (line 9)", Passed)],
        );
        assert_eq!(report.doubts, [""; 0]);
    }
}
