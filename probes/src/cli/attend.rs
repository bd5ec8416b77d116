//! `forkd-probe attend`.

use std::io::{stdin, stdout};

use anyhow::Context;
use clap::Args;

/// Holds the probes for a daemon, which starts it by itself.
#[derive(Debug, Args)]
pub struct Attend {}

/// Serves until the end of standard input.
pub fn run(_: &Attend) -> anyhow::Result<()> {
    probes::attend::serve(stdin().lock(), stdout()).context("cannot serve the daemon")
}
