//! Reads the ring buffer on a thread of its own, and hands on what it finds.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::decode;
use crate::error::AttachError;
use crate::load::{Probes, Watch};
use crate::pipeline::{Consumer, Ending, MapsAtEnd, Pass, unaccounted};
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

/// A recording in progress.
#[derive(Debug)]
pub struct Drain<C> {
    probes: Probes,
    pids: Vec<u32>,
    user: ProcessStacks,
    passes: u64,
    /// How long the next pass is waited for.
    rest: Duration,
    received: u64,
    consumer: C,
}

impl<C: Consumer> Drain<C> {
    /// Takes over `probes`, which are armed for `pids`, and the user stacks of these.
    pub const fn new(probes: Probes, pids: Vec<u32>, user: ProcessStacks, consumer: C) -> Self {
        Self { probes, pids, user, passes: 0, rest: PASS, received: 0, consumer }
    }

    /// Reads until `stop` is told to, or hung up.
    pub fn run(mut self, stop: &Receiver<()>) -> Result<C::Made, AttachError> {
        while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(self.rest) {
            self.pass()?;
            self.look_at_maps()?;
        }
        self.finish()
    }

    fn pass(&mut self) -> Result<Pass, AttachError> {
        let begun_ns = proc::monotonic_ns();
        let counters = self.probes.counters();
        let Self { probes, user, received, consumer, .. } = self;
        let is_empty = probes.drain(|bytes| {
            *received += 1;
            if let Some(sample) = decode::user_stack(bytes) {
                user.take(&sample);
            }
            consumer.record(bytes, user);
        });
        let pass = Pass { begun_ns, ended_ns: proc::monotonic_ns(), counters };
        self.consumer.end_pass(&pass, &self.user);
        self.passes += 1;
        self.rest = if is_empty { PASS } else { Duration::ZERO };
        Ok(pass)
    }

    /// Tells the kernel side where code lies, if that has changed.
    fn look_at_maps(&mut self) -> Result<(), AttachError> {
        if !self.user.refresh(self.passes.is_multiple_of(MAPS_PASSES)) {
            return Ok(());
        }
        let watch = |pid: &u32| Watch { pid: *pid, code: self.user.code_spans(*pid) };
        let watches: Vec<Watch> = self.pids.iter().map(watch).collect();
        self.probes.switch().watch(&watches)
    }

    fn finish(mut self) -> Result<C::Made, AttachError> {
        let end_ns = proc::monotonic_ns();
        let ran_ns = self.pids.iter().flat_map(|pid| proc::ran_ns(*pid)).collect();
        self.probes.switch().off()?;
        let counters = self.last_passes()?;
        self.user.refresh(true);
        let recursion_misses = self.probes.recursion_misses().unwrap_or(0);
        let programs = self.probes.costs();
        let unkept = self.user.unkept();
        let maps = MapsAtEnd { dirtied: self.probes.dirtied(), throttled: self.probes.throttled() };
        let ending = Ending { end_ns, ran_ns, counters, recursion_misses, unkept, programs, maps };
        // Detached before the report is made, which may take a while.
        drop(self.probes);
        Ok(self.consumer.finish(ending, self.user))
    }

    /// Reads until every record that a program set out to write has come, or was counted as lost.
    fn last_passes(&mut self) -> Result<Vec<probes_common::CpuCounters>, AttachError> {
        let mut last = self.pass()?;
        for _ in 0..LAST_PASSES {
            if unaccounted(&last.counters, self.received) == 0 {
                break;
            }
            thread::sleep(Duration::from_millis(1));
            last = self.pass()?;
        }
        Ok(last.counters)
    }
}
