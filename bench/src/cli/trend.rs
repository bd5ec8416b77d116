//! `forkd-bench trend`.

use std::path::PathBuf;

use bench::progress::print;
use bench::{Error, trend};
use clap::Args;

/// The arguments.
#[derive(Debug, Args)]
pub struct TrendArgs {
    /// Folders of stored runs, each with a sweep.csv or a gate's b.csv; or such files themselves
    #[arg(required = true, value_name = "DIR")]
    runs: Vec<PathBuf>,

    /// Print one JSON document
    #[arg(long)]
    json: bool,

    /// Draws the shuffles that a change is compared with
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl TrendArgs {
    /// Prints each cell's runs and where their level changes.
    pub fn run(&self) -> Result<(), Error> {
        let series = trend::series(&self.runs, self.seed)?;
        match self.json {
            true => {
                let json = serde_json::to_string_pretty(&series).map_err(|error| Error::Render {
                    file: "the series".to_owned(),
                    reason: error.to_string(),
                })?;
                print(json + "\n");
            }
            false => print(trend::table(&series)),
        }
        Ok(())
    }
}
