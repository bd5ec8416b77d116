//! `forkd-bench whatif` and `forkd-bench armed`, which both measure with a daemon that accounts for its pauses.

use std::path::PathBuf;

use bench::battery::find_probe;
use bench::site::Programs;
use bench::{Error, armed, whatif, work};
use clap::{Args, value_parser};
use forkd::api::DataPath;

use super::programs;

/// What to run, and where.
#[derive(Debug, Args)]
struct Place {
    /// The daemon to run; else the one beside forkd-bench or on PATH
    #[arg(long, value_name = "PATH")]
    forkd: Option<PathBuf>,

    /// The forkd-probe to run; else the one beside forkd-bench or on PATH
    #[arg(long, value_name = "PATH")]
    probe: Option<PathBuf>,

    /// The Firecracker to run; else the one on PATH
    #[arg(long, value_name = "PATH", env = "FORKD_FIRECRACKER")]
    firecracker: Option<PathBuf>,

    /// Folder for mounts and sockets while it runs
    #[arg(long, value_name = "DIR", default_value = work::DEFAULT)]
    work_dir: PathBuf,
}

impl Place {
    fn programs(&self) -> Result<Programs, Error> {
        programs(self.forkd.as_deref(), self.firecracker.as_deref())
    }

    fn probe(&self) -> Result<PathBuf, Error> {
        find_probe(self.probe.as_deref())
    }
}

/// The arguments of `whatif`.
#[derive(Debug, Args)]
pub struct WhatIfArgs {
    /// BRANCHes before and after each piece of advice is followed, in turn
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(1..=1000))]
    branches: u32,
    #[command(flatten)]
    place: Place,
}

impl WhatIfArgs {
    /// What is asked for, with the programs found.
    pub fn request(self) -> Result<whatif::Request, Error> {
        let programs = self.place.programs()?.accounting(&self.place.probe()?, 1);
        Ok(whatif::Request { branches: self.branches, programs, work_dir: self.place.work_dir })
    }
}

/// The arguments of `armed`.
#[derive(Debug, Args)]
pub struct ArmedArgs {
    /// Pairs of a BRANCH with armed probes and one without
    #[arg(long, default_value_t = 300, value_parser = value_parser!(u32).range(1..=10_000))]
    pairs: u32,

    /// Guest memory in MiB
    #[arg(long, default_value_t = 512, value_parser = value_parser!(u32).range(16..=65536))]
    mem_mib: u32,

    /// Pages of 4 KiB that the guest dirties before each BRANCH
    #[arg(long, default_value_t = 4096, value_parser = value_parser!(u64).range(1..))]
    dirty_pages: u64,

    /// How the BRANCHes get to disk
    #[arg(long, default_value = "stage")]
    data_path: DataPath,

    /// Attach the probes for every second BRANCH and arm them for none: what having them costs
    #[arg(long)]
    attached_only: bool,
    #[command(flatten)]
    place: Place,
}

impl ArmedArgs {
    /// What is asked for, with the programs found.
    pub fn request(self) -> Result<armed::Request, Error> {
        let (programs, probe) = (self.place.programs()?, self.place.probe()?);
        let (programs, attached_by) = match self.attached_only {
            true => (programs, Some(probe)),
            false => (programs.accounting(&probe, 2), None),
        };
        Ok(armed::Request {
            pairs: self.pairs,
            mem_mib: self.mem_mib,
            dirty_pages: self.dirty_pages,
            data_path: self.data_path,
            programs,
            attached_by,
            work_dir: self.place.work_dir,
        })
    }
}
