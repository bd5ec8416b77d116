//! `forkd-bench probe-cost`.

use std::path::PathBuf;

use bench::probe_cost::{Request, Settings};
use clap::{Args, value_parser};

/// The arguments.
#[derive(Debug, Args)]
pub struct ProbeCostArgs {
    /// Turns of each tool
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Milliseconds that each is measured in each turn
    #[arg(long, default_value_t = 1500, value_parser = value_parser!(u64).range(100..=60_000))]
    window_ms: u64,

    /// The forkd-probe to measure [default: the one beside this program, or on PATH]
    #[arg(long, value_name = "PROGRAM")]
    probe: Option<PathBuf>,

    /// Folder for probe-cost.csv, probe-cost.json and probe-cost.md
    #[arg(long, value_name = "DIR", default_value = "forkd-probe-cost")]
    out: PathBuf,
}

impl ProbeCostArgs {
    /// What to do.
    pub fn request(&self) -> Request {
        let settings = Settings { rounds: self.rounds, window_ms: self.window_ms };
        Request { settings, probe: self.probe.clone(), out: self.out.clone() }
    }
}
