//! The command line: one command a file.

mod floor;
mod sweep;

use std::path::Path;

use bench::Error;
use bench::error::EXIT_CODES;
use bench::host::tools;
use bench::site::Programs;
use clap::{Parser, Subcommand};

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
    Sweep(sweep::SweepArgs),
    /// Pause of the daemon's stage beside that of a bare client that knows what will be written
    #[command(after_help = EXIT_CODES)]
    Floor(floor::FloorArgs),
}

/// The programs that a command runs, found.
fn programs(forkd: Option<&Path>, firecracker: Option<&Path>) -> Result<Programs, Error> {
    tools::check_host()?;
    let build = "build it (cargo build --release -p forkd)";
    let install = "install it (cargo xtask setup)";
    Ok(Programs {
        forkd: tools::find("forkd", forkd, build)?,
        firecracker: tools::find("firecracker", firecracker, install)?,
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
