//! The `forkd` command.

mod cli;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::cli::config::{matches_with_config, with_environment};
use crate::cli::exit::{EXIT_CODES, Exit, line};
use crate::cli::log::LogOptions;

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
    #[command(hide = true)]
    Watchdog(cli::watchdog::Watchdog),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forkd: {}", line(&error));
            ExitCode::from(Exit::of(&error).code())
        }
    }
}

fn run() -> anyhow::Result<()> {
    let parser = Command::command().mut_subcommand("serve", with_environment);
    let (matches, effective) = matches_with_config(&parser, "serve", std::env::args_os().collect())?;
    let command = Command::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match command.subcommand {
        Subcommands::Serve(serve) => serve.run(effective),
        Subcommands::Pack(pack) => pack.run(&command.options),
        Subcommands::Unpack(unpack) => unpack.run(&command.options),
        Subcommands::Doctor(doctor) => doctor.run(&command.options),
        Subcommands::Client(client) => client.run(&command.options),
        Subcommands::Completions(completions) => completions.run(parser),
        Subcommands::Man(man) => man.run(parser),
        Subcommands::Watchdog(watchdog) => {
            LogOptions::from_environment().init()?;
            watchdog.run()
        }
    }
}
