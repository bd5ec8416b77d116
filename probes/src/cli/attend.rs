//! `forkd-probe attend`.

use std::io::{stdin, stdout};

use anyhow::Context;
use clap::Args;
use probes::explain::Options;

use super::messages;

/// Holds the probes for a daemon, which starts it by itself.
#[derive(Debug, Args)]
pub struct Attend {
    /// Tell on standard error what the BPF programs say of themselves
    #[arg(long)]
    log_bpf: bool,
}

/// Serves until the end of standard input.
pub fn run(command: &Attend) -> anyhow::Result<()> {
    let log_bpf = command.log_bpf;
    if log_bpf {
        messages::to_standard_error();
    }
    let options = Options { log_bpf, ..Options::default() };
    probes::attend::serve(stdin().lock(), stdout(), &options).context("cannot serve the daemon")
}
