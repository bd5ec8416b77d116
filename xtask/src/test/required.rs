//! The tests that must run where microVMs run: a check that nothing was skipped or lost on the way.

use std::fs;

use anyhow::{Context, Result, bail};

use super::record::Record;
use super::steps::TestsFailed;
use crate::workspace;

/// The list of them, from the repository's root, one name a line.
pub const LIST: &str = "tests/required.txt";

/// The names in the list, with a filter those that contain it.
pub fn read(filter: Option<&str>) -> Result<Vec<String>> {
    let path = workspace::root().join(LIST);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut required = parse(&text).with_context(|| path.display().to_string())?;
    required.retain(|name| filter.is_none_or(|filter| name.contains(filter)));
    Ok(required)
}

/// The names in a list of one name a line; `#` begins a comment.
fn parse(text: &str) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let name = line.split('#').next().unwrap_or_default().trim();
        if name.is_empty() {
            continue;
        }
        if name.splitn(3, "::").count() < 3 || name.contains(' ') {
            bail!("line {}: '{name}' is not of the form package::binary::test", index + 1);
        }
        if names.iter().any(|other| other == name) {
            bail!("line {}: {name} is listed twice", index + 1);
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

/// Required tests that did not run and pass, one line each.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Shortfall {
    /// Those that make the run fail; tests that failed by themselves are not repeated here.
    pub failures: Vec<String>,
    /// Those that this host cannot run.
    pub tolerated: Vec<String>,
}

impl Shortfall {
    /// Adds another.
    pub fn add(&mut self, other: Self) {
        self.failures.extend(other.failures);
        self.tolerated.extend(other.tolerated);
    }

    /// Shows what is tolerated, and records what is not as failed.
    pub fn settle(self, what: &str, record: &mut Record) -> Result<()> {
        for line in &self.tolerated {
            println!("{line}");
        }
        if self.failures.is_empty() {
            return Ok(());
        }
        let summary = format!("{} of {what} did not run", self.failures.len());
        record.failed.extend(self.failures);
        Err(TestsFailed(summary).into())
    }
}

/// Compares the required tests with what ran. Where microVMs run, none may be skipped.
pub fn compare(required: &[String], record: &Record, runs_microvms: bool) -> Shortfall {
    let mut shortfall = Shortfall::default();
    for name in required {
        if record.passed.contains(name) || record.failed.contains(name) {
            continue;
        }
        match record.skipped.get(name) {
            Some(reason) if runs_microvms => {
                shortfall.failures.push(format!("{name}: required here, and skipped: {reason}"));
            }
            Some(reason) => {
                shortfall.tolerated.push(format!("required elsewhere, skipped: {name}: {reason}"))
            }
            None => shortfall.failures.push(format!("{name}: required, and no binary named it")),
        }
    }
    shortfall
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            passed: vec!["p::b::passed".to_owned()],
            failed: vec!["p::b::failed".to_owned()],
            skipped: [("p::b::skipped".to_owned(), "needs root".to_owned())].into(),
            ..Record::default()
        }
    }

    #[track_caller]
    fn check(name: &str, runs_microvms: bool, failures: &[&str], tolerated: &[&str]) {
        let shortfall = compare(&[name.to_owned()], &record(), runs_microvms);
        assert_eq!(shortfall.failures, failures);
        assert_eq!(shortfall.tolerated, tolerated);
    }

    #[test]
    fn where_microvms_run_a_skipped_or_missing_test_fails_the_run_by_name() {
        check("p::b::passed", true, &[], &[]);
        check("p::b::failed", true, &[], &[]);
        check("p::b::skipped", true, &["p::b::skipped: required here, and skipped: needs root"], &[]);
        check("p::b::gone", true, &["p::b::gone: required, and no binary named it"], &[]);
    }

    #[test]
    fn elsewhere_a_skipped_test_is_named_and_a_missing_one_still_fails() {
        check("p::b::skipped", false, &[], &["required elsewhere, skipped: p::b::skipped: needs root"]);
        check("p::b::gone", false, &["p::b::gone: required, and no binary named it"], &[]);
    }

    #[test]
    fn the_list_takes_comments_and_refuses_what_could_never_match() {
        assert_eq!(parse("# all\n\np::b::one # why\np::b::m::two\n").unwrap(), ["p::b::one", "p::b::m::two"]);
        for (text, reason) in [
            ("p::b", "line 1: 'p::b' is not of the form package::binary::test"),
            ("p::b::t\np::b::t", "line 2: p::b::t is listed twice"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), reason);
        }
    }
}
