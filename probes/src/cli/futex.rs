//! `forkd-probe futex`.

use clap::Args;
use probes::futex::Session;
use reports::futex::render;

use super::frame::{Bpf, Frame};

/// Arguments of `futex`.
#[derive(Debug, Args)]
pub struct Futex {
    #[command(flatten)]
    frame: Frame,
    #[command(flatten)]
    bpf: Bpf,
}

/// Records, reports, and writes the report.
pub fn run(command: &Futex) -> anyhow::Result<()> {
    let (mut stage, targets) = command.frame.open()?;
    let session = Session::attach(targets, &command.bpf.options())?;
    let ending = stage.wait(session.targets())?;
    let mut report = session.finish(&command.frame.tids())?;
    report.warnings.extend(stage.close(ending, report.window_ns)?);
    stage.write(&render(&report, command.frame.format())?)
}
