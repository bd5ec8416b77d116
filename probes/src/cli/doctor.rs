//! `forkd-probe doctor`.

use std::path::PathBuf;

use clap::Args;
use reports::doctor::render;

use super::frame::Format;
use super::output::Output;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// How to show it: `table` or `json`
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Write to this file, whole or not at all, in place of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Tries everything, and writes what came of it.
pub fn run(command: &Doctor) -> anyhow::Result<()> {
    let output = Output::open(command.output.as_deref())?;
    output.write(&render(&probes::doctor::examine(), command.format.into())?)
}
