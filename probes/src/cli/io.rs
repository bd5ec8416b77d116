//! `forkd-probe io`.

use clap::Args;
use probes::io::Session;
use reports::io::render;

use super::frame::{Bpf, Frame};

/// Arguments of `io`.
#[derive(Debug, Args)]
pub struct Io {
    #[command(flatten)]
    frame: Frame,
    #[command(flatten)]
    bpf: Bpf,
}

/// Records, reports, and writes the report.
pub fn run(command: &Io) -> anyhow::Result<()> {
    let (mut stage, targets) = command.frame.open_or_machine()?;
    let options = command.bpf.options();
    let session = Session::attach(targets, &options)?;
    let ending = stage.wait(session.targets())?;
    let mut report = session.finish(&command.frame.tids())?;
    report.warnings.extend(stage.close(ending, report.window_ns)?);
    stage.write(&render(&report, command.frame.format())?)
}
