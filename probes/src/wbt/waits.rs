//! When threads were held back, out of what they did and of what the throttle's functions tell.
//!
//! Where the functions are probed, a wait is a call in which the thread left the CPU, from entry to exit. Where they
//! are not, it is the thread's time off the CPU on stacks that hold them, up to the request that it makes then: that
//! request tells the device.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use probes_common::{Throttle, ThrottledSince, ThrottledThread};
use reports::io::Times;

use crate::decode::{ThreadId, UserSide};
use crate::interval::{Doing, Interval, KernelStack};

/// Where the throttle's functions lie.
#[derive(Clone, Debug, Default)]
pub struct Frames(pub Vec<(Throttle, Range<u64>)>);

impl Frames {
    /// Which throttle a stack is in: writeback's own, where its function is on it.
    fn of(&self, stack: &KernelStack) -> Option<Throttle> {
        let found = |throttle: &Throttle| match stack {
            KernelStack::Addresses(frames) => {
                // A return address may lie one past its call's last byte.
                let mut ranges = self.0.iter().filter(|(of, _)| of == throttle).map(|(_, range)| range);
                ranges.any(|range| frames.iter().any(|frame| range.contains(&frame.wrapping_sub(1))))
            }
            KernelStack::Names(names) => names.iter().any(|name| is_function(name, throttle.function())),
            KernelStack::Missing => false,
        };
        Throttle::ALL.into_iter().find(found)
    }
}

/// Whether a symbol is a function, or what the compiler made of it (`name.isra.0`).
pub fn is_function(symbol: &str, function: &str) -> bool {
    symbol.strip_prefix(function).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Where a thread was as it waited.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// In the kernel.
    pub kernel: KernelStack,
    /// In user space.
    pub user: Option<UserSide>,
}

/// Waits of one thread for one device.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// The waits.
    pub times: Times,
    /// The part of them spent waiting for a CPU.
    pub run_queue_ns: u64,
    /// Calls that returned at once.
    pub let_through: u64,
    /// Clamped at the window's start.
    pub in_flight_at_start: u64,
    /// Clamped at its end.
    pub in_flight_at_end: u64,
    /// Time off the CPU by place.
    pub places: HashMap<Place, u64>,
}

/// A wait that goes on.
#[derive(Debug)]
struct Pending {
    throttle: Throttle,
    start_ns: u64,
    off_ns: u64,
    run_queue_ns: u64,
    places: Vec<(Place, u64)>,
}

/// Takes intervals, requests and exits in the order of their times.
#[derive(Debug)]
pub struct Waiting {
    window_start_ns: u64,
    frames: Frames,
    /// The functions are probed.
    is_probed: bool,
    pending: HashMap<ThreadId, Pending>,
    rows: BTreeMap<(ThreadId, Option<u32>), Row>,
}

impl Waiting {
    /// For a window that opened at `window_start_ns`.
    pub fn new(window_start_ns: u64, frames: Frames, is_probed: bool) -> Self {
        Self { window_start_ns, frames, is_probed, pending: HashMap::new(), rows: BTreeMap::new() }
    }

    /// Takes what a watched thread did.
    pub fn interval(&mut self, interval: &Interval) {
        let Doing::OffCpu(off) = &interval.doing else { return };
        let Some(throttle) = self.frames.of(&off.stack) else {
            // It sleeps elsewhere: it has been let go.
            return self.close(interval.thread, None, None);
        };
        let pending = self.pending.entry(interval.thread).or_insert_with(|| Pending {
            throttle,
            start_ns: interval.start_ns,
            off_ns: 0,
            run_queue_ns: 0,
            places: Vec::new(),
        });
        let length_ns = interval.length_ns();
        pending.off_ns = pending.off_ns.saturating_add(length_ns);
        if off.wait.is_runnable() {
            pending.run_queue_ns = pending.run_queue_ns.saturating_add(length_ns);
        }
        pending.places.push((Place { kernel: off.stack.clone(), user: off.user }, length_ns));
    }

    /// A thread makes a request: it is past the throttle of that disk.
    pub fn request(&mut self, thread: ThreadId, device: u32) {
        if !self.is_probed {
            self.close(thread, Some(device), None);
        }
    }

