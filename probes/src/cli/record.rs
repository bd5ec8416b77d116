//! `forkd-probe record`.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use probes::AttachError;
use probes::recfile::{RecordedDevices, Written};
use probes::recording::{Options, Plan, Recording};
use probes_common::CallFilter;

use super::BadInput;
use super::frame::{Bpf, Whom};

/// Arguments of `record`.
#[derive(Debug, Args)]
pub struct Record {
    #[command(flatten)]
    whom: Whom,
    #[command(flatten)]
    bpf: Bpf,
    /// System calls that are recorded beside the switches: each costs its thread two records
    #[arg(long, value_enum, default_value_t = Calls::All)]
    calls: Calls,
    /// Events on the way between processes and disks that are recorded as well. They are the whole machine's, because
    /// what is ahead of a process's request may be anybody's
    #[arg(long, value_enum, default_value_t = Devices::All)]
    devices: Devices,
    /// The file to write, which must not be there yet; what is in it when this is killed can be read
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Which system calls are recorded.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Calls {
    /// None: for `report --as offcpu` only
    None,
    /// Those of futexes: for `futex` as well
    Futex,
    /// All: for every report
    All,
}

impl Calls {
    const fn filter(self) -> Option<CallFilter> {
        match self {
            Self::None => None,
            Self::Futex => Some(CallFilter::Futex),
            Self::All => Some(CallFilter::All),
        }
    }
}

/// Which events of devices are recorded.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Devices {
    /// None: for reports on threads only
    None,
    /// Requests, syncs, commits, searches for blocks, dirty pages: for `report --as io` as well
    Io,
    /// Requests, dirty pages and what throttles them: for `wbt` as well
    Wbt,
    /// All: for every report
    All,
}

impl From<Devices> for RecordedDevices {
    fn from(devices: Devices) -> Self {
        match devices {
            Devices::None => Self::None,
            Devices::Io => Self::Io,
            Devices::Wbt => Self::Wbt,
            Devices::All => Self::All,
        }
    }
}

/// Records, and says what came of it on standard error.
pub fn run(command: &Record) -> anyhow::Result<()> {
    let file = create(&command.output)?;
    let outcome = record(command, file);
    if let Err(Unbegun(_)) = &outcome {
        // Nothing of use is in it.
        let _ = std::fs::remove_file(&command.output);
    }
    outcome.map_err(|Unbegun(error)| error)?
}

/// Why a recording did not begin.
struct Unbegun(anyhow::Error);

fn record(command: &Record, file: File) -> Result<anyhow::Result<()>, Unbegun> {
    let (mut scene, targets) = command.whom.open().map_err(Unbegun)?;
    let options = Options { keep: Some(Arc::new(file)), ..command.bpf.options() };
    let plan = Plan::new(options.ring_bytes, command.calls.filter())
        .with(&RecordedDevices::from(command.devices).groups());
    let mut recording =
        Recording::record(targets, &plan, &options).map_err(|error| Unbegun(advised(error)))?;
    let mut finish = || -> anyhow::Result<()> {
        let ending = scene.wait(recording.targets())?;
        let gathered = recording.finish()?;
        scene.close(ending, gathered.end_ns - recording.start_ns())?;
        let written = match recording.written() {
            Some(Ok(written)) => *written,
            _ => anyhow::bail!("{}: {}", command.output.display(), recording.facts().warnings.join("; ")),
        };
        eprintln!("forkd-probe: {}", summary(&command.output, written, &gathered.loss));
        Ok(())
    };
    Ok(finish())
}

/// Says what asks for less, where the kernel lacks something that switches do without.
fn advised(error: AttachError) -> anyhow::Error {
    use AttachError::{Btf, NoBtf, Program, Tracepoint};
    let can_be_less = matches!(error, Btf(_) | NoBtf { .. } | Program { .. } | Tracepoint { .. });
    let error = anyhow::Error::from(error);
    if can_be_less { error.context("--calls none and --devices none ask less of the kernel") } else { error }
}

/// A recording may hold what is wanted later: it is never overwritten.
fn create(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => {
            BadInput(format!("{} is there already: remove it, or name another file", path.display())).into()
        }
        _ => BadInput(format!("cannot write {}: {error}", path.display())).into(),
    })
}

fn summary(path: &Path, written: Written, loss: &BTreeMap<String, u64>) -> String {
    let lost: Vec<String> = loss
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(cause, count)| format!("{count} {cause}"))
        .collect();
    let lost = if lost.is_empty() { "nothing lost".to_owned() } else { format!("lost: {}", lost.join(", ")) };
    format!(
        "{}: {} records in {} bytes, {lost}; see them with `forkd-probe report {} --as offcpu`",
        path.display(),
        written.records,
        written.bytes,
        path.display()
    )
}
