//! The script that runs suites inside, and what is made of what it prints.

use crate::lab::matrix::{self, Selection};
use crate::lab::quote;
use crate::test::binaries::TestBinary;
use crate::test::output;
use crate::test::record::Record;

/// What the script prints around what a test binary says.
const BEGIN: &str = "@@lab begin ";
const END: &str = "@@lab end ";

/// Runs one suite, or one test of it, for so long at most, its standard error in a file of its own.
pub fn script(suite: &Selection, binary: &TestBinary, timeout_s: u64) -> String {
    let dir = quote(&binary.package_dir.to_string_lossy());
    let label = format!("{} {}", suite.binary, suite.tests);
    let stderr = quote(&format!("/out/{}", label.replace("::", ".").replace(' ', "-")));
    let program = quote(&binary.executable.to_string_lossy());
    let exact = if suite.is_one_test { "--exact " } else { "" };
    let run = format!("timeout {timeout_s} {program} --test-threads=1 {exact}{}", quote(&suite.tests));
    format!(
        "echo {begin}\nmkdir -p {dir}; cd {dir}\nCARGO_MANIFEST_DIR={dir} {run} 2>{stderr}\n\
         echo \"{END}$? after $(cut -d' ' -f1 /proc/uptime) s\"\n",
        begin = quote(&format!("{BEGIN}{label}")),
    )
}

/// Records what each suite said, and returns how many failures that adds. A suite that is not there to its end has failed.
pub fn take_over(said: &str, kernel: &str, suites: &[Selection], record: &mut Record) -> usize {
    let before = record.failed.len();
    for suite in suites {
        let name = matrix::recorded_binary(kernel, suite.binary);
        let begin = format!("{BEGIN}{} {}\n", suite.binary, suite.tests);
        let Some((_, rest)) = said.split_once(&begin) else {
            record.failed.push(format!("{}: it did not run", suite.full_name(kernel)));
            continue;
        };
        let (section, code) = match rest.split_once(END) {
            Some((section, end)) => (section, end.split_whitespace().next().unwrap_or_default()),
            None => (rest, "nothing"),
        };
        let report = output::parse(section);
        let has_tests = report.verdicts.iter().any(|(test, _)| test.starts_with(&suite.tests));
        let failed = record.add(&name, report);
        if !has_tests {
            record.failed.push(format!("{}: no test has that name", suite.full_name(kernel)));
        } else if code != "0" && failed == 0 {
            record.failed.push(format!("{}: it ended with {code}", suite.full_name(kernel)));
        }
    }
    record.failed.len() - before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suite(tests: &str, is_one_test: bool) -> Selection {
        Selection { binary: "p::b", tests: tests.to_owned(), is_one_test }
    }

    #[track_caller]
    fn check(said: &str, passed: &[&str], failed: &[&str]) {
        let mut record = Record::default();
        assert_eq!(take_over(said, "6.1", &[suite("m::", false)], &mut record), failed.len());
        assert_eq!(record.passed, passed);
        assert_eq!(record.failed, failed);
    }

    #[test]
    fn a_suite_runs_by_the_beginning_of_its_tests_names_and_one_test_by_its_own() {
        let binary = TestBinary {
            is_integration: true,
            name: "p::b".to_owned(),
            executable: "/b".into(),
            package_dir: "/p".into(),
        };
        let runs = |suite| script(&suite, &binary, 7);
        assert!(runs(suite("m::", false)).contains(" timeout 7 '/b' --test-threads=1 'm::' 2>"));
        assert!(runs(suite("m::t", true)).contains(" timeout 7 '/b' --test-threads=1 --exact 'm::t' 2>"));
    }

    #[test]
    fn tests_are_recorded_under_their_kernel_and_what_did_not_run_to_its_end_has_failed() {
        let ran = "running 1 test\ntest m::t ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored\n";
        let none = "running 0 tests\ntest result: ok. 0 passed; 0 failed; 0 ignored\n";
        let begin = "@@lab begin p::b m::\n";
        let test = "lab-6.1::p::b::m::t";
        check(&format!("{begin}{ran}@@lab end 0 after 9 s\n"), &[test], &[]);
        check(
            &format!("{begin}{ran}@@lab end 101 after 9 s\n"),
            &[test],
            &["lab-6.1::p::b::m::: it ended with 101"],
        );
        check(&format!("{begin}{ran}"), &[test], &["lab-6.1::p::b::m::: it ended with nothing"]);
        check(
            &format!("{begin}{none}@@lab end 0 after 9 s\n"),
            &[],
            &["lab-6.1::p::b::m::: no test has that name"],
        );
        check("", &[], &["lab-6.1::p::b::m::: it did not run"]);
    }
}
