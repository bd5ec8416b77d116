//! A recording of processes, from attach to what was gathered: the part that every report shares.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use probes_common::{CallFilter, Loss, Throttle};
use reports::cost::Cost;
use reports::process::Process;

use crate::call::SeedCall;
use crate::drain::Drain;
use crate::error::{AttachError, FinishError, KERNEL_BTF};
use crate::interval::{Seed, SeedState};
pub use crate::load::{Group, Ladder, Plan, Refused, RefusedRung, Rung, Scope, SwitchRung};
use crate::load::{Probes, Watch};
use crate::pipeline::{Analysis, Consumer, Gathered, Opening, Pipeline};
use crate::proc;
use crate::recfile::{
    Counted, Kept, OpeningFacts, RecordedDevices, SeedCallFact, SeedFact, Tape, ThrottleFact, Writer,
    Written, loss_causes,
};
use crate::target::{Target, gone_or};
use crate::unwind::ProcessStacks;
use crate::wbt;

/// How to record.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the ring buffer in bytes: a power of two, and a multiple of the page size.
    pub ring_bytes: u32,
    /// Report what the recording cost. While it lasts, the kernel times every BPF program on the host.
    pub stats: bool,
    /// Hand what the programs say of themselves to the logger of the `log` crate.
    pub log_bpf: bool,
    /// Allow one of the watched processes to be the one that records.
    pub watch_self: bool,
    /// Whose switches and wake-ups are recorded.
    pub scope: Scope,
    /// The only way of seeing switches that will do; the first that the kernel takes where there is none.
    pub rung: Option<SwitchRung>,
    /// Where the kernel's type information is.
    pub btf: PathBuf,
    /// Write what is recorded to this empty file as well, for [`crate::recfile`].
    pub keep: Option<Arc<File>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ring_bytes: 8 << 20,
            stats: false,
            log_bpf: false,
            watch_self: false,
            scope: Scope::Targets,
            rung: None,
            btf: KERNEL_BTF.into(),
            keep: None,
        }
    }
}

/// What is known as a recording begins, for the analysis that is to follow it.
#[derive(Debug)]
pub struct Start {
    /// When the window opened, in nanoseconds of CLOCK_MONOTONIC.
    pub start_ns: u64,
    /// The system calls that threads were in; empty where no calls are recorded.
    pub calls: Vec<SeedCall>,
    /// What the events come from, as `kind/name`.
    pub hooks: Vec<String>,
    /// Where the functions lie that hold writers back; empty where nothing of them is recorded.
    pub throttles: Vec<(Throttle, Range<u64>)>,
}

/// What every report begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The watched processes.
    pub processes: Vec<Process>,
    /// When the window opened, in nanoseconds of CLOCK_MONOTONIC.
    pub start_ns: u64,
    /// Where the switches come from; empty where there are none.
    pub attach: String,
    /// What all events come from, as `kind/name`.
    pub hooks: Vec<String>,
    /// What the kernel refused of what was asked for, and was done without.
    pub refused: Vec<Refused>,
    /// The kernel's tick.
    pub tick_ns: u64,
    /// What was amiss.
    pub warnings: Vec<String>,
    /// That the file ends early which it was read from; among the warnings as well.
    pub cut_off: Option<String>,
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
    stats: bool,
    warnings: Vec<String>,
    ladder: Option<Ladder>,
    hooks: Vec<String>,
    refused: Vec<Refused>,
    /// `None` once it is finished: dropping the sender tells the reader to end.
    reader: Option<Reader<Made<A>>>,
    /// What became of [`Options::keep`].
    written: Option<io::Result<Written>>,
}

/// What was made of a recording, and of the file that it was written to.
type Made<A> = (Gathered<A>, Option<io::Result<Written>>);

/// The thread that reads the ring buffer.
#[derive(Debug)]
struct Reader<M> {
    stop: Sender<()>,
    thread: JoinHandle<Result<M, AttachError>>,
}

/// Programs that record, and what there was as they began.
struct Begun {
    begun_ns: u64,
    probes: Probes,
    pids: Vec<u32>,
    user: ProcessStacks,
    opening: Opening,
    start: Start,
    warnings: Vec<String>,
    ladder: Option<Ladder>,
    hooks: Vec<String>,
    refused: Vec<Refused>,
}

