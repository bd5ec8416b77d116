//! Calls of the futex family, and what the scheduler did meanwhile, to sums by word.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use reports::futex::Operation as Row;

use super::op::{Operation, Waiting, Waking, operation};
use super::ran::Ran;
use super::verdict::Evidence;
use crate::call::{Call, CallEvent, CallRecord, Calls, SeedCall};
use crate::decode::{ThreadId, UserSide};
use crate::gaps::Gap;
use crate::interval::{Interval, Waker};
use crate::pipeline::Analysis;
use probes_common::number;

/// Wakes that are remembered of each thread: a woken thread leaves its call a moment after the wake.
const WAKES_KEPT: usize = 64;

const EINTR: i64 = -4;
const EAGAIN: i64 = -11;
const ETIMEDOUT: i64 = -110;
/// ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND and ERESTART_RESTARTBLOCK (include/linux/errno.h): a signal
/// came, and whether the call goes on is decided after the tracepoint.
const RESTARTS: [i64; 4] = [-512, -513, -514, -516];

/// A futex word: the process, and the address there.
pub type Place = (u32, u64);

/// All words of a recording.
#[derive(Debug)]
pub struct Words {
    calls: Calls,
    ran: Ran,
    /// What each thread woke last.
    wakes: HashMap<u32, VecDeque<Wake>>,
    /// The wait that a signal interrupted, for the `restart_syscall` that may go on with it.
    interrupted: HashMap<ThreadId, (u32, [u64; 6])>,
    /// Waiters of the first word may have come to wait on the second.
    requeued: HashMap<Place, Place>,
    sums: BTreeMap<Place, Word>,
    unplaced: u64,
    events_lost: bool,
}

#[derive(Clone, Debug)]
struct Wake {
    time_ns: u64,
    tgid: u32,
    waking: Waking,
    user: Option<UserSide>,
}

/// What was seen of one word.
#[derive(Debug, Default)]
pub struct Word {
    /// Waits by operation and private flag.
    pub operations: BTreeMap<(&'static str, bool), Row>,
    /// Threads that waited.
    pub waiters: BTreeMap<ThreadId, Waiter>,
    /// Threads that ended waits.
    pub wakers: BTreeMap<u32, Ended>,
    /// For the verdict.
    pub evidence: Evidence,
    /// An event of one of its waits may have been lost.
    pub truncated: bool,
    /// Threads that were woken from it, and have not woken another since.
    holders: HashSet<ThreadId>,
}

/// One thread's waits on a word.
#[derive(Debug, Default)]
pub struct Waiter {
    /// Calls.
    pub waits: u64,
    /// Time asleep in them.
    pub asleep_ns: u64,
    /// The longest sleep.
    pub max_asleep_ns: u64,
    /// Where it was in user space then.
    pub user: Option<UserSide>,
}

/// The waits on a word that one thread ended.
#[derive(Debug, Default)]
pub struct Ended {
    /// Its process and name, as the wake-up showed them.
    pub peer: Option<crate::decode::Peer>,
    /// How many.
    pub waits: u64,
    /// How many of them by an operation on the word.
    pub by_operation: u64,
    /// That operation.
    pub operation: Option<&'static str>,
    /// Time on a CPU while those that it woke waited.
    pub ran_meanwhile_ns: u64,
    /// Where it was in user space at its last such operation.
    pub user: Option<UserSide>,
}

/// What a recording came to.
#[derive(Debug)]
pub struct Summed {
    /// The words.
    pub words: BTreeMap<Place, Word>,
    /// Waits that began before the window on a word that nobody could tell.
    pub unplaced: u64,
    /// Events were lost.
    pub events_lost: bool,
}

impl Words {
    /// For a window that opened at `start_ns`, and the calls that threads were in then.
    pub fn new(start_ns: u64, seeds: Vec<SeedCall>) -> Self {
        Self {
            calls: Calls::new(start_ns, seeds),
            ran: Ran::default(),
            wakes: HashMap::new(),
            interrupted: HashMap::new(),
            requeued: HashMap::new(),
            sums: BTreeMap::new(),
            unplaced: 0,
            events_lost: false,
        }
    }

    /// Closes what is in flight at the end of the window.
    pub fn finish(mut self, end_ns: u64) -> Summed {
        let calls = std::mem::replace(&mut self.calls, Calls::new(0, []));
        let mut last = Vec::new();
        calls.finish(end_ns, &mut |call| last.push(call));
        for call in last {
            self.call_ended(&call);
        }
        Summed { words: self.sums, unplaced: self.unplaced, events_lost: self.events_lost }
    }

    fn call_ended(&mut self, call: &Call) {
        let (number, arguments) = match (call.number, call.arguments) {
            (number::RESTART, _) => match self.interrupted.remove(&call.thread) {
                Some((number, arguments)) => (number, Some(arguments)),
                None => return,
            },
            (number, arguments) => (number, arguments),
        };
        let Some(arguments) = arguments else {
            let may_wait = matches!(number, number::FUTEX | number::FUTEX_WAITV | number::FUTEX_WAIT);
            self.unplaced += u64::from(may_wait);
            return;
        };
        match operation(number, &arguments, &call.words) {
            Some(Operation::Wait(waiting)) => {
                if call.result.is_some_and(|result| RESTARTS.contains(&result)) {
                    self.interrupted.insert(call.thread, (number, arguments));
                }
                self.wait_ended(call, &waiting);
            }
            Some(Operation::Wake(waking)) => self.wake_ended(call, &waking),
            None => {}
        }
    }

