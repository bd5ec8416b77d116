//! Reads the ring buffer on a thread of its own, and drives the pure stages with what it finds.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use probes_common::{CALL_LANE, CpuCounters, Loss, SCHED_LANE};
use reports::offcpu::ProgramCost;

use crate::call::{self, CallRecord};
use crate::decode::{Decoded, Decoder, Event, Record};
use crate::error::AttachError;
use crate::gaps::{Gap, GapFinder};
use crate::interval::{Builder, Finished, Interval, Seed, ThreadNote};
use crate::load::{Probes, Watch};
use crate::order::Sorter;
use crate::proc;
use crate::unwind::ProcessStacks;

/// How long the ring buffer is left alone. It is read on a timer, so that no traced switch pays for waking
/// the reader. The records of a switch and its wake-up take about 500 bytes with their kernel stacks, so 8 MiB
/// hold 16,000 of them: 160 ms of 100,000 switches a second.
const PASS: Duration = Duration::from_millis(25);
/// How often, a millisecond apart, the last pass is repeated while a program may still be running.
const LAST_PASSES: u32 = 50;
/// How many passes apart what a process has mapped is looked at without need: for code that was loaded
/// while nothing slept in it.
const MAPS_PASSES: u64 = 80;

/// What is made of a recording while it goes on. Everything comes in the order of its time, an interval
/// when its end has come.
pub trait Analysis: fmt::Debug + Send + 'static {
    /// Takes what a thread did.
    fn interval(&mut self, interval: Interval);

    /// Takes a system call entered or left.
    fn call(&mut self, record: &CallRecord) {
        let _ = record;
    }

    /// Events were lost in this stretch of time; comes before what happened in it.
    fn lost(&mut self, gap: Gap) {
        let _ = gap;
    }
}

/// One record in the order of its time.
#[derive(Debug)]
enum Item {
    Switch(Record),
    Call(CallRecord),
}

/// What a recording came to.
#[derive(Debug)]
pub struct Gathered<A> {
    /// When the window closed, in nanoseconds of CLOCK_MONOTONIC.
    pub end_ns: u64,
    /// What was made of the intervals and calls.
    pub analysis: A,
    /// What is known of the threads beside them.
    pub notes: Vec<ThreadNote>,
    /// Events not recorded, by cause, zero or not.
    pub loss: BTreeMap<String, u64>,
    /// The user stacks that the intervals name.
    pub user: ProcessStacks,
    /// What each program cost; empty unless that was asked for.
    pub programs: Vec<ProgramCost>,
    /// Records received.
    pub received: u64,
    /// Records that the kernel side tried to write.
    pub attempted: u64,
}

/// How a recording begins.
#[derive(Debug)]
pub struct Opening {
    /// The processes that are watched.
    pub pids: Vec<u32>,
    /// Their user stacks.
    pub user: ProcessStacks,
    /// When the programs began to record.
    pub armed_ns: u64,
    /// When the window opened.
    pub start_ns: u64,
    /// What the threads did then.
    pub seeds: Vec<Seed>,
    /// How many CPUs each lane of counters has.
    pub cpus: u32,
}

/// A recording in progress.
#[derive(Debug)]
pub struct Drain<A> {
    probes: Probes,
    pids: Vec<u32>,
    user: ProcessStacks,
    passes: u64,
    decoder: Decoder,
    finder: GapFinder,
    sorter: Sorter<Item>,
    builder: Builder,
    analysis: A,
    cpus: u32,
    previous_pass_ns: u64,
    received: u64,
    undecodable: u64,
}

impl<A: Analysis> Drain<A> {
    /// Takes over armed `probes`.
    pub fn new(probes: Probes, opening: Opening, analysis: A) -> Self {
        let Opening { pids, user, armed_ns, start_ns, seeds, cpus } = opening;
        Self {
            probes,
            pids,
            user,
            passes: 0,
            decoder: Decoder::default(),
            finder: GapFinder::new(armed_ns),
            sorter: Sorter::default(),
            builder: Builder::new(start_ns, seeds),
            analysis,
            cpus,
            previous_pass_ns: armed_ns,
            received: 0,
            undecodable: 0,
        }
    }

    /// Reads until `stop` is told to, or hung up.
    pub fn run(mut self, stop: &Receiver<()>) -> Result<Gathered<A>, AttachError> {
        while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(PASS) {
            let watermark_ns = self.previous_pass_ns;
            self.pass()?;
            // What was stamped before the previous pass began has long been written: programs run for
            // microseconds. And no gap found from now on can reach back beyond it.
            self.release(watermark_ns);
            self.look_at_maps()?;
        }
        self.finish()
    }

