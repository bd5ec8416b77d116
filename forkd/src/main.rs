//! The `forkd` command.

mod cli;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use forkd::vmm::firecracker::HostError;

/// Runs Firecracker microVMs and BRANCHes them: pause, snapshot, resume, fork children
#[derive(Parser, Debug)]
#[command(name = "forkd", version, after_help = EXIT_CODES)]
struct Command {
    #[command(subcommand)]
    subcommand: Subcommands,
}

#[derive(Subcommand, Debug)]
enum Subcommands {
    Serve(cli::serve::Serve),
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong usage
  3  this host lacks something: Firecracker or /dev/kvm";

fn main() -> ExitCode {
    let command = Command::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("FORKD_LOG").unwrap_or_else(|_| "info".into()),
        )
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let result = match command.subcommand {
        Subcommands::Serve(serve) => serve.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forkd: {error:#}");
            ExitCode::from(if error.is::<HostError>() { 3 } else { 1 })
        }
    }
}
