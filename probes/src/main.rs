//! `forkd-probe`: where the time of a process goes.

mod cli;

use std::process::ExitCode;

use clap::Parser;

use cli::{Arguments, Command};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.command {
        Command::Explain(command) => cli::explain::run(command),
        Command::Offcpu(command) => cli::offcpu::run(command),
        Command::Futex(command) => cli::futex::run(command),
        Command::Syscalls(command) => cli::syscalls::run(command),
        Command::Wbt(command) => cli::wbt::run(command),
        Command::Io(command) => cli::io::run(command),
        Command::Doctor(command) => cli::doctor::run(command),
        Command::Oncpu(command) => cli::oncpu::run(command),
        Command::Record(command) => cli::record::run(command),
        Command::Report(command) => cli::report::run(command),
        Command::Attend(command) => cli::attend::run(command),
        Command::Stacks(command) => cli::stacks::run(command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forkd-probe: {error:#}");
            cli::exit_code(&error)
        }
    }
}