    fn wait_ended(&mut self, call: &Call, waiting: &Waiting) {
        // Of several words the result names the one that was woken; a wait that nobody woke is charged to
        // the first.
        let index = call.result.and_then(|result| usize::try_from(result).ok()).unwrap_or(0);
        let Some(address) = waiting.words.get(index).or(waiting.words.first()) else {
            self.unplaced += 1;
            return;
        };
        let place = (call.tgid, *address);
        let was_woken = call.result.is_some_and(|result| result >= 0);
        let ended = call.waker.as_ref().filter(|_| was_woken).map(|waker| self.ended_by(place, call, waker));
        let word = self.sums.entry(place).or_default();
        word.truncated |= call.truncated;
        add(word.operations.entry((waiting.name, waiting.private)).or_default(), call, was_woken);
        let waiter = word.waiters.entry(call.thread).or_default();
        waiter.waits += 1;
        waiter.asleep_ns += call.spent.asleep_ns;
        if waiter.user.is_none() || call.spent.asleep_ns > waiter.max_asleep_ns {
            waiter.max_asleep_ns = call.spent.asleep_ns;
            waiter.user = call.user;
        }
        word.evidence.is_lock |= waiting.lock;
        if was_woken {
            word.evidence.woken += 1;
            word.holders.insert(call.thread);
        }
        if let Some((tid, ended)) = ended {
            word.wakers.entry(tid).or_default().add(ended);
        }
    }

    /// Who ended this wait, and whether by an operation on this word.
    fn ended_by(&self, place: Place, call: &Call, waker: &Waker) -> (u32, Ended) {
        let tid = waker.peer.tid;
        let wakes = self.wakes.get(&tid);
        let before = |wake: &&Wake| wake.time_ns <= call.woken_ns;
        let by =
            wakes.and_then(|wakes| wakes.iter().rev().find(before)).filter(|wake| self.wakes_at(wake, place));
        let ended = Ended {
            peer: Some(waker.peer),
            waits: 1,
            by_operation: u64::from(by.is_some()),
            operation: by.map(|wake| wake.waking.name),
            ran_meanwhile_ns: self.ran.between(tid, call.start_ns, call.woken_ns),
            user: by.and_then(|wake| wake.user),
        };
        (tid, ended)
    }

    fn wakes_at(&self, wake: &Wake, place: Place) -> bool {
        let is_at = |place: Place| wake.tgid == place.0 && wake.waking.words.contains(&place.1);
        is_at(place) || self.requeued.get(&place).is_some_and(|to| is_at(*to))
    }

    fn wake_ended(&mut self, call: &Call, waking: &Waking) {
        let woke = call.result.is_some_and(|result| result > 0);
        for address in &waking.words {
            if let Some(word) = self.sums.get_mut(&(call.tgid, *address))
                && word.holders.remove(&call.thread)
                && woke
                && waking.single
            {
                word.evidence.handed_on += 1;
            }
        }
    }
}

impl Analysis for Words {
    fn interval(&mut self, interval: Interval) {
        self.ran.interval(&interval);
        self.calls.interval(&interval);
    }

    fn call(&mut self, record: &CallRecord) {
        if let CallEvent::Enter { number, arguments, user, words } = &record.event
            && let Some(Operation::Wake(waking)) = operation(*number, arguments, words)
        {
            if let (Some(to), Some(from)) = (waking.requeues_to, waking.words.first()) {
                self.requeued.insert((record.tgid, *from), (record.tgid, to));
            }
            let wakes = self.wakes.entry(record.thread.tid).or_default();
            if wakes.len() == WAKES_KEPT {
                wakes.pop_front();
            }
            wakes.push_back(Wake { time_ns: record.time_ns, tgid: record.tgid, waking, user: *user });
        }
        let mut ended = Vec::new();
        self.calls.record(record, &mut |call| ended.push(call));
        for call in ended {
            self.call_ended(&call);
        }
    }

    fn lost(&mut self, gap: Gap) {
        self.events_lost = true;
        self.calls.lost(gap);
    }
}

impl Ended {
    fn add(&mut self, one: Self) {
        self.peer = one.peer.or(self.peer);
        self.waits += one.waits;
        self.by_operation += one.by_operation;
        self.ran_meanwhile_ns += one.ran_meanwhile_ns;
        if one.operation.is_some() {
            self.operation = one.operation;
            self.user = one.user;
        }
    }
}

fn add(row: &mut Row, call: &Call, was_woken: bool) {
    row.waits += 1;
    row.wall_ns += call.wall_ns();
    row.asleep_ns += call.spent.asleep_ns;
    row.run_queue_ns += call.spent.run_queue_ns;
    row.max_asleep_ns = row.max_asleep_ns.max(call.spent.asleep_ns);
    row.asleep.add(call.spent.asleep_ns);
    row.in_flight_at_start += u64::from(call.in_flight_at_start);
    match call.result {
        _ if was_woken => row.woken += 1,
        None => row.in_flight_at_end += 1,
        Some(ETIMEDOUT) => row.timed_out += 1,
        Some(EAGAIN) => row.value_changed += 1,
        Some(EINTR) => row.interrupted += 1,
        Some(result) if RESTARTS.contains(&result) => row.interrupted += 1,
        Some(_) => row.failed += 1,
    }
}
