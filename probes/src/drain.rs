//! Reads the ring buffer on a thread of its own, and drives the pure stages with what it finds.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use probes_common::{CpuCounters, Loss};
use reports::offcpu::ProgramCost;

use crate::aggregate::Totals;
use crate::decode::{Decoded, Decoder, Event, Record};
use crate::error::AttachError;
use crate::gaps::GapFinder;
use crate::interval::{Builder, Finished, Interval, Seed, ThreadNote};
use crate::load::{Probes, Target};
use crate::order::Sorter;
use crate::proc;
use crate::unwind::UserStacks;

/// How long the ring buffer is left alone. It is read on a timer, so that no traced switch pays for waking
/// the reader; 8 MiB hold a tenth of a second of 100,000 switches a second with their wake-ups.
const PASS: Duration = Duration::from_millis(25);
/// How often, a millisecond apart, the last pass is repeated while a program may still be running.
const LAST_PASSES: u32 = 50;
/// How many passes apart what a process has mapped is looked at without need: for code that was loaded
/// while nothing slept in it.
const MAPS_PASSES: u64 = 80;

/// What becomes of intervals.
#[derive(Debug)]
pub enum Sink {
    /// They are summed at once.
    Totals(Totals),
    /// They are kept, to be cut to windows known later.
    Intervals(Vec<Interval>),
}

impl Sink {
    fn take(&mut self, interval: Interval) {
        match self {
            Self::Totals(totals) => totals.add(&interval),
            Self::Intervals(intervals) => intervals.push(interval),
        }
    }
}

/// What a recording came to.
#[derive(Debug)]
pub struct Gathered {
    /// When the window closed, in nanoseconds of CLOCK_MONOTONIC.
    pub end_ns: u64,
    /// The intervals, or their sums.
    pub sink: Sink,
    /// What is known of the threads beside them.
    pub notes: Vec<ThreadNote>,
    /// Events not recorded, by cause, zero or not.
    pub loss: BTreeMap<String, u64>,
    /// The user stacks that the intervals name.
    pub user: UserStacks,
    /// What each program cost; empty unless that was asked for.
    pub programs: Vec<ProgramCost>,
    /// Records received.
    pub received: u64,
    /// Records that the kernel side tried to write.
    pub attempted: u64,
}

/// A recording in progress.
#[derive(Debug)]
pub struct Drain {
    probes: Probes,
    pid: u32,
    user: UserStacks,
    passes: u64,
    decoder: Decoder,
    finder: GapFinder,
    sorter: Sorter<Record>,
    builder: Builder,
    sink: Sink,
    previous_pass_ns: u64,
    received: u64,
    undecodable: u64,
}

impl Drain {
    /// Takes over armed `probes`, in a window that opened at `start_ns`.
    pub fn new(
        probes: Probes,
        (pid, user): (u32, UserStacks),
        armed_ns: u64,
        start_ns: u64,
        seeds: Vec<Seed>,
        sink: Sink,
    ) -> Self {
        Self {
            probes,
            pid,
            user,
            passes: 0,
            decoder: Decoder::default(),
            finder: GapFinder::new(armed_ns),
            sorter: Sorter::default(),
            builder: Builder::new(start_ns, seeds),
            sink,
            previous_pass_ns: armed_ns,
            received: 0,
            undecodable: 0,
        }
    }

    /// Reads until `stop` is told to, or hung up.
    pub fn run(mut self, stop: &Receiver<()>) -> Result<Gathered, AttachError> {
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
        let Self { probes, decoder, finder, sorter, user, received, undecodable, .. } = self;
        probes.drain(|bytes| {
            *received += 1;
            match decoder.decode(bytes) {
                Ok(Decoded::UserStack(sample)) => {
                    finder.note(sample.cpu, sample.sequence, sample.time_ns);
                    user.take(&sample);
                }
                Ok(Decoded::Event(record)) => {
                    finder.note(record.cpu, record.sequence, record.time_ns);
                    sorter.push(record.time_ns, record);
                }
                Err(_) => *undecodable += 1,
            }
        });
        for gap in self.finder.end_pass(pass_ns, proc::monotonic_ns(), &counters) {
            self.builder.lost(gap);
        }
        self.previous_pass_ns = pass_ns;
        self.passes += 1;
        Ok(counters)
    }

    /// Tells the kernel side where code lies, if that has changed.
    fn look_at_maps(&mut self) -> Result<(), AttachError> {
        match self.user.refresh(self.passes.is_multiple_of(MAPS_PASSES)) {
            Some(code) => self.probes.arm(&[Target { pid: self.pid, code }]),
            None => Ok(()),
        }
    }

    fn release(&mut self, before_ns: u64) {
        while let Some(mut record) = self.sorter.pop_before(before_ns) {
            if let Event::SwitchOut { user: Some(user), .. } = &mut record.event {
                *user = self.user.canonical(*user);
            }
            self.builder.record(&record, &mut |interval| self.sink.take(interval));
        }
    }

    fn finish(mut self) -> Result<Gathered, AttachError> {
        let end_ns = proc::monotonic_ns();
        let ran_ns = proc::ran_ns(self.pid);
        self.probes.disarm()?;
        let counters = self.last_passes()?;
        self.release(end_ns + 1);
        self.user.refresh(true);
        let mut loss = self.loss(&counters);
        let mut sink = self.sink;
        let Finished { notes, unpaired } =
            self.builder.finish(end_ns, &ran_ns, &mut |interval| sink.take(interval));
        loss.insert("unpaired_switches".to_owned(), unpaired);
        let attempted = counters.iter().map(|cpu| cpu.attempted).sum();
        let programs = self.probes.costs();
        let (user, received) = (self.user, self.received);
        Ok(Gathered { end_ns, sink, notes, loss, user, programs, received, attempted })
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
