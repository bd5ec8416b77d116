//! A recording of where processes' threads wait, from attach to report.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use reports::offcpu::{OffCpu, SCHEMA};

use crate::aggregate::{Filter, Tables, Totals};
use crate::error::{AttachError, FinishError};
use crate::interval::{Interval, Windows};
use crate::pipeline::{Analysis, Gathered};
use crate::recfile::{self, Needed, ReadError};
use crate::recording::{self, Facts, Recording, Scope, Start, SwitchRung};
use crate::symbolize::{Symbolizer, hidden_kernel_symbols};
use crate::target::Target;

/// How to record.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the ring buffer in bytes: a power of two, and a multiple of the page size.
    pub ring_bytes: u32,
    /// Which off-CPU intervals are among the report's stacks; its threads count them all.
    pub filter: Filter,
    /// Keep every interval until the end, so that [`Session::finish_in`] can cut them to windows that are
    /// not known before. Costs memory for each switch; without it, intervals are summed at once.
    pub keep_intervals: bool,
    /// Report what the recording cost. While it lasts, the kernel times every BPF program on the host.
    pub stats: bool,
    /// Hand what the programs say of themselves to the logger of the `log` crate.
    pub log_bpf: bool,
    /// Allow the watched process to be the one that records.
    pub watch_self: bool,
    /// Whose waits are recorded.
    pub scope: Scope,
    /// The only way of seeing switches that will do; the first that the kernel takes where there is none.
    pub rung: Option<SwitchRung>,
    /// Write what is recorded to this empty file as well, for [`crate::recfile`].
    pub keep: Option<Arc<File>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ring_bytes: 8 << 20,
            filter: Filter::default(),
            keep_intervals: false,
            stats: false,
            log_bpf: false,
            watch_self: false,
            scope: Scope::Targets,
            rung: None,
            keep: None,
        }
    }
}

/// What becomes of intervals.
#[derive(Debug)]
enum Sink {
    /// They are summed at once.
    Totals(Totals),
    /// They are kept, to be cut to windows known later.
    Intervals(Vec<Interval>),
}

impl Analysis for Sink {
    fn interval(&mut self, interval: Interval) {
        match self {
            Self::Totals(totals) => totals.add(&interval),
            Self::Intervals(intervals) => intervals.push(interval),
        }
    }
}

/// A recording of one or more processes, which goes on until it is finished or dropped.
///
/// A thread named `forkd-drain` reads the events; the caller need not do anything meanwhile, and may be
/// on any thread, with or without an async runtime. Dropping the session detaches everything.
#[derive(Debug)]
pub struct Session {
    recording: Recording<Sink>,
    options: Options,
}

/// How many records a finished session saw: for tests and for `--stats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordCount {
    /// That the kernel side tried to write.
    pub attempted: u64,
    /// That came.
    pub received: u64,
}

impl Session {
    /// Attaches, and records from when this returns (from [`Session::start_ns`], to be exact).
    ///
    /// # Errors
    /// [`AttachError`] says what was refused, and what to do about it. Nothing is left attached.
    pub fn attach(pid: u32, options: Options) -> Result<Self, AttachError> {
        Self::attach_all(vec![Target::find(pid, options.watch_self)?], options)
    }

    /// As [`Session::attach`], for several processes at once.
    ///
    /// # Errors
    /// As [`Session::attach`], and [`AttachError::Targets`] where there are none, or too many.
    pub fn attach_all(targets: Vec<Target>, options: Options) -> Result<Self, AttachError> {
        let sink = if options.keep_intervals {
            Sink::Intervals(Vec::new())
        } else {
            Sink::Totals(Totals::new(options.filter.clone()))
        };
        let common = recording::Options {
            ring_bytes: options.ring_bytes,
            stats: options.stats,
            log_bpf: options.log_bpf,
            watch_self: options.watch_self,
            scope: options.scope,
            rung: options.rung,
            keep: options.keep.clone(),
            ..recording::Options::default()
        };
        let recording = Recording::attach(targets, None, &common, |_| sink)?;
        Ok(Self { recording, options })
    }

    /// When the recording began, in nanoseconds of CLOCK_MONOTONIC.
    pub const fn start_ns(&self) -> u64 {
        self.recording.start_ns()
    }

