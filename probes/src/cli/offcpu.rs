//! `forkd-probe offcpu`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use probes::offcpu::{Options, Session};
use reports::offcpu::render;

use super::ending::{Ending, Endings};
use super::output;

/// Arguments of `offcpu`.
#[derive(Debug, Args)]
pub struct Offcpu {
    /// The process to watch, all of its threads
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pid: u32,
    /// How long; Ctrl-C ends it earlier, and so does the end of the process
    #[arg(long, default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Leave waits shorter than this many microseconds out of the stacks; the threads' sums keep them
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_us: u64,
    /// Report what the recording itself cost: time to attach, memory, and the kernel's run-time statistics
    /// of the BPF programs, which slow every BPF program on the host a little while they are counted
    #[arg(long)]
    stats: bool,
    /// How to show it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Write to this file, whole or not at all, in place of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Forms of the report.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Text for a terminal
    Table,
    /// One line a stack, for flame graph tools
    Folded,
    /// A flame graph
    Svg,
    /// Everything, for programs
    Json,
}

/// Records, reports, and writes the report.
pub fn run(command: &Offcpu) -> anyhow::Result<()> {
    // What cannot be written should be known before, not after, ten seconds of recording.
    let output = output::Output::open(command.output.as_deref())?;
    let endings = Endings::watch()?;
    let min_ns = command.min_us.saturating_mul(1000);
    let session =
        Session::attach(command.pid, Options { min_ns, stats: command.stats, ..Options::default() })?;
    let ending = endings.wait(session.process(), command.duration)?;
    let mut report = session.finish()?;
    if let Some(note) = early(ending, report.window_ns) {
        eprintln!("forkd-probe: process {} {note}", report.pid);
        report.warnings.push(format!("process {} {note}", report.pid));
    }
    output.write(&render(&report, command.format.into())?)
}

fn early(ending: Ending, window_ns: u64) -> Option<String> {
    let after = humantime::format_duration(Duration::from_millis(window_ns / 1_000_000));
    match ending {
        Ending::Elapsed | Ending::Signal => None,
        Ending::ProcessEnded => {
            Some(format!("ended after {after}: the report holds what was gathered until then"))
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: Duration =
        humantime::parse_duration(text).map_err(|error| format!("{error}; write 500ms, 10s or 2min"))?;
    if parsed.is_zero() { Err("a window without length holds nothing".to_owned()) } else { Ok(parsed) }
}

impl From<Format> for reports::offcpu::Format {
    fn from(format: Format) -> Self {
        match format {
            Format::Table => Self::Table,
            Format::Folded => Self::Folded,
            Format::Svg => Self::Svg,
            Format::Json => Self::Json,
        }
    }
}
