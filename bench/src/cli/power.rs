//! `forkd-bench power`.

use std::path::PathBuf;

use bench::{Error, power, work};
use clap::{Args, value_parser};

use super::programs;

/// The arguments.
#[derive(Debug, Args)]
pub struct PowerArgs {
    /// Quick gates of a build against itself, of 10 blocks each; their blocks are resampled
    #[arg(long, default_value_t = 6, value_parser = value_parser!(u32).range(1..=100))]
    null_runs: u32,

    /// Measure only runs whose names begin so (same-, stage-naive, naive-fallocate, load, delay-, disk-); with
    /// `none` nothing is measured, and the result is computed again from what is there
    #[arg(long, value_delimiter = ',')]
    only: Option<Vec<String>>,

    /// Resamples of each rate
    #[arg(long, default_value_t = 2000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    resamples: u32,

    /// Draws the order of arms, the contents of pages, and the resamples
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Resample blocks together that were measured on different machines or kernels
    #[arg(long)]
    force: bool,

    /// Folder for power.json, power.md and the runs; runs that are there are kept
    #[arg(long, value_name = "DIR", default_value = "forkd-power")]
    out: PathBuf,

    /// The daemon to run; else the one beside forkd-bench or on PATH
    #[arg(long, value_name = "PATH")]
    forkd: Option<PathBuf>,

    /// The Firecracker to run; else the one on PATH
    #[arg(long, value_name = "PATH", env = "FORKD_FIRECRACKER")]
    firecracker: Option<PathBuf>,

    /// Folder for programs, mounts, images and sockets while it runs
    #[arg(long, value_name = "DIR", default_value = work::DEFAULT)]
    work_dir: PathBuf,
}

impl PowerArgs {
    /// What is asked for, with the programs found.
    pub fn request(self) -> Result<power::Request, Error> {
        Ok(power::Request {
            programs: programs(self.forkd.as_deref(), self.firecracker.as_deref())?,
            null_runs: self.null_runs,
            only: self.only,
            resamples: self.resamples,
            seed: self.seed,
            force: self.force,
            out: self.out,
            work_dir: self.work_dir,
        })
    }
}