impl Begun {
    fn attach(targets: &[Target], plan: &Plan, options: &Options) -> Result<Self, AttachError> {
        let begun_ns = proc::monotonic_ns();
        let pids: Vec<u32> = targets.iter().map(Target::pid).collect();
        let Options { rung, btf, log_bpf, .. } = options.clone();
        let plan = &Plan { rung, btf, log_bpf, ..plan.clone() };
        let throttles =
            if plan.groups.contains(&Group::Wbt) { wbt::throttle_functions() } else { Vec::new() };
        let mut probes = Probes::attach(plan)?;
        let ladder = probes.ladder().cloned();
        let rung = ladder.as_ref().map(|ladder| ladder.rung);
        if (rung, options.scope) == (Some(SwitchRung::Tracepoint), Scope::Machine) {
            return Err(AttachError::MachineByTracepoint);
        }
        let (hooks, refused) = (probes.hooks(), probes.refused().to_vec());
        if options.stats {
            probes.count_runs()?;
        }
        let (mut user, mut warnings) = ProcessStacks::of(&pids);
        let watches: Vec<Watch> =
            pids.iter().map(|pid| Watch { pid: *pid, code: user.code_spans(*pid) }).collect();
        probes.switch().watch(&watches)?;
        for pid in &pids {
            let threads = proc::thread_starts(*pid);
            let threads = threads.map_err(|error| gone_or(*pid, "listing its threads", error))?;
            probes.enter_threads(&threads)?;
        }
        probes.forget_misses();
        let armed_ns = proc::monotonic_ns();
        probes.switch().on(options.scope)?;
        let start_ns = proc::monotonic_ns();
        let mut seeds = Vec::new();
        let mut start = Start { start_ns, calls: Vec::new(), hooks: hooks.clone(), throttles };
        let registers = probes.sleepers();
        for pid in &pids {
            let stacks = user.process(*pid);
            let of_one =
                proc::seeds(*pid, &mut |tid, ip, stack| stacks.add_sleeper(ip, registers.get(&tid), stack));
            seeds.extend(of_one.map_err(|error| gone_or(*pid, "listing its threads", error))?);
            if plan.groups.contains(&Group::Calls) {
                start.calls.extend(proc::calls(*pid));
            }
        }
        warnings.extend(warnings_at_start(&seeds));
        warnings.extend(rung.and_then(SwitchRung::caveat).map(str::to_owned));
        let cpus = probes.cpus();
        let opening = Opening { armed_ns, start_ns, seeds, cpus };
        Ok(Self { begun_ns, ladder, probes, pids, user, opening, start, warnings, hooks, refused })
    }

    fn facts(&self, targets: &[Target], plan: &Plan) -> OpeningFacts {
        let Opening { armed_ns, start_ns, seeds, cpus } = &self.opening;
        OpeningFacts {
            written_by: concat!("forkd-probe ", env!("CARGO_PKG_VERSION")).to_owned(),
            host: proc::host(),
            processes: processes(targets),
            attach: hook(self.ladder.as_ref()),
            hooks: self.hooks.clone(),
            refused: self.refused.clone(),
            switches: plan.groups.contains(&Group::Sched),
            calls: plan.calls().into(),
            devices: RecordedDevices::of(&plan.groups),
            throttles: self.start.throttles.iter().map(ThrottleFact::from).collect(),
            loss_causes: loss_causes(),
            warnings: self.warnings.clone(),
            armed_ns: *armed_ns,
            start_ns: *start_ns,
            cpus: *cpus,
            seeds: seeds.iter().map(SeedFact::from).collect(),
            seed_calls: self.start.calls.iter().map(SeedCallFact::from).collect(),
        }
    }
}

impl Recording<()> {
    /// As [`Recording::attach_plan`], where nothing is to be made of the recording but the file [`Options::keep`].
    ///
    /// # Errors
    /// As [`Recording::attach`].
    pub fn record(targets: Vec<Target>, plan: &Plan, options: &Options) -> Result<Self, AttachError> {
        let begun = Begun::attach(&targets, plan, options)?;
        Self::spawn(begun, targets, plan, options, |_, _| Counted::default())
    }
}

