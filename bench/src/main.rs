//! The `forkd-bench` command.

use std::process::ExitCode;

use bench::interrupt::Interrupt;
use bench::progress::say;
use bench::{Error, armed, battery, floor, power, probe_cost, sweep, whatif};
use clap::Parser;

mod cli;

/// On the main thread alone: the kernel ends a daemon with the thread that started it, and no thread of ours
/// may compete with what is measured.
fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    if let cli::Command::Part(part) = cli.command {
        return part.run().map_or_else(|error| fail(&error.to_string(), 1), |()| ExitCode::SUCCESS);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}"), 1),
    };
    let is_gate = matches!(cli.command, cli::Command::Gate(_));
    let done = runtime.block_on(run(cli));
    // A sync(2) that is still under way on another thread must not delay the end.
    runtime.shutdown_background();
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let code = error.downcast_ref().map_or(1, Error::exit_code);
            // Where 3 is a verdict, it must not mean anything else.
            let code = if is_gate && code == 3 { 1 } else { code };
            // Not the chain of sources: each of our messages already ends in its cause.
            fail(&error.to_string(), code)
        }
    }
}

/// Runs a command; gives its exit code.
async fn run(cli: cli::Cli) -> anyhow::Result<u8> {
    if let cli::Command::Neighbour(arguments) = &cli.command {
        // Before any signal is listened for: it ends with the process that started it.
        return Err(arguments.run().into());
    }
    let mut interrupt = Interrupt::listen()?;
    match cli.command {
        cli::Command::Sweep(arguments) => sweep::run(&arguments.request()?, &mut interrupt).await?,
        cli::Command::Report(arguments) => arguments.run()?,
        cli::Command::Floor(arguments) => floor::run(&arguments.request()?, &mut interrupt).await?,
        cli::Command::Battery(arguments) => battery::run(&arguments.request()?, &mut interrupt).await?,
        cli::Command::WhatIf(arguments) => whatif::run(&arguments.request()?, &mut interrupt).await?,
        cli::Command::Armed(arguments) => armed::run(&arguments.request()?, &mut interrupt).await?,
        // Runs without a runtime, before this.
        cli::Command::Part(_) => {}
        cli::Command::Power(arguments) => power::run(&arguments.request()?, &mut interrupt).await?,
        cli::Command::Trend(arguments) => arguments.run()?,
        cli::Command::ProbeCost(arguments) => probe_cost::run(&arguments.request(), &mut interrupt).await?,
        cli::Command::ProbeCostLoad => probe_cost::load::work(),
        cli::Command::Gate(arguments) => return Ok(arguments.run(&mut interrupt).await?),
        cli::Command::Neighbour(_) => {}
    }
    Ok(0)
}

fn fail(message: &str, code: u8) -> ExitCode {
    say(format_args!("forkd-bench: {message}"));
    ExitCode::from(code)
}
