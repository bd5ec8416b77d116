//! Samples of running threads, from attach to report.

mod pmu;
mod sampler;
mod tally;

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use reports::oncpu::{Event, OnCpu, SCHEMA};

pub use pmu::{DEVICES, Pmu, Source, core_pmus, parse_cpus};
pub use tally::{CpuTime, Sample, Tally, expected, is_blind};

use crate::error::{AttachError, FinishError};
use crate::proc::monotonic_ns;
use crate::recording;
use crate::symbolize::{Symbolizer, hidden_kernel_symbols};
use crate::target::Target;
use crate::unwind::ProcessStacks;
use sampler::{Sampling, cpu_times};

/// How long the samples are left alone: a ring has room for sixty samples with their stacks.
const PASS: Duration = Duration::from_millis(50);
/// How many passes apart the threads' CPU times are read: what a thread runs after that, and before it
/// ends, is not expected of it.
const TIMES_PASSES: u64 = 4;

/// Opens what a recording would sample by, and closes it again; tells why that is not cycles, if it is not.
///
/// # Errors
/// As [`Session::attach`].
pub fn try_to_open() -> Result<Option<String>, AttachError> {
    const FREQUENCY_HZ: u64 = 99;
    let sampling = Sampling::open(FREQUENCY_HZ)?;
    Ok(sampling.fallback.map(|why| format!("by a software clock: {why}")))
}

/// A recording by samples, which goes on until it is finished or dropped.
#[derive(Debug)]
pub struct Session {
    targets: Vec<Target>,
    frequency_hz: u64,
    reader: Option<Reader>,
}

#[derive(Debug)]
struct Reader {
    stop: Sender<()>,
    thread: JoinHandle<Result<Gathered, AttachError>>,
}

/// What the reader's thread works on.
struct Drain {
    pids: Vec<u32>,
    sampling: Sampling,
    user: ProcessStacks,
    tally: Tally,
    times: BTreeMap<u32, CpuTime>,
    warnings: Vec<String>,
    start_ns: u64,
}

/// What a recording came to.
#[derive(Debug)]
struct Gathered {
    window_ns: u64,
    events: Vec<Event>,
    lost: u64,
    undecodable: u64,
    user: ProcessStacks,
    tally: Tally,
    times: BTreeMap<u32, CpuTime>,
    warnings: Vec<String>,
}

impl Session {
    /// Samples `targets` `frequency_hz` times a second of CPU time, from when this returns.
    ///
    /// # Errors
    /// [`AttachError`] says what was refused, and what to do about it. Nothing is left open.
    pub fn attach(targets: Vec<Target>, frequency_hz: u64) -> Result<Self, AttachError> {
        let pids: Vec<u32> = targets.iter().map(Target::pid).collect();
        let mut sampling = Sampling::open(frequency_hz)?;
        let (user, mut warnings) = ProcessStacks::of(&pids);
        let fallback = |why: &String| {
            format!("sampled by a software clock, which interrupts that are off keep from seeing: {why}")
        };
        warnings.extend(sampling.fallback.as_ref().map(fallback));
        warnings.extend(hidden_kernel_symbols());
        let mut drain = Drain {
            times: BTreeMap::new(),
            tally: Tally::default(),
            start_ns: monotonic_ns(),
            pids,
            user,
            warnings,
            sampling: {
                sampling.enable()?;
                sampling
            },
        };
        drain.look_at_times(true);
        let (stop, told) = mpsc::channel();
        let thread =
            thread::Builder::new().name("forkd-drain".to_owned()).spawn(move || drain.run(&told)).map_err(
                |source| AttachError::System { what: "starting the reader's thread".to_owned(), source },
            )?;
        Ok(Self { targets, frequency_hz, reader: Some(Reader { stop, thread }) })
    }

    /// The watched processes.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Ends the recording, and reports on `tids`, or on every thread where that is empty.
    ///
    /// # Errors
    /// [`FinishError::Drain`] where the recording had ended by itself.
    pub fn finish(mut self, tids: &[u32]) -> Result<OnCpu, FinishError> {
        let Some(Reader { stop, thread }) = self.reader.take() else {
            return Err(FinishError::Drain("stopped before".into()));
        };
        drop(stop);
        let ended = thread.join().map_err(|_| FinishError::Drain("its thread panicked".into()))?;
        let gathered = ended.map_err(|error| FinishError::Drain(error.to_string()))?;
        let mut names = Symbolizer::after_recording(gathered.user);
        let (threads, stacks) = gathered.tally.tables(&gathered.times, self.frequency_hz, tids, &mut names);
        let mut warnings = gathered.warnings;
        warnings.extend(names.warning());
        let loss = [("lost_samples", gathered.lost), ("undecodable", gathered.undecodable)];
        Ok(OnCpu {
            schema: SCHEMA.to_owned(),
            processes: recording::processes(&self.targets),
            window_ns: gathered.window_ns,
            frequency_hz: self.frequency_hz,
            events: gathered.events,
            loss: loss.map(|(cause, count)| (cause.to_owned(), count)).into(),
            warnings,
            threads,
            stacks,
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(Reader { stop, thread }) = self.reader.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

impl Drain {
    fn run(mut self, stop: &Receiver<()>) -> Result<Gathered, AttachError> {
        for pass in 1_u64.. {
            if !matches!(stop.recv_timeout(PASS), Err(RecvTimeoutError::Timeout)) {
                break;
            }
            self.sampling.drain(&self.pids, &mut self.user, &mut self.tally);
            if pass.is_multiple_of(TIMES_PASSES) {
                self.look_at_times(false);
                self.user.refresh(false);
            }
        }
        self.look_at_times(false);
        let window_ns = monotonic_ns() - self.start_ns;
        self.sampling.disable()?;
        self.sampling.drain(&self.pids, &mut self.user, &mut self.tally);
        self.user.refresh(true);
        let event = |group: &sampler::Group| Event {
            name: group.name.clone(),
            cpus: group.cpus(),
            samples: group.samples,
        };
        Ok(Gathered {
            window_ns,
            events: self.sampling.groups.iter().map(event).collect(),
            lost: self.sampling.lost,
            undecodable: self.sampling.undecodable,
            user: self.user,
            tally: self.tally,
            times: self.times,
            warnings: self.warnings,
        })
    }

    /// Reads the threads' CPU times; `is_first` tells that the window has just opened.
    fn look_at_times(&mut self, is_first: bool) {
        for (tid, (pid, comm, ran_ns)) in cpu_times(&self.pids) {
            let first_ns = if is_first { ran_ns } else { 0 };
            let time = self.times.entry(tid).or_insert(CpuTime {
                pid,
                comm: String::new(),
                first_ns,
                last_ns: ran_ns,
            });
            time.comm = comm;
            time.last_ns = time.last_ns.max(ran_ns);
        }
    }
}
