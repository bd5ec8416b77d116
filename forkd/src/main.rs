//! The `forkd` command.

mod cli;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::cli::exit::{EXIT_CODES, Exit, line};

/// Runs Firecracker microVMs and BRANCHes them: pause, snapshot, resume, fork children
#[derive(Parser, Debug)]
#[command(name = "forkd", version, after_help = EXIT_CODES)]
struct Command {
    #[command(flatten)]
    options: cli::options::Options,
    #[command(subcommand)]
    subcommand: Subcommands,
}

#[derive(Subcommand, Debug)]
enum Subcommands {
    Serve(cli::serve::Serve),
    Pack(cli::pack::Pack),
    Unpack(cli::unpack::Unpack),
    Doctor(cli::doctor::Doctor),
    #[command(flatten)]
    Client(cli::ClientCommand),
    Completions(cli::completions::Completions),
    Man(cli::man::Man),
}

fn main() -> ExitCode {
    let command = Command::parse();
    let result = match command.subcommand {
        Subcommands::Serve(serve) => {
            log_to_stderr();
            serve.run()
        }
        Subcommands::Pack(pack) => pack.run(&command.options),
        Subcommands::Unpack(unpack) => unpack.run(&command.options),
        Subcommands::Doctor(doctor) => doctor.run(&command.options),
        Subcommands::Client(client) => client.run(&command.options),
        Subcommands::Completions(completions) => completions.run(Command::command()),
        Subcommands::Man(man) => man.run(Command::command()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forkd: {}", line(&error));
            ExitCode::from(Exit::of(&error).code())
        }
    }
}

/// Only the daemon logs: a client command says what it has to say itself.
fn log_to_stderr() {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("FORKD_LOG").unwrap_or_else(|_| "info".into()),
        )
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}
