//! The steps of a test run: announced, timed, and none stops the next.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;

/// What was done so far.
#[derive(Default)]
pub struct Steps {
    done: Vec<Step>,
}

struct Step {
    name: String,
    took: Duration,
    failure: Option<Failure>,
}

struct Failure {
    why: String,
    /// Failed tests of the step that are counted by their own names.
    names_its_tests: bool,
}

/// A step failed because of tests that are recorded one by one.
#[derive(Debug)]
pub struct TestsFailed(pub String);

impl std::fmt::Display for TestsFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TestsFailed {}

impl Steps {
    /// Runs one step; `None` when it failed, which it says at once and again in the table.
    pub fn run<T>(&mut self, name: &str, step: impl FnOnce() -> Result<T>) -> Option<T> {
        println!("\n== {name}");
        let started = Instant::now();
        let outcome = step();
        let failure = outcome.as_ref().err().map(|error| {
            let why = format!("{error:#}");
            println!("FAILED {name}: {why}");
            Failure { why, names_its_tests: error.is::<TestsFailed>() }
        });
        self.done.push(Step { name: name.to_owned(), took: started.elapsed(), failure });
        outcome.ok()
    }

    /// Steps that failed and have no failed tests to be counted by.
    pub fn failed_checks(&self) -> usize {
        let counts = |step: &&Step| step.failure.as_ref().is_some_and(|failure| !failure.names_its_tests);
        self.done.iter().filter(counts).count()
    }

    /// One line per step: name, time, outcome.
    pub fn table(&self) -> String {
        let width = self.done.iter().map(|step| step.name.len()).max().unwrap_or(0);
        let mut table = String::new();
        for step in &self.done {
            let outcome = step.failure.as_ref().map_or("ok", |failure| &failure.why);
            let seconds = step.took.as_secs_f64();
            // Writing to a String cannot fail.
            let _ = writeln!(table, "{:<width$}  {seconds:>6.1} s  {outcome}", step.name);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn a_failed_step_is_told_and_does_not_stop_the_next() {
        let mut steps = Steps::default();
        assert_eq!(steps.run("first", || -> Result<()> { bail!("no compiler") }), None);
        assert_eq!(steps.run("second", || Ok(7)), Some(7));
        assert_eq!(steps.failed_checks(), 1);
        let table = steps.table();
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].starts_with("first ") && lines[0].ends_with("no compiler"), "{table}");
        assert!(lines[1].starts_with("second") && lines[1].ends_with("ok"), "{table}");
    }

    #[test]
    fn failed_tests_are_not_counted_again_as_a_failed_step() {
        let mut steps = Steps::default();
        steps.run("tests", || -> Result<()> { Err(TestsFailed("2 failed".to_owned()).into()) });
        assert_eq!(steps.failed_checks(), 0);
    }
}
