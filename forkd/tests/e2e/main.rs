//! The daemon end to end: real Firecracker, real file systems, memory compared byte for byte.

mod attribution;
mod bad_input;
mod cli;
mod doctor;
mod explain;
mod faults;
mod gate;
mod host;
mod layers;
mod linux;
mod memory;
mod observe;
mod pack;
mod preallocation;
mod sandboxes;
mod service;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Err(error) = gate::take_part() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
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
        attribution::TESTS,
        explain::TESTS,
        sandboxes::TESTS,
        linux::TESTS,
        service::TESTS,
    ];
    testkit::run(tests.into_iter().flatten().map(|test| testkit::Test { ..*test }).collect())
}
