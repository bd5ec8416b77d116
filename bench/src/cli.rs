//! The command line.

use std::path::{Path, PathBuf};

use bench::cell::{Cell, Root};
use bench::error::EXIT_CODES;
use bench::host::tools;
use bench::site::Programs;
use bench::sweep::{Request, Settings, Target};
use bench::{Error, floor, work};
use clap::{Args, Parser, Subcommand, value_parser};
use forkd::api::DataPath;
use forkd::http_client::Endpoint;

/// Measures BRANCHes of real microVMs. It gathers samples and judges none of them.
#[derive(Debug, Parser)]
#[command(name = "forkd-bench", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pause of consecutive diff BRANCHes, by data path and snapshot root
    #[command(after_help = EXIT_CODES)]
    Sweep(SweepArgs),
    /// Pause of the daemon's stage beside that of a bare client that knows what will be written
    #[command(after_help = EXIT_CODES)]
    Floor(FloorArgs),
}

#[derive(Debug, Args)]
pub struct FloorArgs {
    /// Pairs of a floor and a stage BRANCH, for each of the two dirty sets
    #[arg(long, default_value_t = 300, value_parser = value_parser!(u32).range(1..=10_000))]
    pairs: u32,

    /// Guest memory in MiB
    #[arg(long, default_value_t = 512, value_parser = value_parser!(u32).range(16..=65536))]
    mem_mib: u32,

    /// Pages of 4 KiB that the guest dirties before each BRANCH
    #[arg(long, default_value_t = 4096, value_parser = value_parser!(u64).range(1..))]
    dirty_pages: u64,

    /// Milliseconds between dirtying the pages and the BRANCH, in the pairs
    #[arg(long, default_value_t = 50, value_parser = value_parser!(u64).range(0..=3_600_000))]
    gap_ms: u64,

    /// Data paths to compare with, in blocks of consecutive BRANCHes between the pairs that are not waited for
    #[arg(long, value_delimiter = ',', default_value = "naive")]
    compare: Vec<DataPath>,

    /// Blocks of each compared data path
    #[arg(long, default_value_t = 2, value_parser = value_parser!(u32).range(0..=100))]
    blocks: u32,

    /// BRANCHes of each block
    #[arg(long, default_value_t = 6, value_parser = value_parser!(u32).range(1..=100))]
    block_branches: u32,

    /// Milliseconds between dirtying the pages and the BRANCH, in the blocks
    #[arg(long, default_value_t = 3000, value_parser = value_parser!(u64).range(0..=3_600_000))]
    block_gap_ms: u64,

    /// Children that are forked at once at the end
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u32).range(1..=1000))]
    children: u32,

    /// A short run: 20 pairs, one block of 3 BRANCHes half a second apart, 10 children
    #[arg(long, conflicts_with_all = ["pairs", "blocks", "block_branches", "block_gap_ms", "children"])]
    quick: bool,

    /// Draws the order within pairs, the places of the moving set, the contents, and the bootstrap
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Folder for floor.csv, floor.json, floor.md and floor.png
    #[arg(long, value_name = "DIR", default_value = "forkd-floor")]
    out: PathBuf,

    /// The daemon to run; else the one beside forkd-bench or on PATH
    #[arg(long, value_name = "PATH")]
    forkd: Option<PathBuf>,

    /// The Firecracker to run; else the one on PATH
    #[arg(long, value_name = "PATH", env = "FORKD_FIRECRACKER")]
    firecracker: Option<PathBuf>,

    /// Folder for mounts, images and sockets while it runs
    #[arg(long, value_name = "DIR", default_value = work::DEFAULT)]
    work_dir: PathBuf,
}

impl FloorArgs {
    /// What is asked for, with the programs found.
    pub fn request(self) -> Result<floor::Request, Error> {
        let programs = programs(self.forkd.as_deref(), self.firecracker.as_deref())?;
        let settings = floor::Settings {
            pairs: if self.quick { 20 } else { self.pairs },
            mem_mib: self.mem_mib,
            dirty_pages: self.dirty_pages,
            gap_ms: self.gap_ms,
            compared: self.compare,
            blocks: if self.quick { 1 } else { self.blocks },
            block_branches: if self.quick { 3 } else { self.block_branches },
            block_gap_ms: if self.quick { 500 } else { self.block_gap_ms },
            children: if self.quick { 10 } else { self.children },
            seed: self.seed,
        };
        Ok(floor::Request { settings, programs, out: self.out, work_dir: self.work_dir })
    }
}

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

fn programs(forkd: Option<&Path>, firecracker: Option<&Path>) -> Result<Programs, Error> {
    tools::check_host()?;
    let build = "build it (cargo build --release -p forkd)";
    let install = "install it (cargo xtask setup)";
    Ok(Programs {
        forkd: tools::find("forkd", forkd, build)?,
        firecracker: tools::find("firecracker", firecracker, install)?,
    })
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
    use super::{Cli, endpoint};
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

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
