//! The `forkd-bench` command.

use std::process::ExitCode;

use bench::interrupt::Interrupt;
use bench::progress::say;
use bench::{Error, floor, sweep};
use clap::Parser;

mod cli;

/// On the main thread alone: the kernel ends a daemon with the thread that started it, and no thread of ours
/// may compete with what is measured.
fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}"), 1),
    };
    let done = runtime.block_on(run(cli));
    // A sync(2) that is still under way on another thread must not delay the end.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.downcast_ref().map_or(1, Error::exit_code);
            // Not the chain of sources: each of our messages already ends in its cause.
            fail(&error.to_string(), code)
        }
    }
}

async fn run(cli: cli::Cli) -> anyhow::Result<()> {
    let mut interrupt = Interrupt::listen()?;
    match cli.command {
        cli::Command::Sweep(arguments) => Ok(sweep::run(&arguments.request()?, &mut interrupt).await?),
        cli::Command::Floor(arguments) => Ok(floor::run(&arguments.request()?, &mut interrupt).await?),
    }
}

fn fail(message: &str, code: u8) -> ExitCode {
    say(format_args!("forkd-bench: {message}"));
    ExitCode::from(code)
}
