//! The daemon end to end: real Firecracker, real file systems, memory compared byte for byte.

mod bad_input;
mod cli;
mod doctor;
mod faults;
mod host;
mod layers;
mod linux;
mod memory;
mod observe;
mod pack;
mod preallocation;
mod sandboxes;

use std::process::ExitCode;

fn main() -> ExitCode {
    let tests = [
        memory::TESTS,
        bad_input::TESTS,
        faults::TESTS,
        preallocation::TESTS,
        layers::TESTS,
        pack::TESTS,
        doctor::TESTS,
        cli::TESTS,
        observe::TESTS,
        sandboxes::TESTS,
        linux::TESTS,
    ];
    testkit::run(tests.into_iter().flatten().map(|test| testkit::Test { ..*test }).collect())
}
