//! All threads of a session, from the start of the window to its end.

use std::collections::HashMap;

use super::thread::Thread;
use super::{Interval, Seed};
use crate::comm::Comm;
use crate::decode::{Record, ThreadId};
use crate::gaps::{Gap, Gaps};

/// Takes records in the order of their times, and hands out intervals.
#[derive(Debug)]
pub struct Builder {
    window_start_ns: u64,
    threads: HashMap<ThreadId, Thread>,
    seeds: HashMap<u32, Seed>,
    gaps: Gaps,
    unpaired: u64,
}

/// What is left when the last interval is out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// The threads.
    pub notes: Vec<ThreadNote>,
    /// Switches that must have happened, and that the kernel reported neither as events nor as losses.
    pub unpaired: u64,
}

/// What is known of a thread beside its intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadNote {
    /// The thread.
    pub thread: ThreadId,
    /// Its process.
    pub tgid: u32,
    /// Its name, as last seen; `None` where it never left a CPU in sight.
    pub comm: Option<Comm>,
}

impl Builder {
    /// For a window that opened at `window_start_ns`, and the threads that existed then.
    pub fn new(window_start_ns: u64, seeds: impl IntoIterator<Item = Seed>) -> Self {
        Self {
            window_start_ns,
            threads: HashMap::new(),
            seeds: seeds.into_iter().map(|seed| (seed.tid, seed)).collect(),
            gaps: Gaps::default(),
            unpaired: 0,
        }
    }

    /// Notes that events were lost. Must come before the first record of that time or later.
    pub fn lost(&mut self, gap: Gap) {
        self.gaps.add(gap);
    }

    /// Takes the next record.
    pub fn record(&mut self, record: &Record, emit: &mut dyn FnMut(Interval)) {
        let window_start_ns = self.window_start_ns;
        let thread = self.threads.entry(record.thread).or_insert_with(|| {
            if record.thread.start_ns > window_start_ns {
                return Thread::born(record.thread, record.tgid);
            }
            Thread::existing(
                record.thread,
                record.tgid,
                window_start_ns,
                self.seeds.remove(&record.thread.tid),
            )
        });
        thread.event(record.time_ns, &record.event, &mut marking(&self.gaps, &mut self.unpaired, emit));
    }

    /// Notes that a thread did something which is no event of its intervals, such as a call. One that is never switched
    /// has no record here, and its seed knows its start to a clock tick only: by this the two are one thread.
    pub fn saw(&mut self, thread: ThreadId, tgid: u32) {
        let start_ns = self.window_start_ns;
        if thread.start_ns > start_ns || self.threads.contains_key(&thread) {
            return;
        }
        let seed = self.seeds.remove(&thread.tid);
        self.threads.insert(thread, Thread::existing(thread, tgid, start_ns, seed));
    }

    /// Closes every thread's last interval at the end of the window. `ran_ns` gives a thread's CPU time by
    /// then, by thread id, for threads that no event told anything about.
    pub fn finish(
        mut self,
        end_ns: u64,
        ran_ns: &HashMap<u32, u64>,
        emit: &mut dyn FnMut(Interval),
    ) -> Finished {
        self.add_silent_threads();
        let mut notes = Vec::new();
        for (id, thread) in self.threads {
            notes.push(ThreadNote { thread: id, tgid: thread.tgid(), comm: thread.comm() });
            thread.finish(
                end_ns,
                ran_ns.get(&id.tid).copied(),
                &mut marking(&self.gaps, &mut self.unpaired, emit),
            );
        }
        Finished { notes, unpaired: self.unpaired }
    }

    /// A thread that slept, or ran, through the whole window has no record; its seed is all there is.
    fn add_silent_threads(&mut self) {
        let start_ns = self.window_start_ns;
        for seed in self.seeds.drain().map(|(_, seed)| seed) {
            // A seed of a thread that was born inside the window: its records tell everything.
            let has_records =
                self.threads.keys().any(|id| id.tid == seed.tid && id.start_ns <= seed.taken_ns);
            if !has_records {
                let id = ThreadId { tid: seed.tid, start_ns: seed.start_ns.min(start_ns) };
                self.threads.insert(id, Thread::existing(id, seed.tgid, start_ns, Some(seed)));
            }
        }
    }
}

/// Marks what a loss may have touched, and counts the contradictions that no loss explains.
fn marking<'a>(
    gaps: &'a Gaps,
    unpaired: &'a mut u64,
    emit: &'a mut dyn FnMut(Interval),
) -> impl FnMut(Interval) + 'a {
    |mut interval| {
        let touched = gaps.touch(interval.start_ns, interval.end_ns);
        *unpaired += u64::from(interval.truncated && !touched);
        interval.truncated |= touched;
        emit(interval);
    }
}
