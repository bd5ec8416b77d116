//! The attached programs, and the window that they record, if any.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use probes_common::{Bound, CODE_SPANS, CodeSpan, CpuCounters, Dirtied, Dirtier, Head, Loss};

use super::capture::Capture;
use super::quota::Quotas;
use super::readings::Reading;
use super::{ExplainError, Options, SAMPLE_PERIOD_NS};
use crate::decode::{Decoded, Decoder, Mark, UserSide};
use crate::error::AttachError;
use crate::interval::Seed;
use crate::load::{Clock, Group, Plan, Probes, Scope, SwitchRung, Watch};
use crate::proc;

/// How long the ring buffer is left alone while a window is open.
pub const PASS: Duration = Duration::from_millis(25);
/// How often, a millisecond apart, the last look is repeated while a program may still be running.
const LAST_PASSES: u32 = 20;

/// Everything that a window needs, behind one lock.
#[derive(Debug)]
pub struct State {
    pub(super) probes: Probes,
    pub(super) clock: Clock,
    watched: Vec<(u32, [CodeSpan; CODE_SPANS])>,
    window: Option<Opened>,
    /// Entries and returns of the function that bounds windows, whichever thread it was that read them.
    marks: Vec<Mark>,
    limit: usize,
    cpus: u32,
    ended: bool,
}

/// A window that is being recorded, and what counted as it began.
#[derive(Debug)]
struct Opened {
    capture: Capture,
    recursion_misses: u64,
    dirtied: Vec<(Dirtier, Dirtied)>,
}

impl State {
    /// Attaches; nothing is recorded yet.
    pub fn attach(options: &Options) -> Result<Self, AttachError> {
        if options.rung == Some(SwitchRung::Tracepoint) {
            return Err(AttachError::MachineByTracepoint);
        }
        let Options { rung, ring_bytes, log_bpf, .. } = *options;
        let mut plan = Plan { rung, log_bpf, ..Plan::new(ring_bytes, None) };
        plan = plan.with(&[Group::Block, Group::Journal, Group::Dirty]);
        let mut probes = Probes::attach(&plan)?;
        probes.count_runs()?;
        let clock = probes.clock(SAMPLE_PERIOD_NS)?;
        let cpus = probes.cpus();
        let (watched, marks, limit) = (Vec::new(), Vec::new(), options.window_bytes);
        Ok(Self { probes, clock, watched, window: None, marks, limit, cpus, ended: false })
    }

    /// Says whose user stacks are recorded.
    pub fn watch(&mut self, spans: &[(u32, [CodeSpan; CODE_SPANS])]) -> Result<(), AttachError> {
        let watches: Vec<Watch> = spans.iter().map(|(pid, code)| Watch { pid: *pid, code: *code }).collect();
        self.probes.switch().watch(&watches)?;
        self.watched = spans.to_vec();
        Ok(())
    }

    /// Whether these are the processes that are watched.
    pub fn watches(&self, pids: &[u32]) -> bool {
        self.watched.iter().map(|(pid, _)| pid).eq(pids)
    }

    /// Records from now on.
    pub fn open(&mut self, pids: &[u32]) -> Result<(), ExplainError> {
        if self.window.is_some() {
            return Err(ExplainError::Busy);
        }
        self.begin(pids)?;
        self.clock.start()?;
        self.probes.switch().on(Scope::Machine)?;
        Ok(())
    }

    /// Gets ready to take a window's records, which are about to come.
    pub fn begin(&mut self, pids: &[u32]) -> Result<(), AttachError> {
        let mut capture = Capture::new(self.limit);
        capture.pids = pids.to_vec();
        capture.cpus = self.cpus;
        capture.quotas = Quotas::of(pids);
        capture.counters_before = self.probes.counters();
        let recursion_misses = self.probes.recursion_misses().unwrap_or(0);
        let dirtied = self.probes.dirtied();
        self.window = Some(Opened { capture, recursion_misses, dirtied });
        self.look_at_counters();
        if let Some(opened) = &mut self.window {
            opened.capture.start_ns = proc::monotonic_ns();
        }
        Ok(())
    }

    /// Reads what has come, and the counters that go on beside it.
    pub fn pass(&mut self) {
        // Before the records: a window whose opening is among those that are not read yet is later than this.
        self.look_at_counters();
        self.drain();
    }

    /// Forgets what the counters were before: no window is open, or waits to be handed out.
    pub fn forget_readings(&mut self) {
        if let Some(opened) = &mut self.window {
            opened.capture.readings.keep_last();
        }
    }

    /// Records of any kind that the ring buffer has had no room for, so far.
    pub fn ring_losses(&self) -> u64 {
        self.probes.counters().iter().map(|cpu| cpu.lost[Loss::RingFull as usize]).sum()
    }

    fn look_at_counters(&mut self) {
        let (time_ns, run_ns) = (proc::monotonic_ns(), self.run_ns());
        if let Some(Opened { capture, .. }) = &mut self.window {
            let throttled_ns = capture.quotas.read();
            capture.readings.push(Reading { time_ns, run_ns, throttled_ns });
        }
    }

    fn drain(&mut self) {
        let Self { probes, window, marks, .. } = self;
        probes.drain(|record| {
            marks.extend(mark(record));
            if let Some(opened) = window {
                opened.capture.push(record);
            }
        });
    }

    /// The entries and returns that have been read since this was last asked, in their order.
    pub fn take_marks(&mut self) -> Vec<Mark> {
        std::mem::take(&mut self.marks)
    }

