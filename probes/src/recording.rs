//! A recording of processes, from attach to what was gathered: the part that every report shares.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use probes_common::{CallFilter, Loss};
use reports::process::Process;

use crate::call::SeedCall;
use crate::drain::Drain;
use crate::error::{AttachError, FinishError};
use crate::interval::{Seed, SeedState};
pub use crate::load::Scope;
use crate::load::{Plan, Probes, Watch};
use crate::pipeline::{Analysis, Consumer, Gathered, Opening, Pipeline};
use crate::proc;
use crate::target::{Target, gone_or};
use crate::unwind::ProcessStacks;

/// Where the switches come from, as reports name it.
pub const ATTACH: &str = "tp_btf/sched_switch";

/// How to record.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the ring buffer in bytes: a power of two, and a multiple of the page size.
    pub ring_bytes: u32,
    /// Report what the recording cost. While it lasts, the kernel times every BPF program on the host.
    pub stats: bool,
    /// Allow one of the watched processes to be the one that records.
    pub watch_self: bool,
    /// Whose switches and wake-ups are recorded.
    pub scope: Scope,
}

impl Default for Options {
    fn default() -> Self {
        Self { ring_bytes: 8 << 20, stats: false, watch_self: false, scope: Scope::Targets }
    }
}

/// What is known as a recording begins, for the analysis that is to follow it.
#[derive(Debug)]
pub struct Start {
    /// When the window opened, in nanoseconds of CLOCK_MONOTONIC.
    pub start_ns: u64,
    /// The system calls that threads were in; empty where no calls are recorded.
    pub calls: Vec<SeedCall>,
}

/// A recording, which goes on until it is finished or dropped.
///
/// A thread named `forkd-drain` reads the events; the caller need not do anything meanwhile, and may be
/// on any thread, with or without an async runtime. Dropping it detaches everything.
#[derive(Debug)]
pub struct Recording<A> {
    targets: Vec<Target>,
    start_ns: u64,
    attach_ns: u64,
    warnings: Vec<String>,
    /// `None` once it is finished: dropping the sender tells the reader to end.
    reader: Option<Reader<Gathered<A>>>,
}

/// The thread that reads the ring buffer.
#[derive(Debug)]
struct Reader<M> {
    stop: Sender<()>,
    thread: JoinHandle<Result<M, AttachError>>,
}

impl<A: Analysis> Recording<A> {
    /// Attaches, and records the threads of `targets` from when this returns (from
    /// [`Recording::start_ns`], to be exact), with the calls that `calls` lets through.
    ///
    /// # Errors
    /// [`AttachError`] says what was refused, and what to do about it. Nothing is left attached.
    pub fn attach(
        targets: Vec<Target>,
        calls: Option<CallFilter>,
        options: &Options,
        analysis: impl FnOnce(&Start) -> A,
    ) -> Result<Self, AttachError> {
        let begun_ns = proc::monotonic_ns();
        let pids: Vec<u32> = targets.iter().map(Target::pid).collect();
        let mut probes = Probes::attach(&Plan::new(options.ring_bytes, calls))?;
        if options.stats {
            probes.count_runs()?;
        }
        let (mut user, mut warnings) = ProcessStacks::of(&pids);
        let watches: Vec<Watch> =
            pids.iter().map(|pid| Watch { pid: *pid, code: user.code_spans(*pid) }).collect();
        probes.switch().watch(&watches)?;
        let armed_ns = proc::monotonic_ns();
        probes.switch().on(options.scope)?;
        let start_ns = proc::monotonic_ns();
        let mut seeds = Vec::new();
        let mut start = Start { start_ns, calls: Vec::new() };
        let registers = probes.sleepers();
        for pid in &pids {
            let stacks = user.process(*pid);
            let of_one =
                proc::seeds(*pid, &mut |tid, ip, stack| stacks.add_sleeper(ip, registers.get(&tid), stack));
            seeds.extend(of_one.map_err(|error| gone_or(*pid, "listing its threads", error))?);
            if calls.is_some() {
                start.calls.extend(proc::calls(*pid));
            }
        }
        warnings.extend(warnings_at_start(&seeds));
        let cpus = probes.cpus()?;
        let pipeline = Pipeline::new(Opening { armed_ns, start_ns, seeds, cpus }, analysis(&start));
        let reader = Some(spawn(Drain::new(probes, pids, user, pipeline))?);
        let attach_ns = proc::monotonic_ns() - begun_ns;
        Ok(Self { targets, start_ns, attach_ns, warnings, reader })
    }

    /// How long it took to attach, and to look at the threads that there were.
    pub const fn attach_ns(&self) -> u64 {
        self.attach_ns
    }

    /// When the recording began, in nanoseconds of CLOCK_MONOTONIC.
    pub const fn start_ns(&self) -> u64 {
        self.start_ns
    }

    /// The processes.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// What was amiss as the recording began.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Ends the recording.
    ///
    /// # Errors
    /// [`FinishError::Drain`] where the recording had ended by itself.
    pub fn finish(&mut self) -> Result<Gathered<A>, FinishError> {
        let Reader { stop, thread } =
            self.reader.take().ok_or_else(|| FinishError::Drain("stopped before".into()))?;
        drop(stop);
        match thread.join() {
            Ok(Ok(gathered)) => Ok(gathered),
            Ok(Err(error)) => Err(FinishError::Drain(error.to_string())),
            Err(_) => Err(FinishError::Drain("its thread panicked".into())),
        }
    }
}

impl<A> Drop for Recording<A> {
    fn drop(&mut self) {
        // Waits until the programs are detached: whoever drops a recording may rely on it.
        if let Some(Reader { stop, thread }) = self.reader.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

fn spawn<C: Consumer>(drain: Drain<C>) -> Result<Reader<C::Made>, AttachError> {
    let (stop, told) = mpsc::channel();
    let thread = thread::Builder::new()
        .name("forkd-drain".to_owned())
        .spawn(move || drain.run(&told))
        .map_err(|source| AttachError::System { what: "starting the reader's thread".to_owned(), source })?;
    Ok(Reader { stop, thread })
}

/// The watched processes, as reports name them.
pub fn processes(targets: &[Target]) -> Vec<Process> {
    let process = |target: &Target| Process {
        pid: target.pid(),
        comm: target.comm().to_owned(),
        start_ns: target.start_ns(),
    };
    targets.iter().map(process).collect()
}

/// What to do about events for which there was no room.
pub fn no_room(loss: &BTreeMap<String, u64>) -> Option<String> {
    let count = loss.get(Loss::RingFull.name()).copied().filter(|count| *count > 0)?;
    Some(format!("{count} events found the ring buffer full: give it more room with --ring-mib"))
}

fn warnings_at_start(seeds: &[Seed]) -> Vec<String> {
    let asleep = |seed: &&Seed| matches!(seed.state, SeedState::Waiting(_));
    let without_stack = seeds.iter().filter(asleep).filter(|seed| seed.kernel.is_none()).count();
    if without_stack == 0 {
        return Vec::new();
    }
    vec![format!(
        "{without_stack} of the threads asleep at the start show no kernel stack: /proc/PID/stack needs CAP_SYS_ADMIN"
    )]
}