    /// A thread leaves one of the functions.
    pub fn exit(
        &mut self,
        thread: ThreadId,
        time_ns: u64,
        entered_ns: Option<u64>,
        device: Option<u32>,
        throttle: Throttle,
    ) {
        let start_ns = entered_ns.unwrap_or(self.window_start_ns).max(self.window_start_ns);
        match self.pending.get(&thread) {
            Some(pending) if pending.throttle == throttle => {
                self.close(thread, device, Some((start_ns, time_ns)));
            }
            // The sleep inside `wbt_wait`, which will tell more when it is left.
            Some(_) => {}
            None if throttle == Throttle::Wbt => self.row(thread, device).let_through += 1,
            None => {}
        }
    }

    /// Closes what goes on at the end of the window; `inside` tells who is in a function then, and since when.
    pub fn finish(
        mut self,
        end_ns: u64,
        inside: &[(ThrottledThread, ThrottledSince)],
    ) -> BTreeMap<(ThreadId, Option<u32>), Row> {
        let mut open: Vec<(ThreadId, Throttle)> =
            self.pending.iter().map(|(thread, pending)| (*thread, pending.throttle)).collect();
        open.sort_unstable();
        for (thread, throttle) in open {
            let is_it = |key: &ThrottledThread| key.tid == thread.tid && key.throttle == throttle as u32;
            let since = inside.iter().find(|(key, _)| is_it(key)).map(|(_, since)| since);
            let device = since.map(|since| since.device).filter(|device| *device != 0);
            let span = since.map(|since| (since.entered_ns.max(self.window_start_ns), end_ns));
            self.row(thread, device).in_flight_at_end += 1;
            self.close(thread, device, span);
        }
        self.rows
    }

    /// Books a wait: as long as `span` says, or as the thread was off the CPU.
    fn close(&mut self, thread: ThreadId, device: Option<u32>, span: Option<(u64, u64)>) {
        let Some(pending) = self.pending.remove(&thread) else { return };
        let window_start_ns = self.window_start_ns;
        let row = self.row(thread, device);
        row.times.add(span.map_or(pending.off_ns, |(start_ns, end_ns)| end_ns.saturating_sub(start_ns)));
        row.run_queue_ns = row.run_queue_ns.saturating_add(pending.run_queue_ns);
        row.in_flight_at_start += u64::from(pending.start_ns <= window_start_ns);
        for (place, ns) in pending.places {
            let at = row.places.entry(place).or_default();
            *at = at.saturating_add(ns);
        }
    }

