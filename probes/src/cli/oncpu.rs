//! `forkd-probe oncpu`.

use clap::Args;
use probes::oncpu::Session;
use reports::oncpu::render;

use super::frame::Frame;

/// Arguments of `oncpu`.
#[derive(Debug, Args)]
pub struct Oncpu {
    #[command(flatten)]
    frame: Frame,
    /// Samples a second of CPU time; a number that nothing else ticks with
    #[arg(long, value_name = "HZ", default_value_t = 99, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    frequency: u64,
}

/// Samples, reports, and writes the report.
pub fn run(command: &Oncpu) -> anyhow::Result<()> {
    let (mut stage, targets) = command.frame.open()?;
    let session = Session::attach(targets, command.frequency)?;
    let ending = stage.wait(session.targets())?;
    let mut report = session.finish(&command.frame.tids())?;
    report.warnings.extend(stage.close(ending, report.window_ns)?);
    stage.write(&render(&report, command.frame.format())?)
}
