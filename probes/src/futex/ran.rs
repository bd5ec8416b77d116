//! How long a thread ran in a stretch of time that ends while it runs.

use std::collections::{HashMap, VecDeque};

use crate::interval::{Doing, Interval};

/// Stretches kept of each thread. Where an older one matters, less is told than there was, never more.
const KEPT: usize = 4096;

/// When each thread did not run.
#[derive(Debug, Default)]
pub struct Ran(HashMap<u32, Thread>);

#[derive(Debug, Default)]
struct Thread {
    /// (start, end) in nanoseconds, in order.
    off: VecDeque<(u64, u64)>,
    /// Nothing is known of the time before.
    known_from_ns: u64,
}

impl Ran {
    /// Takes the next interval of a thread.
    pub fn interval(&mut self, interval: &Interval) {
        let thread = self
            .0
            .entry(interval.thread.tid)
            .or_insert_with(|| Thread { off: VecDeque::new(), known_from_ns: interval.start_ns });
        if interval.doing == Doing::OnCpu {
            return;
        }
        thread.off.push_back((interval.start_ns, interval.end_ns));
        if thread.off.len() > KEPT {
            thread.known_from_ns = thread.off.pop_front().map_or(0, |(_, end_ns)| end_ns);
        }
    }

    /// Time on a CPU from `start_ns` to `end_ns`, at which the thread was on one.
    pub fn between(&self, tid: u32, start_ns: u64, end_ns: u64) -> u64 {
        let Some(thread) = self.0.get(&tid) else { return 0 };
        let start_ns = start_ns.max(thread.known_from_ns);
        let first = thread.off.partition_point(|(_, end)| *end <= start_ns);
        let inside = thread.off.iter().skip(first).take_while(|(start, _)| *start < end_ns);
        let off_ns: u64 = inside.map(|(start, end)| end.min(&end_ns) - start.max(&start_ns)).sum();
        end_ns.saturating_sub(start_ns).saturating_sub(off_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::ThreadId;
    use crate::interval::{KernelStack, OffCpu, Wait};

    fn off(start_ns: u64, end_ns: u64) -> Interval {
        let doing = Doing::OffCpu(OffCpu {
            wait: Wait::Interruptible,
            stack: KernelStack::Missing,
            user: None,
            waker: None,
        });
        let thread = ThreadId { tid: 7, start_ns: 1 };
        Interval { thread, start_ns, end_ns, doing, left_cpu: true, truncated: false }
    }

    // known from 100: off 100-120, on, off 150-160, on
    #[test]
    fn what_is_not_off_the_cpu_is_on_it() {
        let mut ran = Ran::default();
        ran.interval(&off(100, 120));
        ran.interval(&off(150, 160));
        assert_eq!(ran.between(7, 100, 200), 70);
        assert_eq!(ran.between(7, 110, 155), 30);
        assert_eq!(ran.between(7, 50, 130), 10, "what came before is not known, and not counted");
        assert_eq!(ran.between(8, 100, 200), 0);
    }

    #[test]
    fn what_was_forgotten_is_not_counted() {
        let mut ran = Ran::default();
        for index in 0..=KEPT as u64 {
            ran.interval(&off(index * 10, index * 10 + 5));
        }
        assert_eq!(ran.between(7, 0, KEPT as u64 * 10 + 5), KEPT as u64 * 5);
    }
}
