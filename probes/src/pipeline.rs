//! What was read from the kernel side to an analysis: decoding, ordering and intervals, one after the other.
//!
//! Pure: no I/O, no clock. `drain` drives it while a recording goes on, and [`crate::recfile`] from a file, with
//! the same calls in the same order; so both give the same report.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use probes_common::{
    CALL_LANE, CpuCounters, Dirtied, Dirtier, Loss, SCHED_LANE, ThrottledSince, ThrottledThread,
};
use reports::cost::ProgramCost;

use crate::call::{self, CallRecord};
use crate::decode::{Decoded, Decoder, Event, Record};
use crate::device::{self, DeviceRecord};
use crate::gaps::{Gap, GapFinder};
use crate::interval::{Builder, Finished, Interval, Seed, ThreadNote};
use crate::order::Sorter;
use crate::same_thread::SameThread;
use crate::unwind::ProcessStacks;

/// What is made of a recording while it goes on. Everything comes in the order of its time, an interval
/// when its end has come.
pub trait Analysis: fmt::Debug + Send + 'static {
    /// Takes what a thread did.
    fn interval(&mut self, interval: Interval);

    /// Takes a system call entered or left.
    fn call(&mut self, record: &CallRecord) {
        let _ = record;
    }

    /// Takes an event on the way between a process and a disk.
    fn device(&mut self, record: &DeviceRecord) {
        let _ = record;
    }

    /// Events were lost in this stretch of time; comes before what happened in it.
    fn lost(&mut self, gap: Gap) {
        let _ = gap;
    }
}

/// Takes what is read from the kernel side: records, then the end of the pass that found them.
pub trait Consumer {
    /// What it comes to.
    type Made: Send + 'static;

    /// Takes one record, as the kernel side wrote it. A user stack is in `user` by then.
    fn record(&mut self, bytes: &[u8], user: &ProcessStacks);

    /// Takes the end of a pass.
    fn end_pass(&mut self, pass: &Pass, user: &ProcessStacks);

    /// Takes the end of the recording.
    fn finish(self, ending: Ending, user: ProcessStacks) -> Self::Made;
}

/// One look into the ring buffer, in which every record that was there was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// When it began, in nanoseconds of CLOCK_MONOTONIC.
    pub begun_ns: u64,
    /// When it ended.
    pub ended_ns: u64,
    /// Each CPU's counters, lane after lane, as they stood when it began.
    pub counters: Vec<CpuCounters>,
}

/// How a recording begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// When the programs began to record, in nanoseconds of CLOCK_MONOTONIC.
    pub armed_ns: u64,
    /// When the window opened.
    pub start_ns: u64,
    /// What the threads did then.
    pub seeds: Vec<Seed>,
    /// How many CPUs each lane of counters has.
    pub cpus: u32,
}

/// How a recording ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// When the window closed, in nanoseconds of CLOCK_MONOTONIC.
    pub end_ns: u64,
    /// The CPU time that the threads had had by then, by thread id.
    pub ran_ns: HashMap<u32, u64>,
    /// The counters after the last pass.
    pub counters: Vec<CpuCounters>,
    /// Events that found their program already running.
    pub recursion_misses: u64,
    /// User stacks for which there was no place left.
    pub unkept: u64,
    /// What each program cost; empty unless that was asked for.
    pub programs: Vec<ProgramCost>,
    /// What the kernel side kept beside the records.
    pub maps: MapsAtEnd,
}

/// What the kernel side counts in place of writing a record each, and what is under way at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapsAtEnd {
    /// Pages that became dirty, by file and process.
    pub dirtied: Vec<(Dirtier, Dirtied)>,
    /// Threads that are held back, and since when.
    pub throttled: Vec<(ThrottledThread, ThrottledSince)>,
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
    /// What the kernel side kept beside the records.
    pub maps: MapsAtEnd,
}

/// One record in the order of its time.
#[derive(Debug)]
enum Item {
    Switch(Record),
    Call(CallRecord),
    Device(DeviceRecord),
}

/// The stages between the ring buffer and an analysis.
#[derive(Debug)]
pub struct Pipeline<A> {
    decoder: Decoder,
    finder: GapFinder,
    sorter: Sorter<Item>,
    builder: Builder,
    same_thread: SameThread,
    analysis: A,
    cpus: u32,
    previous_pass_ns: u64,
    received: u64,
    undecodable: u64,
}

impl<A: Analysis> Pipeline<A> {
    /// For a recording that begins so.
    pub fn new(opening: Opening, analysis: A) -> Self {
        let Opening { armed_ns, start_ns, seeds, cpus } = opening;
        Self {
            decoder: Decoder::default(),
            finder: GapFinder::new(armed_ns),
            sorter: Sorter::default(),
            builder: Builder::new(start_ns, seeds),
            same_thread: SameThread::default(),
            analysis,
            cpus,
            previous_pass_ns: armed_ns,
            received: 0,
            undecodable: 0,
        }
    }

