//! Enters and exits to calls.

use std::collections::HashMap;

use super::{Call, CallEvent, CallRecord, SeedCall, Spent};
use crate::decode::{ThreadId, UserSide};
use crate::gaps::{Gap, Gaps};
use crate::interval::{Doing, Interval, Wait, Waker};

/// `exit` and `exit_group`: a thread does not come back from them.
const NO_RETURN: [u32; 2] = [60, 231];
/// `clone`, `fork`, `vfork`, `clone3`: the child's first event is that it leaves its parent's call.
const BIRTHS: [u32; 4] = [56, 57, 58, 435];
/// `rt_sigreturn`: leaves the kernel with the registers of the interrupted place, and no number.
const SIGRETURN: u32 = 15;

/// Takes records and intervals in the order of their times, and hands out calls.
///
/// An interval must come no later than the first record of its thread that follows it, which the order
/// of the recording gives: a thread leaves a call only after it got a CPU.
#[derive(Debug)]
pub struct Calls {
    window_start_ns: u64,
    threads: HashMap<ThreadId, Thread>,
    seeds: HashMap<u32, SeedCall>,
    gaps: Gaps,
}

/// What one thread is in the middle of.
#[derive(Debug)]
struct Thread {
    state: State,
    since_ns: u64,
    spent: Spent,
    user: Option<UserSide>,
    waker: Option<Waker>,
    woken_ns: u64,
    truncated: bool,
}

#[derive(Debug)]
enum State {
    /// It existed when the window opened, and has had no event.
    Unseen,
    /// It is in user space.
    Outside,
    /// It is in a call.
    Inside { tgid: u32, number: u32, arguments: Option<[u64; 6]>, words: Vec<u64>, early: bool },
}

impl Calls {
    /// For a window that opened at `window_start_ns`, and the calls that threads were in then.
    pub fn new(window_start_ns: u64, seeds: impl IntoIterator<Item = SeedCall>) -> Self {
        let seeds = seeds.into_iter().map(|seed| (seed.tid, seed)).collect();
        Self { window_start_ns, threads: HashMap::new(), seeds, gaps: Gaps::default() }
    }

    /// Notes that events were lost. Must come before the first record of that time or later.
    pub fn lost(&mut self, gap: Gap) {
        self.gaps.add(gap);
    }

    /// Takes what a thread did. Time before its current call counts for nothing.
    pub fn interval(&mut self, interval: &Interval) {
        let thread = self.thread(interval.thread);
        let length_ns = interval.end_ns.saturating_sub(interval.start_ns.max(thread.since_ns));
        if length_ns == 0 || matches!(thread.state, State::Outside) {
            return;
        }
        thread.truncated |= interval.truncated;
        match &interval.doing {
            Doing::OnCpu => {}
            Doing::Unknown => thread.spent.unknown_ns += length_ns,
            Doing::OffCpu(off) => {
                thread.user = off.user.or(thread.user);
                if off.wait.is_runnable() {
                    thread.spent.run_queue_ns += length_ns;
                    // Queued from the moment of a wake-up on; or preempted, and then nobody woke it.
                    if off.waker.is_some() {
                        thread.waker.clone_from(&off.waker);
                        thread.woken_ns = interval.start_ns;
                    }
                } else if off.wait == Wait::Unknown {
                    thread.spent.unknown_ns += length_ns;
                } else {
                    thread.spent.asleep_ns += length_ns;
                    thread.waker.clone_from(&off.waker);
                    thread.woken_ns = interval.end_ns;
                }
            }
        }
    }

    /// Takes the next record.
    pub fn record(&mut self, record: &CallRecord, emit: &mut dyn FnMut(Call)) {
        let time_ns = record.time_ns.max(self.window_start_ns);
        let early = record.time_ns < self.window_start_ns;
        match &record.event {
            CallEvent::Enter { number, arguments, user, words } => {
                // Still inside: the exit was lost.
                self.leave(record.thread, time_ns, None, true, emit);
                let inside = State::Inside {
                    tgid: record.tgid,
                    number: *number,
                    arguments: Some(*arguments),
                    words: words.clone(),
                    early,
                };
                let thread = self.thread(record.thread);
                thread.enter(time_ns, inside);
                thread.user = *user;
            }
            CallEvent::Exit { number, result } => self.exit(record, time_ns, *number, *result, emit),
        }
    }

