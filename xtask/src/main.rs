//! This repository's own commands: `cargo xtask setup`, `demo`, `test`, `ebpf` and `lab`.

mod demo;
mod ebpf;
mod host;
mod lab;
mod process;
mod setup;
mod test;
mod utc;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The exit code of a command that SIGINT or SIGTERM ended.
const INTERRUPTED: u8 = 130;

/// This repository's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Setup(setup::Arguments),
    Demo(demo::Arguments),
    Test(test::Arguments),
    Lab(lab::Arguments),
    /// Build the eBPF object from its sources and write it, with the toolchain used, into the repository.
    Ebpf,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Setup(arguments) => setup::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Lab(arguments) => lab::run(&arguments),
        Command::Ebpf => ebpf::rebuild(workspace::root()).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
