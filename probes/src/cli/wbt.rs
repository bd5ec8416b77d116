//! `forkd-probe wbt`.

use clap::Args;
use probes::recording::Options;
use probes::wbt::{Session, Way};
use reports::wbt::render;

use super::frame::{Bpf, Frame, Stats};

/// Arguments of `wbt`.
#[derive(Debug, Args)]
pub struct Wbt {
    #[command(flatten)]
    frame: Frame,
    #[command(flatten)]
    bpf: Bpf,
    #[command(flatten)]
    stats: Stats,
    /// See who is held back in this way only: fentry, kprobe or stacks [default: the first of these that the kernel
    /// takes]
    #[arg(long, value_name = "WAY")]
    waits_by: Option<Way>,
}

/// Records, reports, and writes the report.
pub fn run(command: &Wbt) -> anyhow::Result<()> {
    let (mut stage, targets) = command.frame.open()?;
    let options = Options { stats: command.stats.stats, ..command.bpf.options() };
    let session = Session::attach_by(targets, &options, command.waits_by)?;
    let ending = stage.wait(session.targets())?;
    let mut report = session.finish(&command.frame.tids())?;
    report.warnings.extend(stage.close(ending, report.window_ns)?);
    stage.write(&render(&report, command.frame.format())?)
}
