//! Whether all that was to run did: a release is checked by what passed, and what was skipped has not.

use crate::lab::matrix::Selection;
use crate::test::record::Record;
use crate::test::required::{self, Shortfall};

/// In the reasons of tests that need what is fetched or built of others' packages at the time: a host without a network
/// may be unable to, and says so.
const ACCEPTED_REASONS: [&str; 2] = ["guest/linux/build", "offcputime"];

/// What one kernel was to run.
pub struct Asked {
    /// Its name in the lab.
    pub kernel: &'static str,
    /// The suites, or single tests of them.
    pub suites: Vec<Selection>,
}

/// Required tests that did not run and pass, and suites of which not one test ran.
pub fn shortfall(required: &[String], asked: &[Asked], record: &Record) -> Shortfall {
    let mut shortfall = Shortfall::default();
    // Where nothing ran at all, each suite has failed by its own name.
    for one in asked.iter().filter(|one| has_run(one.kernel, record)) {
        let prefix = format!("lab-{}::", one.kernel);
        let here: Vec<String> = required.iter().filter(|name| name.starts_with(&prefix)).cloned().collect();
        shortfall.add(required_of(&here, record));
        for suite in one.suites.iter().filter(|suite| !suite.is_one_test) {
            let name = suite.full_name(one.kernel);
            if shortfall.failures.iter().any(|line| line.starts_with(&name)) {
                continue;
            }
            if let Some((reason, is_accepted)) = skipped_whole(&name, record) {
                let lines = if is_accepted { &mut shortfall.tolerated } else { &mut shortfall.failures };
                lines.push(format!("{name}: not one of its tests ran: {reason}"));
            }
        }
    }
    shortfall
}

fn has_run(kernel: &str, record: &Record) -> bool {
    let prefix = format!("lab-{kernel}::");
    record.passed.iter().chain(record.skipped.keys()).any(|name| name.starts_with(&prefix))
}

fn required_of(names: &[String], record: &Record) -> Shortfall {
    let reason_of = |name: &String| record.skipped.get(name).filter(|reason| is_accepted(reason));
    let (accepted, others): (Vec<String>, Vec<String>) =
        names.iter().cloned().partition(|name| reason_of(name).is_some());
    let mut shortfall = required::compare(&others, record, true);
    shortfall.add(required::compare(&accepted, record, false));
    shortfall
}

/// Why no test ran whose name begins like this, and whether every such reason is an accepted one; `None` where one ran.
fn skipped_whole<'a>(prefix: &str, record: &'a Record) -> Option<(&'a str, bool)> {
    if record.passed.iter().chain(&record.failed).any(|name| name.starts_with(prefix)) {
        return None;
    }
    let reasons = record.skipped.iter().filter(|(name, _)| name.starts_with(prefix));
    let reasons: Vec<&str> = reasons.map(|(_, reason)| reason.as_str()).collect();
    let decisive = reasons.iter().find(|reason| !is_accepted(reason)).or(reasons.first())?;
    Some((decisive, reasons.iter().all(|reason| is_accepted(reason))))
}

fn is_accepted(reason: &str) -> bool {
    // Several needs that are missing are told in one line.
    reason.split("; ").all(|part| ACCEPTED_REASONS.iter().any(|accepted| part.contains(accepted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINUX: &str = "needs target/linux-guest/vmlinux (guest/linux/build target/linux-guest)";

    #[track_caller]
    fn check(required: &[&str], skipped: &[(&str, &str)], failures: &[&str], tolerated: &[&str]) {
        let suite = |tests: &str, is_one_test| Selection { binary: "p::b", tests: tests.into(), is_one_test };
        let suites = vec![suite("m::", false), suite("linux::", false), suite("n::one", true)];
        let asked = Asked { kernel: "6.1", suites };
        let required: Vec<String> = required.iter().map(|name| (*name).to_owned()).collect();
        let skipped = skipped.iter().map(|(name, why)| (format!("lab-6.1::p::b::{name}"), (*why).to_owned()));
        let record = Record {
            passed: vec!["lab-6.1::p::b::x::passed".to_owned()],
            skipped: skipped.collect(),
            ..Record::default()
        };
        let found = shortfall(&required, &[asked], &record);
        assert_eq!(found.failures, failures);
        assert_eq!(found.tolerated, tolerated);
    }

    #[test]
    fn a_suite_that_was_skipped_whole_fails_the_run_unless_its_reason_is_an_accepted_one() {
        check(
            &[],
            &[("m::one", "needs firecracker"), ("linux::one", LINUX), ("n::one", "needs firecracker")],
            &["lab-6.1::p::b::m::: not one of its tests ran: needs firecracker"],
            &[&format!("lab-6.1::p::b::linux::: not one of its tests ran: {LINUX}")],
        );
        let both = format!("needs firecracker; {LINUX}");
        check(
            &[],
            &[("linux::one", &both)],
            &[&format!("lab-6.1::p::b::linux::: not one of its tests ran: {both}")],
            &[],
        );
        check(&[], &[], &[], &[]);
    }

    #[test]
    fn a_required_test_of_this_kernel_must_have_run() {
        check(
            &["lab-6.1::p::b::x::passed", "lab-6.1::p::b::x::gone", "lab-6.12::p::b::x", "p::b::x"],
            &[],
            &["lab-6.1::p::b::x::gone: required, and no binary named it"],
            &[],
        );
        check(
            &["lab-6.1::p::b::x::linux"],
            &[("x::linux", LINUX)],
            &[],
            &[&format!("required elsewhere, skipped: lab-6.1::p::b::x::linux: {LINUX}")],
        );
    }

    #[test]
    fn a_suite_of_one_required_test_is_told_of_once_and_a_kernel_that_never_ran_not_at_all() {
        check(
            &["lab-6.1::p::b::m::one"],
            &[("m::one", "needs root")],
            &["lab-6.1::p::b::m::one: required here, and skipped: needs root"],
            &[],
        );
        let asked = Asked { kernel: "6.1", suites: Vec::new() };
        let found = shortfall(&["lab-6.1::p::b::m::one".to_owned()], &[asked], &Record::default());
        assert_eq!(found, Shortfall::default());
    }
}