    /// A pidfd: it polls readable when the watched process, the first where there are several, has ended.
    pub fn process(&self) -> BorrowedFd<'_> {
        self.recording.targets()[0].process()
    }

    /// The watched processes.
    pub fn targets(&self) -> &[Target] {
        self.recording.targets()
    }

    /// Ends the recording, and reports on all of it.
    ///
    /// # Errors
    /// [`FinishError::Drain`] where the recording had ended by itself.
    pub fn finish(self) -> Result<OffCpu, FinishError> {
        self.finish_counted().map(|(report, _)| report)
    }

    /// As [`Session::finish`], with how many records there were.
    ///
    /// # Errors
    /// As [`Session::finish`].
    pub fn finish_counted(mut self) -> Result<(OffCpu, RecordCount), FinishError> {
        let gathered = self.recording.finish()?;
        let windows = Windows::new(&[(self.start_ns(), gathered.end_ns)])?;
        let count = RecordCount { attempted: gathered.attempted, received: gathered.received };
        Ok((self.report(gathered, &windows), count))
    }

    /// Ends the recording, and reports on these windows of it only: (start, end) pairs in nanoseconds of
    /// CLOCK_MONOTONIC, in any order.
    ///
    /// # Errors
    /// [`FinishError::NotKept`] without [`Options::keep_intervals`]; [`FinishError::Windows`] where they
    /// are empty or overlap; [`FinishError::OutsideRecording`] where they reach beyond the recording.
    pub fn finish_in(mut self, windows: &[(u64, u64)]) -> Result<OffCpu, FinishError> {
        if !self.options.keep_intervals {
            return Err(FinishError::NotKept);
        }
        let windows = Windows::new(windows)?;
        let gathered = self.recording.finish()?;
        let (start_ns, end_ns) = windows.bounds();
        if start_ns < self.start_ns() || end_ns > gathered.end_ns {
            return Err(FinishError::OutsideRecording {
                start_ns,
                end_ns,
                recorded_start_ns: self.start_ns(),
                recorded_end_ns: gathered.end_ns,
            });
        }
        Ok(self.report(gathered, &windows))
    }

    fn report(self, mut gathered: Gathered<Sink>, windows: &Windows) -> OffCpu {
        let cost = self.recording.cost(&gathered);
        let mut facts = self.recording.facts();
        facts.warnings.extend(hidden_kernel_symbols());
        let symbolizer = Symbolizer::after_recording(std::mem::take(&mut gathered.user));
        OffCpu { cost, ..report(facts, gathered, windows, &self.options.filter, symbolizer) }
    }
}

/// Reports on a recording in a file, as [`Session::finish`] does on one that has just ended. Of a file that ends
/// inside a block, what is before it is read where `partial` says so.
///
/// # Errors
/// [`ReadError`] says what is wrong with the file, and where.
pub fn replay(file: impl Read, partial: bool, filter: &Filter) -> Result<OffCpu, ReadError> {
    let sink = |_: &Start| Sink::Totals(Totals::new(filter.clone()));
    let replayed = recfile::replay(file, partial, Needed::SWITCHES, sink)?;
    let (facts, gathered, symbolizer, _) = replayed.named();
    let window = Windows::whole(facts.start_ns, gathered.end_ns);
    Ok(report(facts, gathered, &window, filter, symbolizer))
}

fn report(
    facts: Facts,
    gathered: Gathered<Sink>,
    windows: &Windows,
    filter: &Filter,
    mut symbolizer: Symbolizer,
) -> OffCpu {
    let totals = match gathered.analysis {
        Sink::Totals(totals) => totals,
        Sink::Intervals(intervals) => {
            let mut totals = Totals::new(filter.clone());
            for interval in &intervals {
                windows.clip(interval, &mut |part| totals.add(&part));
            }
            totals
        }
    };
    let Facts { processes, attach, mut warnings, .. } = facts;
    warnings.extend(recording::no_room(&gathered.loss));
    warnings.extend(unpaired(&gathered.loss));
    warnings.extend(left_out(totals.left_out(), filter));
    let Tables { threads, stacks } = totals.tables(&gathered.notes, &mut symbolizer);
    warnings.extend(symbolizer.warning());
    let first = processes.first();
    OffCpu {
        schema: SCHEMA.to_owned(),
        pid: first.map_or(0, |process| process.pid),
        comm: first.map_or_else(String::new, |process| process.comm.clone()),
        processes,
        window_ns: windows.total_ns(),
        windows: windows.len() as u32,
        attach,
        loss: gathered.loss,
        warnings,
        threads,
        stacks,
        cost: None,
    }
}

/// Some hosts hide the switches of their own service threads from every tracer.
pub fn unpaired(loss: &BTreeMap<String, u64>) -> Option<String> {
    let count = loss.get("unpaired_switches").copied().filter(|count| *count > 0)?;
    Some(format!(
        "{count} switches went unreported by the kernel's own tracepoint: the waits around them are counted as \
         longer than they were, and marked as truncated"
    ))
}

fn left_out(count: u64, filter: &Filter) -> Option<String> {
    (count > 0).then(|| {
        format!("{count} off-CPU intervals {filter} are in the threads' sums and not among the stacks")
    })
}
