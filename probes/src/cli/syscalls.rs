//! `forkd-probe syscalls`.

use clap::Args;
use probes::recording::Options;
use probes::syscalls::Session;
use reports::syscalls::render;

use super::frame::{Frame, Ring};

/// Arguments of `syscalls`.
#[derive(Debug, Args)]
pub struct Syscalls {
    #[command(flatten)]
    frame: Frame,
    #[command(flatten)]
    ring: Ring,
}

/// Records, reports, and writes the report.
pub fn run(command: &Syscalls) -> anyhow::Result<()> {
    let (mut stage, targets) = command.frame.open()?;
    let session =
        Session::attach(targets, &Options { ring_bytes: command.ring.bytes(), ..Options::default() })?;
    let ending = stage.wait(session.targets())?;
    let mut report = session.finish(&command.frame.tids())?;
    report.warnings.extend(stage.close(ending, report.window_ns)?);
    stage.write(&render(&report, command.frame.format())?)
}
