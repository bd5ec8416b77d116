//! Runs integration tests that need more than a compiler, and never passes one silently.
//!
//! A test says what it needs of the host. Where something is missing the test is reported as
//! `ignored` under its own name, and a `SKIP name: reason` line says why, so that a runner can
//! tell "did not run" from "passed".

pub mod exposition;
mod loop_ext4;
pub mod mutate;
mod need;
mod rights;

pub use loop_ext4::{LoopExt4, run as run_command};
pub use need::{Finder, Need, firecracker, linux_guest, on_path};
pub use rights::without_capabilities;

use std::process::ExitCode;

pub use libtest_mimic::Failed;
use libtest_mimic::{Arguments, Trial};

/// The variable by which a machine that is slow says so: how many times longer than on an idle processor things may take
/// there, as where the processor is emulated.
pub const SLOWNESS: &str = "FORKD_TEST_SLOWNESS";

/// By how much tests multiply how long they let things take here: 1 unless [`SLOWNESS`] says more.
pub fn slowness() -> u32 {
    std::env::var(SLOWNESS).ok().and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
}

/// What a test body returns: `?` on any error fails the test with its text.
pub type Outcome = Result<(), Failed>;

/// One integration test.
pub struct Test {
    /// The name it is listed, filtered and reported under: `area::what_must_hold`.
    pub name: &'static str,
    /// What the host must have for it to run.
    pub needs: &'static [Need],
    /// The test itself; a panic fails it too.
    pub run: fn() -> Outcome,
}

/// Runs `tests` under the usual `cargo test` flags and prints a `SKIP` line for each that the host
/// cannot run.
pub fn run(tests: Vec<Test>) -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for test in tests {
        let missing: Vec<String> = test.needs.iter().filter_map(|need| need.missing()).collect();
        if !missing.is_empty() && !arguments.list {
            println!("SKIP {}: {}", test.name, missing.join("; "));
        }
        trials.push(Trial::test(test.name, test.run).with_ignored_flag(!missing.is_empty()));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}
