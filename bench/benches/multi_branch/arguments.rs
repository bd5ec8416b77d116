//! The command line, which is criterion's, with a meaning of our own for `--quick`.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use bench::cell::Place;
use criterion::Criterion;

use super::GROUP;
use super::measurement::Pause;

/// Says to the same program, started again without `--quick`, that it was given.
const QUICK: &str = "FORKD_MULTI_BRANCH_QUICK";
/// Options of criterion that take a value: what follows them is no filter.
const WITH_VALUE: [&str; 19] = [
    "-c",
    "--color",
    "-s",
    "--save-baseline",
    "-b",
    "--baseline",
    "--baseline-lenient",
    "--format",
    "--profile-time",
    "--load-baseline",
    "--sample-size",
    "--warm-up-time",
    "--measurement-time",
    "--nresamples",
    "--noise-threshold",
    "--confidence-level",
    "--significance-level",
    "--plotting-backend",
    "--output-format",
];

/// What is asked for.
#[derive(Debug)]
pub struct Arguments {
    /// Whether a shorter sweep does.
    pub quick: bool,
    /// What is to be done at all.
    pub doing: Doing,
    filter: Option<String>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Take BRANCHes, and show their pauses.
    Measure,
    /// Name the benchmarks.
    List,
    /// Nothing: `cargo test` looks whether the program starts.
    Nothing,
}

impl Arguments {
    /// Reads this process's. Where `--quick` is among them, the program starts again without it: criterion would take
    /// two samples and compare these, and here every recorded pause is a sample.
    pub fn of_this_process() -> Result<Self> {
        let (quick, rest): (Vec<OsString>, Vec<OsString>) =
            env::args_os().skip(1).partition(|word| word == "--quick");
        if !quick.is_empty() {
            let program = env::current_exe().context("cannot find this program")?;
            let error = Command::new(program).args(&rest).env(QUICK, "1").exec();
            return Err(error).context("cannot start again without --quick");
        }
        let words = rest.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>();
        let has = |name: &str| words.iter().any(|word| word == name);
        let doing = match () {
            () if has("--list") => Doing::List,
            () if has("--test") || !has("--bench") => Doing::Nothing,
            () => Doing::Measure,
        };
        Ok(Self { quick: env::var_os(QUICK).is_some(), doing, filter: filter(&words) })
    }

    /// Those of `places` whose ids the filter may let through. A filter is a regular expression: of one that is more
    /// than a plain word, criterion is left to find out.
    pub fn wanted(&self, places: &[Place]) -> Vec<Place> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-/@ :".contains(c);
        let wanted = |place: &Place| match &self.filter {
            Some(filter) if filter.chars().all(plain) => {
                [1, u32::MAX].iter().any(|index| id(place, *index).contains(filter.as_str()))
            }
            _ => true,
        };
        places.iter().filter(|place| wanted(place)).cloned().collect()
    }

    /// Whether the filter names these benchmarks, and no others.
    pub fn names_this(&self) -> bool {
        self.filter.as_ref().is_some_and(|filter| filter.starts_with(GROUP))
    }

    /// Criterion, as the command line has it. It warms nothing up and waits for nothing: what it is handed is there.
    pub fn criterion(&self) -> Criterion<Pause> {
        let shortest = Duration::from_nanos(1);
        let criterion = Criterion::default().with_measurement(Pause).configure_from_args();
        criterion.warm_up_time(shortest).measurement_time(Duration::from_millis(100))
    }
}

fn id(place: &Place, branch_idx: u32) -> String {
    format!("{GROUP}/{place}/{}", super::indices(branch_idx))
}

/// The first word that is neither an option nor an option's value.
fn filter(words: &[String]) -> Option<String> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            option if WITH_VALUE.contains(&option) => drop(words.next()),
            option if option.starts_with('-') => {}
            filter => return Some(filter.to_owned()),
        }
    }
    None
}
