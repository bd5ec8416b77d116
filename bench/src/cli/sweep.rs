//! `forkd-bench sweep`.

use std::path::PathBuf;
use std::time::Duration;

use bench::cell::{Matrix, Place, Root};
use bench::neighbour::Neighbour;
use bench::sweep::{Earlier, Request, Settings, Target, load, mode};
use bench::{Error, work};
use clap::{Args, value_parser};
use forkd::api::{BranchMode, DataPath};
use forkd::http_client::Endpoint;

use super::programs;

const MATRIX: &str = "Matrix: each of these may have several values, separated by commas";
/// Everything that a sweep which is gone on with has in its own run.json.
const SETTINGS: [&str; 16] = [
    "data_path",
    "root",
    "cell",
    "mode",
    "mem_mib",
    "dirty_pages",
    "gap_ms",
    "neighbour",
    "disk_bps",
    "branches",
    "trials",
    "durable",
    "seed",
    "drain_limit_ms",
    "disk_note",
    "out",
];

/// The arguments.
#[derive(Debug, Args)]
pub struct SweepArgs {
    /// How the BRANCH's bytes get to disk: naive, fallocate, direct, uring, stage
    #[arg(long, value_delimiter = ',', default_value = "naive,fallocate", help_heading = MATRIX)]
    data_path: Vec<DataPath>,

    /// What snapshots lie on: ext4-loop, xfs-loop, btrfs-loop, tmpfs, or folder:/PATH for a fresh folder there
    #[arg(long, value_delimiter = ',', default_value = "ext4-loop,tmpfs", help_heading = MATRIX)]
    root: Vec<Root>,

    /// Measure on these places alone, each as DATA_PATH@ROOT, in place of every data path on every root
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["data_path", "root", "url"], help_heading = MATRIX)]
    cell: Vec<Place>,

    /// What Firecracker writes in the pause: diff, full
    #[arg(long, value_delimiter = ',', default_value = "diff", value_parser = mode, help_heading = MATRIX)]
    mode: Vec<BranchMode>,

    /// Guest memory in MiB
    #[arg(long, value_delimiter = ',', default_value = "512", value_parser = value_parser!(u32).range(16..=65536),
          help_heading = MATRIX)]
    mem_mib: Vec<u32>,

    /// Pages of 4 KiB that the guest dirties before each BRANCH
    #[arg(long, value_delimiter = ',', default_value = "4096", value_parser = value_parser!(u64).range(1..),
          help_heading = MATRIX)]
    dirty_pages: Vec<u64>,

    /// Milliseconds between dirtying the pages and the BRANCH
    #[arg(long, value_delimiter = ',', default_value = "3000", value_parser = value_parser!(u64).range(0..=3_600_000),
          help_heading = MATRIX)]
    gap_ms: Vec<u64>,

    /// What else uses the file system meanwhile: none, write, fsync, read (64 MiB, without a pause)
    #[arg(long, value_delimiter = ',', default_value = "none", help_heading = MATRIX)]
    neighbour: Vec<Neighbour>,

    /// What a loop device is throttled to, in bytes a second each way, as 100M for 100 MB/s; none for not at all
    #[arg(long, value_delimiter = ',', default_value = "none", value_parser = speed, help_heading = MATRIX)]
    disk_bps: Vec<Speed>,

    /// Consecutive BRANCHes of each sandbox
    #[arg(long, default_value_t = 6, value_parser = value_parser!(u32).range(1..=1000))]
    branches: u32,

    /// Repetitions of every cell, each on a fresh file system
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..=1000))]
    trials: u32,

    /// Have each BRANCH's answer wait until its snapshot is on disk, as the daemon does unless told otherwise.
    /// Without this the copies stay in the page cache, to be written back under the BRANCHes that follow
    #[arg(long)]
    durable: bool,

    /// Draws the order of the cells in each trial, and keys the contents of the dirtied pages
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Milliseconds that a trial waits for idle disks; then it begins all the same, and its rows say "dirty"
    #[arg(long, default_value_t = 120_000, value_parser = value_parser!(u64).range(0..=3_600_000))]
    drain_limit_ms: u64,

    /// Words about the disk below that this host cannot see, for run.json, such as "QEMU, 100 MB/s"
    #[arg(long, value_name = "WORDS")]
    disk_note: Option<String>,

    /// Folder for sweep.csv, run.json and sweep.png
    #[arg(long, value_name = "DIR", default_value = "forkd-sweep")]
    out: PathBuf,

    /// Go on with the sweep in this folder, which ended early: with its settings, on the same machine
    #[arg(long, value_name = "DIR", conflicts_with_all = SETTINGS, conflicts_with = "url")]
    resume: Option<PathBuf>,

    /// Measure a daemon that runs already, unix:/path or http://host:port, on the root that it has
    #[arg(long, value_parser = endpoint, conflicts_with_all = ["root", "forkd"])]
    url: Option<Endpoint>,

    /// The daemon to run; else the one beside forkd-bench or on PATH
    #[arg(long, value_name = "PATH")]
    forkd: Option<PathBuf>,

    /// The Firecracker to run; else the one on PATH
    #[arg(long, value_name = "PATH", env = "FORKD_FIRECRACKER")]
    firecracker: Option<PathBuf>,

    /// Afterwards run the slowest cell once more, and record where its Firecracker waits in the pauses:
    /// offcpu.svg, .folded, .txt, .json and offcpu-sweep.csv
    #[arg(long)]
    offcpu_slowest: bool,

    /// Folder for mounts, images and sockets while it runs
    #[arg(long, value_name = "DIR", default_value = work::DEFAULT)]
    work_dir: PathBuf,
}

