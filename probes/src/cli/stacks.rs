//! `forkd-probe stacks`.

use std::time::Duration;

use clap::Args;
use probes::stacks::Session;
use reports::stacks::render;

use super::frame::{Frame, duration};

/// Arguments of `stacks`.
#[derive(Debug, Args)]
pub struct Stacks {
    #[command(flatten)]
    frame: Frame,
    /// Time between two looks
    #[arg(long, default_value = "30ms", value_parser = duration)]
    interval: Duration,
}

/// Looks, reports, and writes the report.
pub fn run(command: &Stacks) -> anyhow::Result<()> {
    let (mut stage, targets) = command.frame.open()?;
    let session = Session::start(targets, command.interval)?;
    let ending = stage.wait(session.targets())?;
    let mut report = session.finish(&command.frame.tids())?;
    report.warnings.extend(stage.close(ending, report.window_ns)?);
    stage.write(&render(&report, command.frame.format())?)
}
