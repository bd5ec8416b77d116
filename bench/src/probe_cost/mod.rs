//! What `forkd-probe offcpu` costs, beside the tools that do the same.
//!
//! The tools take turns in one run, in an order that goes round, so that what the host does meanwhile is in all
//! of them. Times of BPF programs are the kernel's own run-time statistics, which are on for the whole run. A signal ends
//! every wait, and what is held then (statistics, tracefs, tools, loads) is dropped: that puts it back.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;

use crate::Error;
use crate::interrupt::Interrupt;
use crate::progress::{print, say};

pub mod load;
mod measure;
mod output;
mod tool;

pub use measure::agreement;
pub use tool::{Kind, Tool};

/// What is measured.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Settings {
    /// Turns of each tool.
    pub rounds: u32,
    /// How long each is measured in each turn.
    pub window_ms: u64,
}

/// Everything that a run is told.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to measure.
    pub settings: Settings,
    /// The `forkd-probe` to measure; the one beside this program, or on PATH, where none is named.
    pub probe: Option<PathBuf>,
    /// Where the files go.
    pub out: PathBuf,
}

/// One figure.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Row {
    /// What it is.
    pub measure: Measure,
    /// Of which tool.
    pub tool: &'static str,
    /// In which turn, from 1.
    pub round: u32,
    /// In the measure's unit.
    pub value: f64,
}

/// What a figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// All programs' time for each switch of the host, none of which is the watched process's.
    UnwatchedNs,
    /// The part of it in the program on `sched_switch`.
    UnwatchedSwitchNs,
    /// All programs' time for each switch of the watched process, with its kernel and user stack.
    WatchedNs,
    /// The part of it in the program on `sched_switch`.
    WatchedSwitchNs,
    /// From the start of the tool until it is attached.
    AttachedMs,
    /// The most memory resident while it traces.
    PeakMib,
    /// Off-CPU time that two tools saw of the same threads, attached at once: ours over theirs.
    Agreement,
    /// Switches of the watched process in a second.
    SwitchesPerSecond,
    /// Events lost meanwhile, with the ring buffer's default size.
    Lost,
    /// A million recorded waits summed, named, folded and drawn.
    MillionStacksS,
}

impl Measure {
    /// What tables call it, and the goal that it is held against.
    pub const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::UnwatchedNs => ("switch that concerns nobody watched, all programs, ns", ""),
            Self::UnwatchedSwitchNs => {
                ("the same, the program on sched_switch alone, ns", "45, aiming at 30")
            }
            Self::WatchedNs => ("watched switch with its stacks, all programs, ns", ""),
            Self::WatchedSwitchNs => ("the same, the program on sched_switch alone, ns", "offcputime's"),
            Self::AttachedMs => ("from start to attached, ms", "120"),
            Self::PeakMib => ("resident at most while tracing two busy threads, MiB", "40"),
            Self::Agreement => ("off-CPU time of the same threads, over offcputime's", "0.98 to 1.02"),
            Self::SwitchesPerSecond => ("switches a second of the watched process", "100000"),
            Self::Lost => ("events lost at that rate", "0"),
            Self::MillionStacksS => ("1,000,000 recorded stacks named, folded and drawn, s", "3"),
        }
    }
}

/// What a run has gathered.
#[derive(Debug, Default)]
pub struct Gathered {
    /// The figures.
    pub rows: Vec<Row>,
    /// What was left out, and why.
    pub skipped: Vec<String>,
}

impl Gathered {
    fn add(&mut self, measure: Measure, tool: Kind, round: u32, value: f64) {
        self.rows.push(Row { measure, tool: tool.name(), round, value });
    }
}

/// Measures, writes `probe-cost.csv`, `probe-cost.json` and `probe-cost.md`, and prints the table. A signal ends it
/// early: what it has measured until then is written, and what it has changed on the host is put back.
///
/// # Errors
/// [`Error::Missing`] where there is no `forkd-probe`, no `perf`, or not the rights; a peer that is missing is
/// left out, and named. [`Error::Interrupted`] after a signal.
pub async fn run(request: &Request, interrupt: &mut Interrupt) -> Result<(), Error> {
    output::prepare(&request.out)?;
    let _statistics = Statistics::on()?;
    let _tracefs = Tracefs::mounted();
    let (tools, skipped) = Tool::find_all(request.probe.as_deref())?;
    for line in &skipped {
        say(line);
    }
    let mut gathered = Gathered { skipped, ..Gathered::default() };
    let done = interrupt.or(measure::all(&tools, &request.settings, &mut gathered)).await;
    if let Err(error @ Error::Interrupted(_)) = &done {
        gathered.skipped.push(format!("{error}: what comes after the last figure was not measured"));
    }
    if done.is_ok() || (matches!(done, Err(Error::Interrupted(_))) && !gathered.rows.is_empty()) {
        print(output::text(&gathered.rows));
        for path in output::write(request, &gathered)? {
            print(format_args!("{}\n", path.display()));
        }
    }
    done
}

/// The kernel's run-time statistics of BPF programs, on until this is dropped.
struct Statistics(String);

impl Statistics {
    const PATH: &str = "/proc/sys/kernel/bpf_stats_enabled";

    fn on() -> Result<Self, Error> {
        let path = Path::new(Self::PATH);
        let before = fs::read_to_string(path).map_err(Error::file("read", path))?;
        fs::write(path, "1").map_err(Error::file("write", path))?;
        Ok(Self(before))
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        let _ = fs::write(Self::PATH, &self.0);
    }
}

/// bpftrace finds tracepoints in tracefs: mounted for the run where it was not.
struct Tracefs(bool);

impl Tracefs {
    const PATH: &str = "/sys/kernel/tracing";

    fn mounted() -> Self {
        if Path::new(Self::PATH).join("events").exists() {
            return Self(false);
        }
        let flags = rustix::mount::MountFlags::empty();
        Self(rustix::mount::mount("tracefs", Self::PATH, "tracefs", flags, None).is_ok())
    }
}

impl Drop for Tracefs {
    fn drop(&mut self) {
        if self.0 {
            let _ = rustix::mount::unmount(Self::PATH, rustix::mount::UnmountFlags::empty());
        }
    }
}

async fn pause(ms: u64) {
    sleep(Duration::from_millis(ms)).await;
}