impl SweepArgs {
    /// What is asked for, with the programs found.
    pub fn request(self) -> Result<Request, Error> {
        let (settings, earlier, out) = match &self.resume {
            Some(folder) => {
                let (settings, earlier) = load(folder)?;
                (settings, Some(earlier), folder.clone())
            }
            None => (self.settings(), None::<Earlier>, self.out.clone()),
        };
        let target = match &self.url {
            Some(endpoint) => Target::Running(endpoint.clone()),
            None => Target::Own(programs(self.forkd.as_deref(), self.firecracker.as_deref())?),
        };
        Ok(Request {
            settings,
            target,
            out,
            work_dir: self.work_dir,
            offcpu_slowest: self.offcpu_slowest,
            earlier,
        })
    }

    fn settings(&self) -> Settings {
        let places = match (&self.url, self.cell.is_empty()) {
            (Some(_), _) => Place::matrix(&self.data_path, &[Root::Daemon]),
            (None, true) => Place::matrix(&self.data_path, &self.root),
            (None, false) => self.cell.clone(),
        };
        let matrix = Matrix {
            places,
            modes: self.mode.clone(),
            mem_mib: self.mem_mib.clone(),
            dirty_pages: self.dirty_pages.clone(),
            gap_ms: self.gap_ms.clone(),
            neighbours: self.neighbour.clone(),
            disk_bps: self.disk_bps.iter().map(|speed| speed.0).collect(),
        };
        Settings {
            cells: matrix.cells(),
            trials: self.trials,
            branches: self.branches,
            durable: self.durable,
            seed: self.seed,
            drain_limit: Duration::from_millis(self.drain_limit_ms),
            disk_note: self.disk_note.clone(),
        }
    }
}

/// Bytes a second, where there is a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Speed(Option<u64>);

fn speed(text: &str) -> Result<Speed, String> {
    if text == "none" {
        return Ok(Speed(None));
    }
    let (digits, unit) = match text.strip_suffix(['k', 'M', 'G']) {
        Some(digits) if text.ends_with('k') => (digits, 1_000),
        Some(digits) if text.ends_with('M') => (digits, 1_000_000),
        Some(digits) => (digits, 1_000_000_000),
        None => (text, 1),
    };
    let bps = digits.parse().ok().and_then(|digits: u64| digits.checked_mul(unit));
    let bps = bps.filter(|bps| *bps >= LEAST_BPS);
    bps.map(|bps| Speed(Some(bps))).ok_or_else(|| {
        format!(
            "use bytes a second with k, M or G for powers of ten, at least {}k, or none",
            LEAST_BPS / 1000
        )
    })
}

