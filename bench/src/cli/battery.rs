//! `forkd-bench battery`.

use std::path::PathBuf;

use bench::battery::{self, parts::Part};
use bench::{Error, work};
use clap::{Args, value_parser};

use super::programs;

/// Exit codes, for `--help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    every verdict was the right one
  1    verdicts were not the right ones, which the last line counts; or a failure on the way
  2    wrong usage
  3    the host lacks something (root, /dev/kvm, firecracker, a tool, memory)
  130  interrupted by SIGINT, SIGTERM or SIGHUP";

/// The arguments.
#[derive(Debug, Args)]
pub struct BatteryArgs {
    /// Only these scenarios, by name
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    scenario: Vec<String>,

    /// Only the scenarios that end the same way on a busy host, in a few seconds each
    #[arg(long)]
    quick: bool,

    /// Times that all of it is run
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..=1000))]
    repeat: u32,

    /// Folder for the whole report on each window
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

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

impl BatteryArgs {
    /// What is asked for, with the programs found.
    pub fn request(self) -> Result<battery::Request, Error> {
        let probe = battery::find_probe(self.probe.as_deref())?;
        let programs = programs(self.forkd.as_deref(), self.firecracker.as_deref())?;
        Ok(battery::Request {
            scenarios: self.scenario,
            quick: self.quick,
            repeat: self.repeat,
            programs: programs.accounting(&probe, 1),
            probe,
            out: self.out,
            work_dir: self.work_dir,
        })
    }
}

/// The arguments of a process of the battery's own.
#[derive(Debug, Args)]
pub struct PartArgs {
    #[command(subcommand)]
    part: Part,
}

impl PartArgs {
    /// Does its part, until it is told to end.
    pub fn run(self) -> std::io::Result<()> {
        self.part.run()
    }
}