    fn exit(
        &mut self,
        record: &CallRecord,
        time_ns: u64,
        number: u32,
        result: i64,
        emit: &mut dyn FnMut(Call),
    ) {
        let is_born = record.thread.start_ns > self.window_start_ns;
        let seed = self.seeds.remove(&record.thread.tid);
        let thread = self.thread(record.thread);
        let truncated = match &thread.state {
            State::Inside { number: entered, .. } => *entered != number && *entered != SIGRETURN,
            State::Unseen if is_born && BIRTHS.contains(&number) => {
                thread.state = State::Outside;
                return;
            }
            State::Unseen | State::Outside => {
                // Left without having been entered: the record of that was lost, unless it is older
                // than the recording.
                let truncated = matches!(thread.state, State::Outside) || is_born;
                let seen = seed.filter(|seed| seed.number == number && seed.taken_ns < time_ns);
                let arguments = seen.map(|seed| seed.arguments);
                let (tgid, words) = (record.tgid, Vec::new());
                thread.state = State::Inside { tgid, number, arguments, words, early: !truncated };
                truncated
            }
        };
        self.leave(record.thread, time_ns, Some(result), truncated, emit);
    }

    /// Ends the call that a thread is in, if it is in one.
    fn leave(
        &mut self,
        id: ThreadId,
        end_ns: u64,
        result: Option<i64>,
        truncated: bool,
        emit: &mut dyn FnMut(Call),
    ) {
        let thread = self.thread(id);
        let state = std::mem::replace(&mut thread.state, State::Outside);
        let State::Inside { tgid, number, arguments, words, early } = state else { return };
        let start_ns = thread.since_ns;
        thread.since_ns = end_ns.max(start_ns);
        let call = Call {
            thread: id,
            tgid,
            number,
            arguments,
            words,
            start_ns,
            end_ns: end_ns.max(start_ns),
            result,
            in_flight_at_start: early,
            spent: std::mem::take(&mut thread.spent),
            user: thread.user.take(),
            waker: thread.waker.take(),
            woken_ns: thread.woken_ns,
            truncated: truncated || std::mem::take(&mut thread.truncated),
        };
        let touched = self.gaps.touch(start_ns, call.end_ns);
        emit(Call { truncated: call.truncated || touched, ..call });
    }

    /// Hands out the calls that are in flight at the end of the window.
    pub fn finish(mut self, end_ns: u64, emit: &mut dyn FnMut(Call)) {
        let unseen = |thread: &Thread| matches!(thread.state, State::Unseen);
        let ids: Vec<ThreadId> = self.threads.keys().copied().collect();
        for id in ids {
            let seed = self.threads.get(&id).filter(|thread| unseen(thread));
            if let Some(seed) = seed.and_then(|_| self.seeds.remove(&id.tid)) {
                // Not an event in the whole window: it is where it was.
                let (tgid, number, arguments) = (seed.tgid, seed.number, Some(seed.arguments));
                self.thread(id).state =
                    State::Inside { tgid, number, arguments, words: Vec::new(), early: true };
            }
            let gone = match self.threads.get(&id).map(|thread| &thread.state) {
                Some(State::Inside { number, .. }) => NO_RETURN.contains(number),
                _ => true,
            };
            if !gone {
                self.leave(id, end_ns, None, false, emit);
            }
        }
    }

    fn thread(&mut self, id: ThreadId) -> &mut Thread {
        let since_ns = self.window_start_ns.max(id.start_ns);
        self.threads.entry(id).or_insert_with(|| Thread {
            state: State::Unseen,
            since_ns,
            spent: Spent::default(),
            user: None,
            waker: None,
            woken_ns: 0,
            truncated: false,
        })
    }
}

impl Thread {
    fn enter(&mut self, time_ns: u64, inside: State) {
        *self = Self {
            state: inside,
            since_ns: time_ns,
            spent: Spent::default(),
            user: None,
            waker: None,
            woken_ns: 0,
            truncated: false,
        };
    }
}
