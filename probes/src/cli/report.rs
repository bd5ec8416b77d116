//! `forkd-probe report`.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use probes::recfile::ReadError;
use probes::{futex, io, offcpu, syscalls, wbt};

use super::BadInput;
use super::frame::Shape;
use super::offcpu::Selection;

/// Arguments of `report`.
#[derive(Debug, Args)]
pub struct Report {
    /// What `forkd-probe record` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Which command's report to make of it
    #[arg(long = "as", value_enum)]
    kind: Kind,
    /// Report on this thread only; repeat it for several
    #[arg(long = "tid", value_name = "TID", value_parser = clap::value_parser!(u32).range(1..))]
    tids: Vec<u32>,
    /// Of a file that ends inside a block, read what is before that
    #[arg(long)]
    partial: bool,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    shape: Shape,
}

/// The reports that can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Where threads wait
    Offcpu,
    /// Who waits on which futex
    Futex,
    /// System calls by thread
    Syscalls,
    /// Block I/O, about the processes that were watched
    Io,
    /// Writeback throttling
    Wbt,
}

/// Reads the file, and writes the report.
pub fn run(command: &Report) -> anyhow::Result<()> {
    let output = command.shape.open()?;
    if command.kind != Kind::Offcpu && command.selection.is_given() {
        return Err(BadInput("--state, --min-us and --max-us select waits of --as offcpu".to_owned()).into());
    }
    let path = command.file.display();
    let file = File::open(&command.file).map_err(|error| BadInput(format!("cannot read {path}: {error}")))?;
    let bytes =
        rendered(command, BufReader::new(file)).with_context(|| format!("{path} cannot be reported on"))?;
    output.write(&bytes)
}

fn rendered(command: &Report, file: BufReader<File>) -> anyhow::Result<Vec<u8>> {
    let Report { tids, partial, shape, .. } = command;
    let refused = |error: ReadError| -> anyhow::Error {
        match error {
            ReadError::Io(_) => error.into(),
            refused => BadInput(refused.to_string()).into(),
        }
    };
    Ok(match command.kind {
        Kind::Offcpu => {
            let filter = command.selection.filter(tids.clone());
            let report = offcpu::replay(file, *partial, &filter).map_err(refused)?;
            reports::offcpu::render(&report, shape.format())?
        }
        Kind::Futex => {
            let report = futex::replay(file, *partial, tids).map_err(refused)?;
            reports::futex::render(&report, shape.format())?
        }
        Kind::Syscalls => {
            let report = syscalls::replay(file, *partial, tids).map_err(refused)?;
            reports::syscalls::render(&report, shape.format())?
        }
        Kind::Io => {
            let report = io::replay(file, *partial, tids).map_err(refused)?;
            reports::io::render(&report, shape.format())?
        }
        Kind::Wbt => {
            let report = wbt::replay(file, *partial, tids).map_err(refused)?;
            reports::wbt::render(&report, shape.format())?
        }
    })
}
