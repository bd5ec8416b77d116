//! Calls and intervals to sums by thread and call.

use std::collections::{BTreeMap, HashMap};

use ::syscalls::Errno;
use ::syscalls::x86_64::Sysno;
use reports::syscalls::{Call as Row, Split, Thread};

use crate::call::{Call, CallRecord, Calls, SeedCall};
use crate::decode::ThreadId;
use crate::gaps::Gap;
use crate::interval::{Doing, Interval, ThreadNote, Wait};
use crate::pipeline::Analysis;

/// The largest errno (include/linux/err.h, `MAX_ERRNO`): a result below its negative is a value.
const MAX_ERRNO: i64 = 4095;

/// Sums, as a recording goes on.
#[derive(Debug)]
pub struct Sums {
    calls: Calls,
    rows: HashMap<(ThreadId, u32), Row>,
    /// All of each thread's time, in calls or not.
    threads: BTreeMap<ThreadId, Split>,
}

impl Sums {
    /// For a window that opened at `start_ns`, and the calls that threads were in then.
    pub fn new(start_ns: u64, seeds: Vec<SeedCall>) -> Self {
        Self { calls: Calls::new(start_ns, seeds), rows: HashMap::new(), threads: BTreeMap::new() }
    }

    /// Closes what is in flight at the end of the window, and makes the report's threads: those of `tids`,
    /// or all where that is empty.
    pub fn finish(mut self, end_ns: u64, notes: &[ThreadNote], tids: &[u32]) -> Vec<Thread> {
        let calls = std::mem::replace(&mut self.calls, Calls::new(0, []));
        calls.finish(end_ns, &mut |call| add(&mut self.rows, &call));
        let mut calls_of: HashMap<ThreadId, Vec<Row>> = HashMap::new();
        for ((thread, _), row) in self.rows {
            calls_of.entry(thread).or_default().push(row);
        }
        let notes: HashMap<ThreadId, &ThreadNote> = notes.iter().map(|note| (note.thread, note)).collect();
        let is_asked = |id: &ThreadId| tids.is_empty() || tids.contains(&id.tid);
        let threads = self.threads.into_iter().filter(|(id, _)| is_asked(id));
        let mut threads: Vec<Thread> = threads
            .map(|(id, all)| {
                let mut calls = calls_of.remove(&id).unwrap_or_default();
                calls.sort_by(|a, b| (b.split.wall_ns(), &a.name).cmp(&(a.split.wall_ns(), &b.name)));
                let note = notes.get(&id);
                Thread {
                    pid: note.map_or(0, |note| note.tgid),
                    tid: id.tid,
                    comm: note.and_then(|note| note.comm).map_or_else(String::new, |comm| comm.text().into()),
                    outside: outside(all, &calls),
                    calls,
                }
            })
            .collect();
        threads.sort_by_key(|thread| {
            let inside_ns: u64 = thread.calls.iter().map(|call| call.split.wall_ns()).sum();
            (std::cmp::Reverse(inside_ns), thread.tid)
        });
        threads
    }
}

impl Analysis for Sums {
    fn interval(&mut self, interval: Interval) {
        let split = self.threads.entry(interval.thread).or_default();
        let length_ns = interval.length_ns();
        match &interval.doing {
            Doing::OnCpu => split.on_cpu_ns += length_ns,
            Doing::OffCpu(off) if off.wait.is_runnable() => split.run_queue_ns += length_ns,
            Doing::OffCpu(off) if off.wait != Wait::Unknown => split.asleep_ns += length_ns,
            Doing::OffCpu(_) | Doing::Unknown => split.unknown_ns += length_ns,
        }
        self.calls.interval(&interval);
    }

    fn call(&mut self, record: &CallRecord) {
        let Self { calls, rows, .. } = self;
        calls.record(record, &mut |call| add(rows, &call));
    }

    fn lost(&mut self, gap: Gap) {
        self.calls.lost(gap);
    }
}

/// What is left of a thread's time when its calls are taken off. Where an event was lost a call may hold
/// time of another kind than its thread, and the difference stops at zero.
fn outside(all: Split, calls: &[Row]) -> Split {
    let mut inside = Split::default();
    for call in calls {
        inside.add(&call.split);
    }
    Split {
        on_cpu_ns: all.on_cpu_ns.saturating_sub(inside.on_cpu_ns),
        asleep_ns: all.asleep_ns.saturating_sub(inside.asleep_ns),
        run_queue_ns: all.run_queue_ns.saturating_sub(inside.run_queue_ns),
        unknown_ns: all.unknown_ns.saturating_sub(inside.unknown_ns),
    }
}

fn add(rows: &mut HashMap<(ThreadId, u32), Row>, call: &Call) {
    let row = rows.entry((call.thread, call.number)).or_default();
    if row.name.is_empty() {
        row.name = name(call.number);
    }
    row.count += 1;
    row.split.add(&Split {
        on_cpu_ns: call.on_cpu_ns(),
        asleep_ns: call.spent.asleep_ns,
        run_queue_ns: call.spent.run_queue_ns,
        unknown_ns: call.spent.unknown_ns,
    });
    row.max_ns = row.max_ns.max(call.wall_ns());
    row.wall.add(call.wall_ns());
    row.in_flight_at_start += u64::from(call.in_flight_at_start);
    row.truncated += u64::from(call.truncated);
    match call.result {
        None if !call.truncated => row.in_flight_at_end += 1,
        Some(result) if (-MAX_ERRNO..0).contains(&result) => {
            *row.errors.entry(error(result)).or_default() += 1;
        }
        _ => {}
    }
}

