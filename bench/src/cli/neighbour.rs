//! `forkd-bench neighbour`: what a sweep starts for `--neighbour`.

use std::path::PathBuf;

use bench::Error;
use bench::neighbour::Neighbour;
use bench::progress::print;
use clap::Args;

/// The arguments.
#[derive(Debug, Args)]
pub struct NeighbourArgs {
    /// What to do: write, fsync, read
    neighbour: Neighbour,

    /// The file to do it to; it is overwritten
    file: PathBuf,
}

impl NeighbourArgs {
    /// Works until it is killed; says "ready" when its file is whole.
    pub fn run(&self) -> Error {
        let ended = self.neighbour.work(&self.file, || print("ready\n"));
        Error::file("use", &self.file)(ended)
    }
}