    /// Records no more, and hands out what came.
    pub fn close(&mut self) -> Result<Capture, AttachError> {
        let stopped = self.clock.stop();
        let capture = self.finish()?;
        stopped.map(|()| capture)
    }

    /// The same, with the clock left as it is.
    pub fn finish(&mut self) -> Result<Capture, AttachError> {
        // While everything is still recorded: a thread without an event until now did the same all the time.
        let seeds = self.window.as_ref().map(|opened| seeds(&opened.capture.pids)).unwrap_or_default();
        self.probes.switch().off()?;
        let end_ns = proc::monotonic_ns();
        self.pass();
        for _ in 0..LAST_PASSES {
            if !self.is_behind()? {
                break;
            }
            thread::sleep(Duration::from_millis(1));
            self.drain();
        }
        let Some(mut opened) = self.window.take() else { return Err(AttachError::Missing("window")) };
        let capture = &mut opened.capture;
        capture.end_ns = end_ns;
        capture.seeds = seeds;
        capture.counters_after = self.probes.counters();
        let misses = self.probes.recursion_misses().unwrap_or(0);
        capture.recursion_misses = misses.saturating_sub(opened.recursion_misses);
        capture.dirtied = grown(&opened.dirtied, self.probes.dirtied());
        capture.attach = self.probes.hooks();
        Ok(opened.capture)
    }

    /// Whether a program that set out to write a record may not have written it yet.
    fn is_behind(&self) -> Result<bool, AttachError> {
        let Some(opened) = &self.window else { return Ok(false) };
        // Records without a number, as entries and returns are, can be lost too: then fewer are expected than come.
        let written = |counters: &[CpuCounters]| -> i128 {
            let written =
                |cpu: &CpuCounters| i128::from(cpu.attempted) - i128::from(cpu.lost[Loss::RingFull as usize]);
            counters.iter().map(written).sum()
        };
        let expected = written(&self.probes.counters()) - written(&opened.capture.counters_before);
        Ok(i128::from(opened.capture.received) < expected)
    }

    fn run_ns(&self) -> u64 {
        self.probes.costs().iter().map(|program| program.run_ns).sum()
    }

    /// Has the programs leave out this process's threads, also where a program arms them.
    pub fn mark_tracer(&self) -> Result<(), AttachError> {
        self.probes.switch().on(Scope::Machine)?;
        self.probes.switch().off()
    }

    /// Records on: a window is open.
    pub fn rearm(&self) -> Result<(), AttachError> {
        self.probes.switch().on(Scope::Machine)
    }

    /// Has the reader's thread end.
    pub const fn end(&mut self) {
        self.ended = true;
    }

    /// Whether a window is open.
    pub const fn is_open(&self) -> bool {
        self.window.is_some()
    }
}

/// Reads on a timer while a window is open, so that the ring buffer does not fill; sleeps between windows. A window that
/// is shorter than the timer is read when it is closed: the thread that it is about is not disturbed by its reader.
pub fn read_while_armed(state: &Mutex<State>, changed: &Condvar) {
    let mut held: MutexGuard<'_, State> = state.lock().unwrap_or_else(PoisonError::into_inner);
    while !held.ended {
        held = if held.is_open() {
            let (mut held, waited) = changed.wait_timeout(held, PASS).unwrap_or_else(PoisonError::into_inner);
            if waited.timed_out() {
                held.pass();
            }
            held
        } else {
            changed.wait(held).unwrap_or_else(PoisonError::into_inner)
        };
    }
}

/// What the threads of these processes do. User stacks are left out: what unwinds them may be busy.
fn seeds(pids: &[u32]) -> Vec<Seed> {
    let mut instruction = |_, ip, _: crate::unwind::Stack<'_>| UserSide { ip, stack: None };
    pids.iter().flat_map(|pid| proc::seeds(*pid, &mut instruction).unwrap_or_default()).collect()
}

fn mark(record: &[u8]) -> Option<Mark> {
    // Most records are no marks: whole stacks need not be read to see that.
    if record.len() != size_of::<Head>() + size_of::<Bound>() {
        return None;
    }
    match Decoder::default().decode(record) {
        Ok(Decoded::Window(mark)) => Some(mark),
        _ => None,
    }
}

/// By how much the counts have grown: they go on from window to window.
fn grown(before: &[(Dirtier, Dirtied)], after: Vec<(Dirtier, Dirtied)>) -> Vec<(Dirtier, Dirtied)> {
    let key = |dirtier: &Dirtier| (dirtier.inode, dirtier.device, dirtier.tgid);
    let known: HashMap<_, u64> =
        before.iter().map(|(dirtier, dirtied)| (key(dirtier), dirtied.pages)).collect();
    let grow = |(dirtier, dirtied): (Dirtier, Dirtied)| {
        let pages = dirtied.pages.saturating_sub(known.get(&key(&dirtier)).copied().unwrap_or(0));
        (dirtier, Dirtied { pages, ..dirtied })
    };
    after.into_iter().map(grow).filter(|(_, dirtied)| dirtied.pages > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_that_went_on_from_an_earlier_window_are_told_by_their_growth() {
        let count = |inode, pages| (Dirtier { inode, device: 1, tgid: 2 }, Dirtied { pages, comm: [0; 16] });
        let told = grown(&[count(5, 10), count(6, 3)], vec![count(5, 12), count(6, 3), count(7, 1)]);
        assert_eq!(told, [count(5, 2), count(7, 1)]);
    }
}