    fn row(&mut self, thread: ThreadId, device: Option<u32>) -> &mut Row {
        self.rows.entry((thread, device)).or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::interval::{OffCpu, Wait};

    const A: ThreadId = ThreadId { tid: 1, start_ns: 1 };
    const LOOP: u32 = 7 << 20;
    const IN_WBT: u64 = 1050;
    const IN_RQ_QOS: u64 = 2050;
    const ELSEWHERE: u64 = 5000;

    fn frames() -> Frames {
        Frames(vec![(Throttle::Wbt, 1000..1100), (Throttle::RqQos, 2000..2100)])
    }

    fn off(start_ns: u64, end_ns: u64, wait: Wait, stack: &[u64]) -> Interval {
        let stack = KernelStack::Addresses(Arc::from(stack));
        let doing = Doing::OffCpu(OffCpu { wait, stack, user: None, waker: None });
        Interval { thread: A, start_ns, end_ns, doing, left_cpu: true, truncated: false }
    }

    fn throttled(start_ns: u64, end_ns: u64, wait: Wait) -> Interval {
        off(start_ns, end_ns, wait, &[1, IN_RQ_QOS, IN_WBT, ELSEWHERE])
    }

    /// `device: waits, time/run queue`, with what is out of the ordinary.
    fn draw(rows: &BTreeMap<(ThreadId, Option<u32>), Row>) -> Vec<String> {
        let line = |((_, device), row): (&(ThreadId, Option<u32>), &Row)| {
            format!(
                "{device:?}: {} waits, {}/{} through {} <{} >{}",
                row.times.histogram.count(),
                row.times.ns,
                row.run_queue_ns,
                row.let_through,
                row.in_flight_at_start,
                row.in_flight_at_end
            )
        };
        rows.iter().map(line).collect()
    }

    // asleep 110-140, queued 140-145 | asleep 150-160 | makes a request
    #[test]
    fn sleeps_on_the_throttles_stack_are_one_wait_up_to_the_request_that_tells_the_device() {
        let mut waiting = Waiting::new(100, frames(), false);
        waiting.interval(&throttled(110, 140, Wait::Uninterruptible));
        waiting.interval(&throttled(140, 145, Wait::RunQueue));
        waiting.interval(&throttled(150, 160, Wait::Uninterruptible));
        waiting.request(A, LOOP);
        waiting.request(A, LOOP);
        let rows = waiting.finish(200, &[]);
        assert_eq!(draw(&rows), ["Some(7340032): 1 waits, 45/5 through 0 <0 >0"]);
        assert_eq!(rows[&(A, Some(LOOP))].places.len(), 1);
    }

    #[test]
    fn sleeps_elsewhere_are_no_waits_and_end_one() {
        let mut waiting = Waiting::new(100, frames(), false);
        waiting.interval(&off(100, 110, Wait::Uninterruptible, &[ELSEWHERE]));
        waiting.interval(&throttled(110, 120, Wait::Uninterruptible));
        waiting.interval(&off(130, 140, Wait::Interruptible, &[ELSEWHERE]));
        waiting.request(A, LOOP);
        assert_eq!(draw(&waiting.finish(200, &[])), ["None: 1 waits, 10/0 through 0 <0 >0"]);
    }

    #[test]
    fn waits_are_clamped_at_both_ends_and_say_so() {
        let mut waiting = Waiting::new(100, frames(), false);
        waiting.interval(&throttled(100, 200, Wait::Uninterruptible));
        assert_eq!(draw(&waiting.finish(200, &[])), ["None: 1 waits, 100/0 through 0 <1 >1"]);
    }

    // entered 105 | asleep 110-140 | left rq_qos_wait 142 | left wbt_wait 150
    #[test]
    fn probed_functions_tell_the_whole_call_and_the_device() {
        let mut waiting = Waiting::new(100, frames(), true);
        waiting.interval(&throttled(110, 140, Wait::Uninterruptible));
        waiting.exit(A, 142, Some(106), None, Throttle::RqQos);
        waiting.exit(A, 150, Some(105), Some(LOOP), Throttle::Wbt);
        waiting.request(A, LOOP);
        waiting.exit(A, 161, Some(160), Some(LOOP), Throttle::Wbt);
        assert_eq!(draw(&waiting.finish(200, &[])), ["Some(7340032): 1 waits, 45/0 through 1 <0 >0"]);
    }

    #[test]
    fn a_wait_of_another_policy_ends_with_the_sleep() {
        let mut waiting = Waiting::new(100, frames(), true);
        waiting.interval(&off(110, 140, Wait::Uninterruptible, &[IN_RQ_QOS, ELSEWHERE]));
        waiting.exit(A, 142, Some(106), None, Throttle::RqQos);
        assert_eq!(draw(&waiting.finish(200, &[])), ["None: 1 waits, 36/0 through 0 <0 >0"]);
    }

    #[test]
    fn who_is_inside_at_the_end_is_told_by_the_kernel_side() {
        let mut waiting = Waiting::new(100, frames(), true);
        waiting.interval(&throttled(110, 200, Wait::Uninterruptible));
        let key = ThrottledThread { tid: A.tid, throttle: Throttle::Wbt as u32 };
        let since = ThrottledSince { entered_ns: 104, device: LOOP, reserved: 0 };
        let rows = waiting.finish(200, &[(key, since)]);
        assert_eq!(draw(&rows), ["Some(7340032): 1 waits, 96/0 through 0 <0 >1"]);
    }

    #[test]
    fn names_of_a_sleeper_count_as_addresses_do() {
        let names = |name: &str| KernelStack::Names(Arc::from([name.to_owned()]));
        assert_eq!(frames().of(&names("wbt_wait")), Some(Throttle::Wbt));
        assert_eq!(frames().of(&names("rq_qos_wait.isra.0")), Some(Throttle::RqQos));
        assert_eq!(frames().of(&names("wbt_wait_more")), None);
    }
}
