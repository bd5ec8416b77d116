//! `forkd-probe io`.

use clap::Args;
use probes::io::Session;
use probes::recording::Options;
use reports::io::render;

use super::frame::{Bpf, Frame, Stats};

/// Arguments of `io`.
#[derive(Debug, Args)]
pub struct Io {
    #[command(flatten)]
    frame: Frame,
    #[command(flatten)]
    bpf: Bpf,
    #[command(flatten)]
    stats: Stats,
}

/// What is seen in one way only.
const HOOKS: &str =
    "requests, syncs, commits and dirty pages by their tracepoints (tp_btf and raw_tracepoint),";

/// Records, reports, and writes the report.
pub fn run(command: &Io) -> anyhow::Result<()> {
    let options = command.bpf.options_without_switches("io", HOOKS)?;
    let (mut stage, targets) = command.frame.open_or_machine()?;
    let options = Options { stats: command.stats.stats, ..options };
    let session = Session::attach(targets, &options)?;
    let ending = stage.wait(session.targets())?;
    let mut report = session.finish(&command.frame.tids())?;
    report.warnings.extend(stage.close(ending, report.window_ns)?);
    stage.write(&render(&report, command.frame.format())?)
}
