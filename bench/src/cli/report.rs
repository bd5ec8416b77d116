//! `forkd-bench report`.

use std::path::PathBuf;

use bench::{Error, report};
use clap::Args;

/// The arguments.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Folders with a sweep.csv, each of one sweep
    #[arg(required = true, value_name = "DIR")]
    folders: Vec<PathBuf>,

    /// Folder for report.html, report.md, report.csv and the pictures; else that of the first sweep
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl ReportArgs {
    /// Writes the report.
    pub fn run(&self) -> Result<(), Error> {
        let out = self.out.as_ref().or(self.folders.first());
        out.map_or(Ok(()), |out| report::write(&self.folders, out))
    }
}
