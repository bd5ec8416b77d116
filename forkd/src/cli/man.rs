//! `forkd man`

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Command};
use clap_mangen::Man as Page;
use clap_mangen::roff::{Roff, roman};

use super::exit::EXIT_CODES;

/// Print the manual page: `forkd man | man -l -`
#[derive(Args, Debug)]
pub struct Man {
    /// Write the pages of forkd and of each command to this directory instead
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Man {
    /// Prints it.
    pub fn run(self, command: Command) -> anyhow::Result<()> {
        // The exit codes get a section of their own below.
        let command = command.after_help("");
        let Some(dir) = self.dir else { return super::output::write_all(&page(command)?) };
        let failed = || format!("cannot write manual pages to {}", dir.display());
        clap_mangen::generate_to(command.clone(), &dir).with_context(failed)?;
        std::fs::write(dir.join("forkd.1"), page(command)?).with_context(failed)
    }
}

fn page(command: Command) -> anyhow::Result<Vec<u8>> {
    let page = Page::new(command);
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    page.render_subcommands_section(&mut text)?;
    exit_status().to_writer(&mut text)?;
    page.render_version_section(&mut text)?;
    Ok(text)
}

fn exit_status() -> Roff {
    let mut section = Roff::new();
    section.control("SH", ["EXIT STATUS"]);
    for line in EXIT_CODES.lines().skip(1) {
        let (code, meaning) = line.trim().split_once(' ').unwrap_or((line, ""));
        section.control("TP", []).text([roman(code)]).text([roman(meaning.trim())]);
    }
    section
}
