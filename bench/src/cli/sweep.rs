//! `forkd-bench sweep`.

use std::path::PathBuf;

use bench::cell::{Cell, Root};
use bench::sweep::{Request, Settings, Target};
use bench::{Error, work};
use clap::{Args, value_parser};
use forkd::api::DataPath;
use forkd::http_client::Endpoint;

use super::programs;

/// The arguments.
#[derive(Debug, Args)]
pub struct SweepArgs {
    /// How the BRANCH's bytes get to disk: naive, fallocate, direct, uring, stage
    #[arg(long, value_delimiter = ',', default_value = "naive,fallocate")]
    data_path: Vec<DataPath>,

    /// What snapshots lie on: ext4-loop, tmpfs
    #[arg(long, value_delimiter = ',', default_value = "ext4-loop,tmpfs")]
    root: Vec<Root>,

    /// Measure these cells alone, each as DATA_PATH@ROOT, in place of every data path on every root
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["data_path", "root", "url"])]
    cell: Vec<Cell>,

    /// Consecutive BRANCHes of each sandbox
    #[arg(long, default_value_t = 6, value_parser = value_parser!(u32).range(1..=1000))]
    branches: u32,

    /// Milliseconds between dirtying the pages and the BRANCH
    #[arg(long, default_value_t = 3000, value_parser = value_parser!(u64).range(0..=3_600_000))]
    gap_ms: u64,

    /// Pages of 4 KiB that the guest dirties before each BRANCH
    #[arg(long, default_value_t = 4096, value_parser = value_parser!(u64).range(1..))]
    dirty_pages: u64,

    /// Guest memory in MiB
    #[arg(long, default_value_t = 512, value_parser = value_parser!(u32).range(16..=65536))]
    mem_mib: u32,

    /// Repetitions of every cell, each on a fresh file system
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..=1000))]
    trials: u32,

    /// Have each BRANCH's answer wait until its snapshot is on disk, as the daemon does unless told otherwise.
    /// Without this the copies stay in the page cache, to be written back under the BRANCHes that follow
    #[arg(long)]
    durable: bool,

    /// Keys the contents of the dirtied pages, with the BRANCH index
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Folder for sweep.csv, run.json and sweep.png
    #[arg(long, value_name = "DIR", default_value = "forkd-sweep")]
    out: PathBuf,

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
        let target = match &self.url {
            Some(endpoint) => Target::Running(endpoint.clone()),
            None => Target::Own(programs(self.forkd.as_deref(), self.firecracker.as_deref())?),
        };
        let cells = match (&self.url, self.cell.is_empty()) {
            (Some(_), _) => Cell::matrix(&self.data_path, &[Root::Daemon]),
            (None, true) => Cell::matrix(&self.data_path, &self.root),
            (None, false) => self.cell,
        };
        let settings = Settings {
            cells,
            trials: self.trials,
            branches: self.branches,
            dirty_pages: self.dirty_pages,
            gap_ms: self.gap_ms,
            mem_mib: self.mem_mib,
            durable: self.durable,
            seed: self.seed,
        };
        Ok(Request {
            settings,
            target,
            out: self.out,
            work_dir: self.work_dir,
            offcpu_slowest: self.offcpu_slowest,
        })
    }
}

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
    use super::super::Cli;
    use super::endpoint;
    use clap::Parser;

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
}