/// With less, one BRANCH of the smallest guest would take longer than the daemon's deadlines.
const LEAST_BPS: u64 = 100_000;

fn endpoint(url: &str) -> Result<Endpoint, String> {
    let rest = |prefix| url.strip_prefix(prefix).map(|rest: &str| rest.trim_end_matches('/'));
    match (rest("unix:"), rest("http://")) {
        (Some(path), _) if path.starts_with('/') => Ok(Endpoint::Unix(PathBuf::from(path))),
        (_, Some(address)) if address.contains(':') => Ok(Endpoint::Tcp(address.to_owned())),
        _ => Err("use unix:/path or http://host:port".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, Command};
    use super::{SETTINGS, Speed, endpoint, speed};
    use clap::{CommandFactory, Parser};

    #[test]
    fn daemons_are_named_by_url() {
        assert_eq!(endpoint("unix:/run/forkd.sock").unwrap().to_string(), "unix:/run/forkd.sock");
        assert_eq!(endpoint("http://127.0.0.1:8889/").unwrap().to_string(), "http://127.0.0.1:8889");
        assert!(endpoint("127.0.0.1:8889").is_err());
    }

    #[test]
    fn cells_take_the_place_of_the_matrix() {
        let mixed = ["forkd-bench", "sweep", "--cell", "naive@tmpfs", "--root", "tmpfs"];
        assert!(Cli::try_parse_from(mixed).is_err());
        let partial = ["forkd-bench", "sweep", "--cell", "naive@tmpfs,fallocate@ext4-loop"];
        assert!(Cli::try_parse_from(partial).is_ok());
    }

    #[test]
    fn speeds_are_in_powers_of_ten() {
        let read = |text| speed(text).ok().and_then(|speed| speed.0);
        assert_eq!(
            (read("100M"), read("250k"), read("1G")),
            (Some(100_000_000), Some(250_000), Some(1_000_000_000))
        );
        assert_eq!((speed("none"), read("123456")), (Ok(Speed(None)), Some(123_456)));
        for bad in ["", "M", "0", "99k", "1.5M", "100m", "-1", "99999999999999G"] {
            assert!(speed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_combination_of_lists_is_a_cell() {
        let line = "forkd-bench sweep --data-path naive,stage --root xfs-loop --mode diff,full --mem-mib 64,128 \
                    --dirty-pages 1,2 --gap-ms 0,1 --neighbour none,fsync --disk-bps none,10M";
        let Command::Sweep(arguments) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else {
            panic!("no sweep");
        };
        assert_eq!(arguments.settings().cells.len(), 2_usize.pow(7));
    }

    #[test]
    fn a_sweep_that_is_gone_on_with_keeps_its_settings() {
        let parse = |more: &[&str]| {
            Cli::try_parse_from(["forkd-bench", "sweep", "--resume", "d"].iter().chain(more)).is_ok()
        };
        assert!(parse(&[]) && parse(&["--offcpu-slowest"]));
        assert!(!parse(&["--trials", "2"]) && !parse(&["--root", "tmpfs"]) && !parse(&["--out", "e"]));
        let command = Cli::command();
        let sweep = command.find_subcommand("sweep").unwrap();
        // What is not a setting of the sweep: whatever is added must be sorted into one of the two.
        let others = ["resume", "url", "forkd", "firecracker", "offcpu_slowest", "work_dir", "help"];
        let known = |id: &str| SETTINGS.contains(&id) || others.contains(&id);
        let unknown: Vec<_> =
            sweep.get_arguments().filter(|argument| !known(argument.get_id().as_str())).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