/// The call's name on x86-64.
pub fn name(number: u32) -> String {
    Sysno::new(number as usize).map_or_else(|| format!("syscall_{number}"), |call| call.name().to_owned())
}

fn error(result: i64) -> String {
    let number = (-result) as i32;
    match Errno::new(number).name() {
        Some(name) => name.to_owned(),
        None => format!("errno_{number}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::call::CallEvent;
    use crate::comm::Comm;
    use crate::interval::{KernelStack, OffCpu};

    const THREAD: ThreadId = ThreadId { tid: 7, start_ns: 1 };

    fn interval(start_ns: u64, end_ns: u64, wait: Option<Wait>) -> Interval {
        let doing = match wait {
            None => Doing::OnCpu,
            Some(wait) => {
                Doing::OffCpu(OffCpu { wait, stack: KernelStack::Missing, user: None, waker: None })
            }
        };
        Interval { thread: THREAD, start_ns, end_ns, doing, left_cpu: true, truncated: false }
    }

    fn event(sums: &mut Sums, time_ns: u64, event: CallEvent) {
        sums.call(&CallRecord { time_ns, cpu: 0, sequence: 0, thread: THREAD, tgid: 7, event });
    }

    fn enter(sums: &mut Sums, time_ns: u64, number: u32) {
        event(sums, time_ns, CallEvent::Enter { number, arguments: [0; 6], user: None, words: Vec::new() });
    }

    fn finish(sums: Sums, end_ns: u64) -> Thread {
        let note = ThreadNote { thread: THREAD, tgid: 7, comm: Some(Comm::from_text("worker")) };
        sums.finish(end_ns, &[note], &[]).remove(0)
    }

    //  on 100-130 | asleep 130-170 | on 170-200; read 120-180
    #[test]
    fn a_threads_time_is_its_calls_and_what_is_outside_of_them() {
        let mut sums = Sums::new(100, Vec::new());
        sums.interval(interval(100, 130, None));
        enter(&mut sums, 120, 0);
        sums.interval(interval(130, 170, Some(Wait::Interruptible)));
        event(&mut sums, 180, CallEvent::Exit { number: 0, result: -11 });
        sums.interval(interval(170, 200, None));
        let thread = finish(sums, 200);
        assert_eq!((thread.pid, thread.comm.as_str()), (7, "worker"));
        assert_eq!(thread.outside, Split { on_cpu_ns: 40, ..Split::default() });
        let read = &thread.calls[0];
        assert_eq!((read.name.as_str(), read.count, read.max_ns), ("read", 1, 60));
        assert_eq!(read.split, Split { on_cpu_ns: 20, asleep_ns: 40, ..Split::default() });
        assert_eq!(read.errors, [("EAGAIN".to_owned(), 1)].into());
    }

    #[test]
    fn values_are_no_errors_and_every_error_has_a_name() {
        let mut sums = Sums::new(100, Vec::new());
        for (index, result) in [5, -2, -512, -4096, i64::MIN, -4000].into_iter().enumerate() {
            let time_ns = 110 + 2 * index as u64;
            enter(&mut sums, time_ns, 9);
            event(&mut sums, time_ns + 1, CallEvent::Exit { number: 9, result });
        }
        sums.interval(interval(100, 200, None));
        let thread = finish(sums, 200);
        let errors: Vec<_> = thread.calls[0].errors.keys().map(String::as_str).collect();
        assert_eq!(errors, ["ENOENT", "ERESTARTSYS", "errno_4000"]);
        assert_eq!(name(202), "futex");
        assert_eq!(name(455), "futex_wait");
        assert_eq!(name(9999), "syscall_9999");
    }

    proptest! {
        /// Whatever a thread does, its calls and the rest sum to its time in the window.
        #[test]
        fn nothing_of_a_threads_time_is_lost_or_counted_twice(
            steps in prop::collection::vec((1u64..50, 0u8..4), 1..60),
        ) {
            let mut sums = Sums::new(100, Vec::new());
            let mut now_ns = 100;
            let mut on_since_ns = 100;
            let mut inside = false;
            for (length_ns, step) in &steps {
                now_ns += length_ns;
                match step {
                    0 | 1 => {
                        let wait = if *step == 0 { Wait::Interruptible } else { Wait::Preempted };
                        sums.interval(interval(on_since_ns, now_ns, None));
                        sums.interval(interval(now_ns, now_ns + 10, Some(wait)));
                        now_ns += 10;
                        on_since_ns = now_ns;
                    }
                    _ if inside => {
                        event(&mut sums, now_ns, CallEvent::Exit { number: 1, result: 0 });
                        inside = false;
                    }
                    _ => {
                        enter(&mut sums, now_ns, 1);
                        inside = true;
                    }
                }
            }
            sums.interval(interval(on_since_ns, now_ns + 5, None));
            let thread = finish(sums, now_ns + 5);
            let inside_ns: u64 = thread.calls.iter().map(|call| call.split.wall_ns()).sum();
            prop_assert_eq!(inside_ns + thread.outside.wall_ns(), now_ns + 5 - 100);
        }
    }
}