    fn note(&mut self, lane: u32, cpu: u32, sequence: u64, time_ns: u64) {
        if cpu < self.cpus {
            self.finder.note(lane * self.cpus + cpu, sequence, time_ns);
        }
    }

    fn release(&mut self, before_ns: u64, user: &ProcessStacks) {
        while let Some(item) = self.sorter.pop_before(before_ns) {
            match item {
                Item::Switch(mut record) => {
                    record.thread = self.same_thread.name(record.thread);
                    if let Event::SwitchOut { user: Some(side), .. }
                    | Event::SwitchBack { user: Some(side), .. } = &mut record.event
                    {
                        *side = user.canonical(record.tgid, *side);
                    }
                    self.builder.record(&record, &mut |interval| self.analysis.interval(interval));
                }
                Item::Call(mut record) => {
                    record.thread = self.same_thread.name(record.thread);
                    self.builder.saw(record.thread, record.tgid);
                    self.analysis.call(&record);
                }
                Item::Device(mut record) => {
                    record.thread = self.same_thread.name(record.thread);
                    self.analysis.device(&record);
                }
            }
        }
    }
}

impl<A: Analysis> Consumer for Pipeline<A> {
    type Made = Gathered<A>;

    fn record(&mut self, bytes: &[u8], _: &ProcessStacks) {
        self.received += 1;
        if device::is_device(bytes) {
            let Ok(record) = device::decode(bytes) else { return self.undecodable += 1 };
            // A hole in the numbers of this lane is no loss: a program that was interrupted may fill it yet. What
            // was lost is found by the counters, at the end of the pass.
            return self.sorter.push(record.time_ns, Item::Device(record));
        }
        if call::is_call(bytes) {
            let Ok(record) = call::decode(bytes) else { return self.undecodable += 1 };
            self.note(CALL_LANE, record.cpu, record.sequence, record.time_ns);
            return self.sorter.push(record.time_ns, Item::Call(record));
        }
        match self.decoder.decode(bytes) {
            Ok(Decoded::UserStack(sample)) => {
                self.note(sample.lane, sample.cpu, sample.sequence, sample.time_ns);
            }
            // Of windows, which have a reader of their own.
            Ok(Decoded::Sample(_) | Decoded::Window(_)) => {}
            Ok(Decoded::Event(record)) => {
                self.note(SCHED_LANE, record.cpu, record.sequence, record.time_ns);
                self.sorter.push(record.time_ns, Item::Switch(record));
            }
            Err(_) => self.undecodable += 1,
        }
    }

    fn end_pass(&mut self, pass: &Pass, user: &ProcessStacks) {
        for gap in self.finder.end_pass(pass.begun_ns, pass.ended_ns, &pass.counters) {
            self.builder.lost(gap);
            self.analysis.lost(gap);
        }
        // What was stamped before the previous pass began has long been written: programs run for
        // microseconds. And no gap found from now on can reach back beyond it.
        self.release(self.previous_pass_ns, user);
        self.previous_pass_ns = pass.begun_ns;
    }

    fn finish(mut self, ending: Ending, user: ProcessStacks) -> Gathered<A> {
        self.release(ending.end_ns + 1, &user);
        let mut loss = losses(&ending, self.received);
        loss.insert("undecodable".to_owned(), self.undecodable);
        loss.insert("out_of_order".to_owned(), self.sorter.late());
        let mut analysis = self.analysis;
        let Finished { notes, unpaired } =
            self.builder.finish(ending.end_ns, &ending.ran_ns, &mut |interval| analysis.interval(interval));
        loss.insert("unpaired_switches".to_owned(), unpaired);
        let attempted = total(ending.counters.iter().map(|cpu| cpu.attempted));
        let Ending { end_ns, programs, maps, .. } = ending;
        let received = self.received;
        Gathered { end_ns, analysis, notes, loss, user, programs, received, attempted, maps }
    }
}

/// Records that were begun, and neither came nor were counted as lost.
pub fn unaccounted(counters: &[CpuCounters], received: u64) -> u64 {
    let written = |cpu: &CpuCounters| cpu.attempted.saturating_sub(cpu.lost[Loss::RingFull as usize]);
    let expected = total(counters.iter().map(written));
    expected.saturating_sub(received)
}

/// Events not recorded, by cause, as far as the kernel side and the reader of its records can tell.
pub fn losses(ending: &Ending, received: u64) -> BTreeMap<String, u64> {
    let lost = |cause: Loss| total(ending.counters.iter().map(|cpu| cpu.lost[cause as usize]));
    let mut loss: BTreeMap<String, u64> =
        Loss::ALL.iter().map(|cause| (cause.name().to_owned(), lost(*cause))).collect();
    let ours = [
        ("recursion_misses", ending.recursion_misses),
        ("user_stack_unkept", ending.unkept),
        ("unaccounted", unaccounted(&ending.counters, received)),
    ];
    loss.extend(ours.map(|(cause, count)| (cause.to_owned(), count)));
    loss
}

/// Counts from a file may be anything.
pub fn total(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}
