//! What a run of a benchmark was: its machine, its arguments and a summary of what it measured.

use serde::{Deserialize, Serialize};

use crate::stats::Spread;

/// The `schema` of [`Run`]: the number grows with every change that a reader could trip over.
pub const SCHEMA: &str = "forkd.run/1";

/// One run: everything that is needed to judge whether two runs may be compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`SCHEMA`].
    pub schema: String,
    /// The command line, program first.
    pub arguments: Vec<String>,
    /// What was asked for, with defaults filled in.
    pub plan: Plan,
    /// Begin, in milliseconds since the Unix epoch.
    pub started_unix_ms: u64,
    /// End, in milliseconds since the Unix epoch.
    pub ended_unix_ms: u64,
    /// Whether a signal ended the run before all samples were taken.
    pub interrupted: bool,
    /// Why the run ended early, where a failure ended it.
    pub error: Option<String>,
    /// Where it ran.
    pub machine: Machine,
    /// What it ran.
    pub versions: Versions,
    /// What the snapshot roots lay on, in the order of the cells that used them first.
    pub roots: Vec<Root>,
    /// What was measured, by cell.
    pub cells: Vec<Cell>,
    /// What did not go as asked, one sentence each.
    pub warnings: Vec<String>,
}

/// The settings that all cells of a run share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Cells, `data_path@root`, in the order in which each trial runs them.
    pub cells: Vec<String>,
    /// Repetitions of every cell.
    pub trials: u32,
    /// Consecutive BRANCHes of each trial.
    pub branches: u32,
    /// Pages (4 KiB) that the guest dirties before each BRANCH.
    pub dirty_pages: u64,
    /// Time between dirtying the pages and the BRANCH.
    pub gap_ms: u64,
    /// Guest memory in MiB.
    pub mem_mib: u32,
    /// Whether each BRANCH's answer waited until its snapshot was on disk.
    pub durable: bool,
    /// What keys the contents of the dirtied pages, together with the BRANCH index.
    pub seed: u64,
}

/// The host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Kernel release, as `uname -r` prints it.
    pub kernel: String,
    /// Processor model.
    pub cpu_model: String,
    /// Processors online.
    pub cpus: u32,
    /// Memory in MiB.
    pub mem_mib: u64,
}

/// Programs that took part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Versions {
    /// This suite.
    pub bench: String,
    /// The daemon, as it names itself.
    pub forkd: Option<String>,
    /// Firecracker, as it names itself.
    pub firecracker: Option<String>,
}

/// A file system that held snapshots.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Root {
    /// The name in the cells.
    pub root: String,
    /// File system type.
    pub file_system: String,
    /// Mount and file system options.
    pub mount_options: String,
    /// The block device below it, where there is one.
    pub device: Option<Device>,
    /// The block device that holds the image, where `device` is a loop device.
    pub backing_device: Option<Device>,
}

/// A block device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Kernel name, such as `vda`.
    pub name: String,
    /// Latency that writeback throttling aims at; 0 is off, absent where the kernel has none for it.
    pub wbt_lat_usec: Option<u64>,
}

/// What was measured in one cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// `data_path@root`.
    pub cell: String,
    /// Samples taken.
    pub samples: u64,
    /// Over all trials and BRANCHes.
    pub pause_ms: Spread,
    /// By trial, by BRANCH index.
    pub pauses_ms: Vec<Vec<f64>>,
}
