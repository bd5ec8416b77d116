//! The samples of a sweep, one row a BRANCH, and their CSV.
//!
//! A sweep runs cells (a data path on a snapshot root) for some trials of consecutive BRANCHes each.
//! The CSV is in long format: what is the same for a whole cell is repeated in each of its rows.

use std::io;

mod circumstances;
mod read;
mod throttle;
mod write;

pub use circumstances::{COLUMNS as CIRCUMSTANCES, Circumstances};
pub use read::{ReadError, read};
pub use write::{WriteError, to_csv};

/// Columns that every sweep has, in the order in which they are written. The phases follow, each as
/// `phase_<name>_ns`: a bare `pause_ns` would be taken for the pause as a whole, of which the `pause`
/// phase is one part. Then come [`START`] and [`CIRCUMSTANCES`].
pub const COLUMNS: [&str; 12] = [
    "cell",
    "data_path",
    "root",
    "file_system",
    "mem_mib",
    "dirty_pages",
    "gap_ms",
    "trial",
    "branch_idx",
    "pause_ms",
    "diff_ms",
    "diff_physical_bytes",
];

/// The column of [`Sample::start_unix_ms`].
pub const START: &str = "start_unix_ms";

/// The samples of one sweep.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sweep {
    /// Names of the phases of a BRANCH, in the order of [`Sample::phases_ns`].
    pub phases: Vec<String>,
    /// In the order in which they were taken.
    pub samples: Vec<Sample>,
}

/// One BRANCH.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The cell's name: `data_path@root`, and whatever else tells the cells of its sweep apart.
    pub cell: String,
    /// How the BRANCH's bytes got to disk.
    pub data_path: String,
    /// What the snapshot root was, such as `ext4-loop`, `tmpfs` or `daemon`.
    pub root: String,
    /// Type of the file system there.
    pub file_system: String,
    /// Guest memory in MiB.
    pub mem_mib: u32,
    /// Pages (4 KiB) that the guest dirtied before the BRANCH.
    pub dirty_pages: u64,
    /// Time between dirtying the pages and the BRANCH.
    pub gap_ms: u64,
    /// Which repetition, from 1: each has a fresh file system and a fresh sandbox.
    pub trial: u32,
    /// Which consecutive BRANCH of the trial's sandbox, from 1.
    pub branch_idx: u32,
    /// From pause to resume. In the CSV with six decimals, which is to the nanosecond.
    pub pause_ms: f64,
    /// Time Firecracker took to write memory and state.
    pub diff_ms: f64,
    /// Disk space of what Firecracker wrote of the memory.
    pub diff_physical_bytes: u64,
    /// Length of each phase, in the order of [`Sweep::phases`].
    pub phases_ns: Vec<u64>,
    /// When the BRANCH was asked for, in milliseconds since the Unix epoch.
    pub start_unix_ms: u64,
    /// What else a sweep of this suite knows of it.
    pub circumstances: Circumstances,
}

impl Sweep {
    /// A sweep without samples yet, of BRANCHes in these phases.
    pub fn new<'a>(phases: impl IntoIterator<Item = &'a str>) -> Self {
        Self { phases: phases.into_iter().map(str::to_owned).collect(), samples: Vec::new() }
    }

    /// Names of the cells in the order in which they first occur.
    pub fn cells(&self) -> Vec<&str> {
        let mut cells: Vec<&str> = Vec::new();
        for sample in &self.samples {
            if !cells.contains(&sample.cell.as_str()) {
                cells.push(&sample.cell);
            }
        }
        cells
    }

    /// The same samples, cell by cell in the order of `cells`; those of other cells follow. Cells take turns while
    /// they are measured, and a legend that follows the first turn would change with the seed.
    pub fn in_order_of<S: AsRef<str>>(mut self, cells: &[S]) -> Self {
        let place = |sample: &Sample| {
            cells.iter().position(|cell| cell.as_ref() == sample.cell).unwrap_or(cells.len())
        };
        self.samples.sort_by_key(place);
        self
    }

    /// The samples of one cell.
    pub fn of_cell<'a>(&'a self, cell: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.cell == cell)
    }

    /// Pauses in milliseconds of one cell, by BRANCH index from 1 up: `(index, pauses of all trials)`.
    pub fn pauses_by_index(&self, cell: &str) -> Vec<(u32, Vec<f64>)> {
        let mut by_index = std::collections::BTreeMap::<u32, Vec<f64>>::new();
        for sample in self.of_cell(cell) {
            by_index.entry(sample.branch_idx).or_default().push(sample.pause_ms);
        }
        by_index.into_iter().collect()
    }
}

fn phase_column(phase: &str) -> String {
    format!("phase_{phase}_ns")
}

fn phase_of_column(column: &str) -> Option<&str> {
    column.strip_prefix("phase_")?.strip_suffix("_ns")
}

/// What the csv crate reports for a broken source or sink, as an I/O error.
fn io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}
