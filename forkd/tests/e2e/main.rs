//! The daemon end to end: real Firecracker, real file systems, memory compared byte for byte.

mod bad_input;
mod cli;
mod faults;
mod host;
mod layers;
mod memory;
mod observe;
mod preallocation;

use std::process::ExitCode;

fn main() -> ExitCode {
    let tests = [
        memory::TESTS,
        bad_input::TESTS,
        faults::TESTS,
        preallocation::TESTS,
        layers::TESTS,
        cli::TESTS,
        observe::TESTS,
    ];
    testkit::run(tests.into_iter().flatten().map(|test| testkit::Test { ..*test }).collect())
}
