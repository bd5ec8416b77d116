//! The command line: one command a file.

mod battery;
mod floor;
mod gate;
mod neighbour;
mod power;
mod probe_cost;
mod report;
mod sweep;
mod trend;
mod whatif;

use std::path::Path;

use bench::Error;
use bench::error::EXIT_CODES;
use bench::host::tools;
use bench::site::Programs;
use clap::{Parser, Subcommand};

/// Measures BRANCHes of real microVMs; `gate` judges what was measured.
#[derive(Debug, Parser)]
#[command(name = "forkd-bench", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pause of consecutive BRANCHes, by data path, snapshot root and whatever else is given several values
    #[command(after_help = EXIT_CODES)]
    Sweep(Box<sweep::SweepArgs>),
    /// Pause of the daemon's stage beside that of a bare client that knows what will be written
    #[command(after_help = EXIT_CODES)]
    Floor(floor::FloorArgs),
    /// Whether a candidate's pause is longer than a baseline's: two files, two builds, or two ways to run one
    #[command(after_help = gate::EXIT_CODES)]
    Gate(Box<gate::GateArgs>),
    /// How often the gate alarms where nothing changed, and how often it finds what did
    #[command(after_help = EXIT_CODES)]
    Power(power::PowerArgs),
    /// Where the pause changed over a series of stored runs: advice, not a verdict
    #[command(after_help = EXIT_CODES)]
    Trend(trend::TrendArgs),
    /// What forkd-probe costs the threads of the host, beside the tools that do the same
    #[command(name = "probe-cost", after_help = EXIT_CODES)]
    ProbeCost(probe_cost::ProbeCostArgs),
    /// The load of which two tools must see the same: for probe-cost itself
    #[command(name = "probe-cost-load", hide = true)]
    ProbeCostLoad,
    /// Puts known causes in the way of BRANCHes, and checks that explain names them
    #[command(after_help = battery::EXIT_CODES)]
    Battery(battery::BatteryArgs),
    /// Follows the advice of accounts, and compares the predicted pause with the measured one
    #[command(name = "whatif", after_help = EXIT_CODES)]
    WhatIf(whatif::WhatIfArgs),
    /// Pauses with armed probes beside pauses without, and how much of them is explained
    #[command(after_help = EXIT_CODES)]
    Armed(whatif::ArmedArgs),
    /// A process of the battery's own, which it starts by itself
    #[command(hide = true)]
    Part(battery::PartArgs),
    /// Pictures, tables and one page of sweeps that were measured
    #[command(after_help = EXIT_CODES)]
    Report(report::ReportArgs),
    /// Loads a file until it is killed, as `sweep --neighbour` has it
    #[command(hide = true)]
    Neighbour(neighbour::NeighbourArgs),
}

/// The programs that a command runs, found.
fn programs(forkd: Option<&Path>, firecracker: Option<&Path>) -> Result<Programs, Error> {
    tools::check_host()?;
    let build = "build it (cargo build --release -p forkd)";
    let install = "install it (cargo xtask setup)";
    Ok(Programs {
        forkd: tools::find("forkd", forkd, build)?,
        firecracker: tools::find("firecracker", firecracker, install)?,
        serve_args: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
