//! `forkd-probe offcpu`.

use clap::{Args, ValueEnum};
use probes::aggregate::Filter;
use probes::interval::Wait;
use probes::offcpu::{Options, Session};
use probes::recording;
use reports::offcpu::render;

use super::frame::{Bpf, Frame, Stats};

/// Arguments of `offcpu`.
#[derive(Debug, Args)]
pub struct Offcpu {
    #[command(flatten)]
    frame: Frame,
    #[command(flatten)]
    bpf: Bpf,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    stats: Stats,
}

/// Which waits are listed.
#[derive(Debug, Args)]
pub struct Selection {
    /// List stacks of these states only
    #[arg(long, value_enum, value_delimiter = ',')]
    state: Vec<State>,
    /// Leave waits shorter than this many microseconds out of the stacks; the threads' sums keep them
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_us: u64,
    /// Leave waits longer than this many microseconds out of the stacks; the threads' sums keep them
    #[arg(long, value_name = "N")]
    max_us: Option<u64>,
}

impl Selection {
    /// Whether anything is left out.
    pub fn is_given(&self) -> bool {
        self.filter(Vec::new()) != Filter::default()
    }

    /// These, of these threads; of all where there are none.
    pub fn filter(&self, tids: Vec<u32>) -> Filter {
        Filter {
            min_ns: self.min_us.saturating_mul(1000),
            max_ns: self.max_us.map_or(u64::MAX, |us| us.saturating_mul(1000)),
            waits: self.state.iter().copied().map(Wait::from).collect(),
            tids,
        }
    }
}

/// Why a thread does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum State {
    /// Asleep until an event or a signal (S)
    Interruptible,
    /// Asleep until an event (D)
    Uninterruptible,
    /// Stopped by a signal, a tracer or the freezer (T)
    Stopped,
    /// Runnable, and taken off the CPU
    Preempted,
    /// Runnable after a wake-up
    RunQueue,
    /// Not seen
    Unknown,
}

/// Records, reports, and writes the report.
pub fn run(command: &Offcpu) -> anyhow::Result<()> {
    let (mut stage, targets) = command.frame.open()?;
    let filter = command.selection.filter(command.frame.tids());
    let recording::Options { ring_bytes, rung, log_bpf, .. } = command.bpf.options();
    let stats = command.stats.stats;
    let options = Options { filter, stats, ring_bytes, rung, log_bpf, ..Options::default() };
    let session = Session::attach_all(targets, options)?;
    let ending = stage.wait(session.targets())?;
    let mut report = session.finish()?;
    report.warnings.extend(stage.close(ending, report.window_ns)?);
    stage.write(&render(&report, command.frame.format())?)
}

impl From<State> for Wait {
    fn from(state: State) -> Self {
        match state {
            State::Interruptible => Self::Interruptible,
            State::Uninterruptible => Self::Uninterruptible,
            State::Stopped => Self::Stopped,
            State::Preempted => Self::Preempted,
            State::RunQueue => Self::RunQueue,
            State::Unknown => Self::Unknown,
        }
    }
}