impl<A: Send + 'static> Recording<A> {
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
    ) -> Result<Self, AttachError>
    where
        A: Analysis,
    {
        Self::attach_plan(targets, &Plan::new(options.ring_bytes, calls), options, analysis)
    }

    /// As [`Recording::attach`], with the programs of `plan`.
    ///
    /// # Errors
    /// As [`Recording::attach`].
    pub fn attach_plan(
        targets: Vec<Target>,
        plan: &Plan,
        options: &Options,
        analysis: impl FnOnce(&Start) -> A,
    ) -> Result<Self, AttachError>
    where
        A: Analysis,
    {
        let begun = Begun::attach(&targets, plan, options)?;
        let analysis = analysis(&begun.start);
        Self::spawn(begun, targets, plan, options, |opening, _| Pipeline::new(opening, analysis))
    }

    fn spawn<C: Consumer<Made = Gathered<A>>>(
        begun: Begun,
        targets: Vec<Target>,
        plan: &Plan,
        options: &Options,
        consumer: impl FnOnce(Opening, &Start) -> C + Send + 'static,
    ) -> Result<Self, AttachError> {
        let unwritable = |source| AttachError::System { what: "writing the recording".to_owned(), source };
        let file = options.keep.clone().map(Writer::new).transpose().map_err(unwritable)?;
        let kept = file.map(|file| (file, begun.facts(&targets, plan)));
        let Begun { begun_ns, ladder, probes, pids, user, opening, start, warnings, hooks, refused } = begun;
        let start_ns = start.start_ns;
        let reader = spawn(probes, pids, user, move |user| {
            let tape = kept.map(|(file, facts)| Tape::begin(file, facts, user));
            Kept { tape, rest: consumer(opening, &start) }
        })?;
        let attach_ns = proc::monotonic_ns() - begun_ns;
        Ok(Self {
            targets,
            start_ns,
            attach_ns,
            stats: options.stats,
            warnings,
            ladder,
            hooks,
            refused,
            reader: Some(reader),
            written: None,
        })
    }

    /// How the switches are seen; `None` where they are not.
    pub const fn ladder(&self) -> Option<&Ladder> {
        self.ladder.as_ref()
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

    /// What every report begins with; once it is finished, with everything that was amiss.
    pub fn facts(&self) -> Facts {
        Facts {
            processes: processes(&self.targets),
            start_ns: self.start_ns,
            attach: hook(self.ladder.as_ref()),
            hooks: self.hooks.clone(),
            refused: self.refused.clone(),
            tick_ns: proc::tick_ns(),
            warnings: self.warnings.clone(),
            cut_off: None,
        }
    }

    /// What it cost, where [`Options::stats`] asks for that; once it is finished, of what it came to.
    pub fn cost(&self, gathered: &Gathered<A>) -> Option<Cost> {
        let refused = self.ladder.iter().flat_map(|ladder| &ladder.refused);
        self.stats.then(|| Cost {
            attach_ns: self.attach_ns,
            peak_resident_bytes: proc::peak_resident_bytes(),
            records: gathered.received,
            user_stacks: gathered.user.count() as u64,
            programs: gathered.programs.clone(),
            refused: refused.map(ToString::to_string).collect(),
        })
    }

    /// Once it is finished: what became of [`Options::keep`].
    pub const fn written(&self) -> Option<&io::Result<Written>> {
        self.written.as_ref()
    }

    /// Once it is finished: why [`Options::keep`] holds less than everything, if it does.
    pub fn not_kept(&self) -> Option<String> {
        let error = self.written.as_ref()?.as_ref().err()?;
        Some(format!("the recording was not kept: writing it: {error}"))
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
            Ok(Ok((gathered, written))) => {
                self.written = written;
                let not_kept = self.not_kept();
                self.warnings.extend(not_kept);
                Ok(gathered)
            }
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

fn spawn<C: Consumer<Made: Send + 'static>>(
    probes: Probes,
    pids: Vec<u32>,
    user: ProcessStacks,
    consumer: impl FnOnce(&ProcessStacks) -> C + Send + 'static,
) -> Result<Reader<C::Made>, AttachError> {
    let (stop, told) = mpsc::channel();
    let thread = thread::Builder::new()
        .name("forkd-drain".to_owned())
        .spawn(move || {
            let consumer = consumer(&user);
            Drain::new(probes, pids, user, consumer).run(&told)
        })
        .map_err(|source| AttachError::System { what: "starting the reader's thread".to_owned(), source })?;
    Ok(Reader { stop, thread })
}

fn hook(ladder: Option<&Ladder>) -> String {
    ladder.map(|ladder| ladder.hook.clone()).unwrap_or_default()
}

/// Attaches what sees switches by `rung`, and takes it away again.
///
/// # Errors
/// [`AttachError`] says why this kernel refuses it.
pub fn try_rung(rung: SwitchRung) -> Result<Ladder, AttachError> {
    let plan = Plan { rung: Some(rung), groups: vec![Group::Sched], ..Plan::new(PAGE, None) };
    Probes::attach(&plan)?.ladder().cloned().ok_or(AttachError::Missing("sched_switch"))
}

/// The smallest ring buffer.
const PAGE: u32 = 4096;

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
