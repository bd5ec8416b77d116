//! `forkd-bench floor`.

use std::path::PathBuf;

use bench::{Error, floor, work};
use clap::{Args, value_parser};
use forkd::api::DataPath;

use super::programs;

/// The arguments.
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