    fn pass(&mut self) -> Result<Vec<CpuCounters>, AttachError> {
        let pass_ns = proc::monotonic_ns();
        let counters = self.probes.counters()?;
        let Self { probes, decoder, finder, sorter, user, received, undecodable, cpus, .. } = self;
        let lane = |lane: u32, cpu: u32| lane * *cpus + cpu;
        probes.drain(|bytes| {
            *received += 1;
            if call::is_call(bytes) {
                let Ok(record) = call::decode(bytes) else { return *undecodable += 1 };
                finder.note(lane(CALL_LANE, record.cpu), record.sequence, record.time_ns);
                return sorter.push(record.time_ns, Item::Call(record));
            }
            match decoder.decode(bytes) {
                Ok(Decoded::UserStack(sample)) => {
                    finder.note(lane(sample.lane, sample.cpu), sample.sequence, sample.time_ns);
                    user.take(&sample);
                }
                Ok(Decoded::Event(record)) => {
                    finder.note(lane(SCHED_LANE, record.cpu), record.sequence, record.time_ns);
                    sorter.push(record.time_ns, Item::Switch(record));
                }
                Err(_) => *undecodable += 1,
            }
        });
        for gap in self.finder.end_pass(pass_ns, proc::monotonic_ns(), &counters) {
            self.builder.lost(gap);
            self.analysis.lost(gap);
        }
        self.previous_pass_ns = pass_ns;
        self.passes += 1;
        Ok(counters)
    }

    /// Tells the kernel side where code lies, if that has changed.
    fn look_at_maps(&mut self) -> Result<(), AttachError> {
        if !self.user.refresh(self.passes.is_multiple_of(MAPS_PASSES)) {
            return Ok(());
        }
        let watch = |pid: &u32| Watch { pid: *pid, code: self.user.code_spans(*pid) };
        let watches: Vec<Watch> = self.pids.iter().map(watch).collect();
        self.probes.arm(&watches)
    }

    fn release(&mut self, before_ns: u64) {
        while let Some(item) = self.sorter.pop_before(before_ns) {
            match item {
                Item::Switch(mut record) => {
                    if let Event::SwitchOut { user: Some(user), .. } = &mut record.event {
                        *user = self.user.canonical(record.tgid, *user);
                    }
                    self.builder.record(&record, &mut |interval| self.analysis.interval(interval));
                }
                Item::Call(record) => self.analysis.call(&record),
            }
        }
    }

    fn finish(mut self) -> Result<Gathered<A>, AttachError> {
        let end_ns = proc::monotonic_ns();
        let ran_ns = self.pids.iter().flat_map(|pid| proc::ran_ns(*pid)).collect();
        self.probes.disarm()?;
        let counters = self.last_passes()?;
        self.release(end_ns + 1);
        self.user.refresh(true);
        let mut loss = self.loss(&counters);
        let mut analysis = self.analysis;
        let Finished { notes, unpaired } =
            self.builder.finish(end_ns, &ran_ns, &mut |interval| analysis.interval(interval));
        loss.insert("unpaired_switches".to_owned(), unpaired);
        let attempted = counters.iter().map(|cpu| cpu.attempted).sum();
        let programs = self.probes.costs();
        let (user, received) = (self.user, self.received);
        Ok(Gathered { end_ns, analysis, notes, loss, user, programs, received, attempted })
    }

    /// Reads until every record that a program set out to write has come, or was counted as lost.
    fn last_passes(&mut self) -> Result<Vec<CpuCounters>, AttachError> {
        let mut counters = self.pass()?;
        for _ in 0..LAST_PASSES {
            if unaccounted(&counters, self.received) == 0 {
                break;
            }
            thread::sleep(Duration::from_millis(1));
            counters = self.pass()?;
        }
        Ok(counters)
    }

    fn loss(&self, counters: &[CpuCounters]) -> BTreeMap<String, u64> {
        let mut loss: BTreeMap<String, u64> = Loss::ALL
            .iter()
            .map(|cause| {
                (cause.name().to_owned(), counters.iter().map(|cpu| cpu.lost[*cause as usize]).sum())
            })
            .collect();
        let ours = [
            ("recursion_misses", self.probes.recursion_misses().unwrap_or(0)),
            ("undecodable", self.undecodable),
            ("user_stack_unkept", self.user.unkept()),
            ("out_of_order", self.sorter.late()),
            ("unaccounted", unaccounted(counters, self.received)),
        ];
        loss.extend(ours.map(|(cause, count)| (cause.to_owned(), count)));
        loss
    }
}

/// Records that were begun, and neither came nor were counted as lost.
fn unaccounted(counters: &[CpuCounters], received: u64) -> u64 {
    let expected: u64 = counters.iter().map(|cpu| cpu.attempted - cpu.lost[Loss::RingFull as usize]).sum();
    expected.saturating_sub(received)
}
