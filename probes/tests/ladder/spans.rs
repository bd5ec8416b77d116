//! Intervals to what two rungs can be compared by: stretches from one switch out to the next switch in.

use std::collections::BTreeMap;

use probes::interval::{Doing, Interval, KernelStack, Wait};
use probes::pipeline::Analysis;

/// One stretch off the CPU, from the switch out to the switch in.
#[derive(Clone, Debug)]
pub struct Span {
    pub start_ns: u64,
    pub end_ns: u64,
    /// The sleep that it began with, if it was one, and how long that was.
    pub asleep: Option<Wait>,
    pub asleep_ns: u64,
    pub preempted: bool,
    /// The two outermost kernel frames; empty where there is no stack.
    pub root: Vec<u64>,
}

/// Keeps every stretch, thread by thread.
#[derive(Debug, Default)]
pub struct Spans {
    pub by_tid: BTreeMap<u32, Vec<Span>>,
    /// Stretches that a loss may have touched.
    pub truncated: u64,
}

impl Analysis for Spans {
    fn interval(&mut self, interval: Interval) {
        self.truncated += u64::from(interval.truncated);
        let Doing::OffCpu(off) = &interval.doing else { return };
        let spans = self.by_tid.entry(interval.thread.tid).or_default();
        let is_asleep = !off.wait.is_runnable();
        if interval.left_cpu {
            let root = match &off.stack {
                KernelStack::Addresses(frames) => frames.iter().rev().take(2).copied().collect(),
                _ => Vec::new(),
            };
            spans.push(Span {
                start_ns: interval.start_ns,
                end_ns: interval.end_ns,
                asleep: is_asleep.then_some(off.wait),
                asleep_ns: if is_asleep { interval.length_ns() } else { 0 },
                preempted: off.wait == Wait::Preempted,
                root,
            });
        } else if let Some(last) = spans.last_mut().filter(|last| last.end_ns == interval.start_ns) {
            last.end_ns = interval.end_ns;
        }
    }
}
