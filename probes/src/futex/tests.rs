//! Futex calls of a few threads, drawn, and what they come to. Times are in nanoseconds; the window opens
//! at 100.

use std::sync::Arc;

use reports::futex::Verdict;

use super::*;
use crate::call::{CallEvent, CallRecord, SeedCall};
use crate::decode::{Peer, UserSide, WakeContext};
use crate::gaps::Gap;
use crate::interval::{Doing, Interval, KernelStack, OffCpu, Wait, Waker};
use crate::pipeline::Analysis;

const LOCK: u64 = 0x1000;
const OTHER: u64 = 0x2000;
const WAIT: u64 = 137;
const WAKE: u64 = 129;

fn side(tid: u32) -> UserSide {
    UserSide { ip: u64::from(tid), stack: None }
}

struct Scene(Words);

impl Scene {
    fn new() -> Self {
        Self(Words::new(100, Vec::new()))
    }

    fn record(&mut self, tid: u32, time_ns: u64, event: CallEvent) {
        let thread = ThreadId { tid, start_ns: 1 };
        self.0.call(&CallRecord { time_ns, cpu: 0, sequence: 0, thread, tgid: 7, event });
    }

    fn enter(&mut self, tid: u32, time_ns: u64, arguments: [u64; 6]) {
        self.record(
            tid,
            time_ns,
            CallEvent::Enter { number: 202, arguments, user: Some(side(tid)), words: Vec::new() },
        );
    }

    fn exit(&mut self, tid: u32, time_ns: u64, result: i64) {
        self.record(tid, time_ns, CallEvent::Exit { number: 202, result });
    }

    fn off(&mut self, tid: u32, start_ns: u64, end_ns: u64, wait: Wait, waker: Option<u32>) {
        let thread = ThreadId { tid, start_ns: 1 };
        let peer = |tid| Peer { tid, tgid: 7, comm: Comm::from_text("waker") };
        let waker = waker.map(|tid| Waker {
            peer: peer(tid),
            context: WakeContext::NoHandler,
            stack: Arc::default(),
        });
        let doing = Doing::OffCpu(OffCpu { wait, stack: KernelStack::Missing, user: None, waker });
        self.0.interval(Interval { thread, start_ns, end_ns, doing, left_cpu: true, truncated: false });
    }

    /// `waiter` sleeps on `word` from `start_ns`, until `waker` wakes it at `wake_ns`.
    fn wait_and_wake(&mut self, waiter: u32, waker: u32, word: u64, start_ns: u64, wake_ns: u64) {
        self.enter(waiter, start_ns, [word, WAIT, 2, 0, 0, 0]);
        self.enter(waker, wake_ns - 1, [word, WAKE, 1, 0, 0, 0]);
        self.exit(waker, wake_ns + 1, 1);
        self.off(waiter, start_ns + 1, wake_ns, Wait::Interruptible, Some(waker));
        self.off(waiter, wake_ns, wake_ns + 2, Wait::RunQueue, Some(waker));
        self.exit(waiter, wake_ns + 3, 0);
    }

    fn word(self, place: u64) -> Word {
        self.0.finish(1000).words.remove(&(7, place)).unwrap()
    }
}

fn row(word: &Word) -> &futex::Operation {
    word.operations.values().next().unwrap()
}

// 1 waits ---- 2 wakes it; then 2 waits ---- 1 wakes it: the lock goes round
#[test]
fn a_word_that_is_handed_on_is_contended() {
    let mut scene = Scene::new();
    scene.wait_and_wake(1, 2, LOCK, 110, 150);
    scene.wait_and_wake(2, 1, LOCK, 160, 190);
    let word = scene.word(LOCK);
    assert_eq!(word.evidence, Evidence { woken: 2, handed_on: 1, is_lock: false });
    assert_eq!(verdict(word.evidence), Verdict::Contention);
    assert_eq!((row(&word).asleep_ns, row(&word).run_queue_ns, row(&word).wall_ns), (39 + 29, 4, 43 + 33));
    let waker = &word.wakers[&2];
    assert_eq!((waker.waits, waker.by_operation, waker.operation), (1, 1, Some("FUTEX_WAKE")));
    assert_eq!(waker.user, Some(side(2)));
}

#[test]
fn a_word_that_one_thread_waits_on_and_another_wakes_is_a_passive_wait() {
    let mut scene = Scene::new();
    for round in 0..5 {
        scene.wait_and_wake(1, 2, LOCK, 110 + 50 * round, 150 + 50 * round);
    }
    let word = scene.word(LOCK);
    assert_eq!(verdict(word.evidence), Verdict::PassiveWait);
    assert_eq!(word.wakers.keys().copied().collect::<Vec<_>>(), [2]);
}

// 1 and 2 wait, 3 wakes all; then 2 and 3 wait, 1 wakes all: a barrier
#[test]
fn a_broadcast_hands_nothing_on() {
    let mut scene = Scene::new();
    scene.wait_and_wake(1, 3, LOCK, 110, 150);
    scene.enter(1, 160, [LOCK, WAKE, i32::MAX as u64, 0, 0, 0]);
    scene.exit(1, 161, 2);
    assert_eq!(verdict(scene.word(LOCK).evidence), Verdict::PassiveWait);
}

#[test]
fn a_wake_that_finds_nobody_hands_nothing_on() {
    let mut scene = Scene::new();
    scene.wait_and_wake(1, 2, LOCK, 110, 150);
    scene.enter(1, 160, [LOCK, WAKE, 1, 0, 0, 0]);
    scene.exit(1, 161, 0);
    assert_eq!(scene.word(LOCK).evidence.handed_on, 0);
}

// the waker wakes another word before the waiter is back
#[test]
fn a_waker_is_known_by_its_operation_at_the_time_of_the_wake() {
    let mut scene = Scene::new();
    scene.enter(1, 110, [LOCK, WAIT, 2, 0, 0, 0]);
    scene.enter(2, 149, [LOCK, WAKE, 1, 0, 0, 0]);
    scene.exit(2, 151, 1);
    scene.enter(2, 152, [OTHER, WAKE, 1, 0, 0, 0]);
    scene.exit(2, 153, 0);
    scene.off(1, 111, 150, Wait::Interruptible, Some(2));
    scene.exit(1, 160, 0);
    assert_eq!(scene.word(LOCK).wakers[&2].by_operation, 1);
}

// the kernel wakes at a thread's end (pthread_join): no operation on the word
#[test]
fn a_wake_without_an_operation_names_the_thread_and_no_operation() {
    let mut scene = Scene::new();
    scene.enter(2, 105, [OTHER, WAKE, 1, 0, 0, 0]);
    scene.exit(2, 106, 0);
    scene.enter(1, 110, [LOCK, WAIT, 2, 0, 0, 0]);
    scene.off(1, 111, 150, Wait::Interruptible, Some(2));
    scene.exit(1, 160, 0);
    let word = scene.word(LOCK);
    assert_eq!((word.wakers[&2].waits, word.wakers[&2].by_operation), (1, 0));
    assert!(word.wakers[&2].user.is_none());
}

#[test]
fn a_waiter_that_was_requeued_is_woken_through_the_second_word() {
    let mut scene = Scene::new();
    scene.enter(1, 110, [LOCK, WAIT, 2, 0, 0, 0]);
    scene.enter(2, 120, [LOCK, 132, 0, 1, OTHER, 2]);
    scene.exit(2, 121, 1);
    scene.enter(3, 149, [OTHER, WAKE, 1, 0, 0, 0]);
    scene.exit(3, 151, 1);
    scene.off(1, 111, 150, Wait::Interruptible, Some(3));
    scene.exit(1, 160, 0);
    assert_eq!(scene.word(LOCK).wakers[&3].by_operation, 1);
}

#[test]
fn every_end_of_a_wait_is_counted_under_its_own_name() {
    let mut scene = Scene::new();
    for (index, result) in [-110, -11, -4, -512, -22, 0].into_iter().enumerate() {
        let time_ns = 110 + 10 * index as u64;
        scene.enter(1, time_ns, [LOCK, WAIT, 2, 0, 0, 0]);
        scene.exit(1, time_ns + 5, result);
    }
    let word = scene.word(LOCK);
    let row = row(&word);
    let ends = (row.timed_out, row.value_changed, row.interrupted, row.failed, row.woken, row.waits);
    assert_eq!(ends, (1, 1, 2, 1, 1, 6));
    assert!(word.wakers.is_empty(), "it never slept, so nobody woke it");
}

#[test]
fn a_restarted_wait_goes_on_with_the_word_that_it_was_interrupted_on() {
    let mut scene = Scene::new();
    scene.enter(1, 110, [LOCK, WAIT, 2, 0x55, 0, 0]);
    scene.exit(1, 120, -516);
    scene.record(1, 130, CallEvent::Enter { number: 219, arguments: [0; 6], user: None, words: Vec::new() });
    scene.record(1, 140, CallEvent::Exit { number: 219, result: -110 });
    let word = scene.word(LOCK);
    assert_eq!((row(&word).interrupted, row(&word).timed_out, row(&word).waits), (1, 1, 2));
}

#[test]
fn a_thread_parked_through_the_window_is_known_from_its_seed() {
    let arguments = [LOCK, WAIT, 0, 0, 0, u64::from(u32::MAX)];
    let seed = SeedCall { tgid: 7, tid: 1, taken_ns: 105, number: 202, arguments };
    let mut scene = Scene(Words::new(100, vec![seed]));
    scene.off(1, 100, 1000, Wait::Interruptible, None);
    let word = scene.word(LOCK);
    assert_eq!(verdict(word.evidence), Verdict::NobodyWoke);
    let row = row(&word);
    assert_eq!((row.asleep_ns, row.in_flight_at_start, row.in_flight_at_end), (900, 1, 1));
}

#[test]
fn a_wait_of_several_words_is_charged_to_the_one_that_was_woken() {
    let mut scene = Scene::new();
    let words = vec![0, LOCK, 130, 0, OTHER, 130];
    scene.record(1, 110, CallEvent::Enter { number: 449, arguments: [9, 2, 0, 0, 0, 0], user: None, words });
    scene.record(1, 150, CallEvent::Exit { number: 449, result: 1 });
    let word = scene.word(OTHER);
    assert_eq!(row(&word).woken, 1);
}

#[test]
fn a_holder_that_ran_meanwhile_is_told_from_one_that_slept() {
    let mut scene = Scene::new();
    scene.off(2, 100, 110, Wait::Interruptible, None);
    scene.off(2, 120, 140, Wait::Interruptible, None);
    scene.wait_and_wake(1, 2, LOCK, 110, 150);
    assert_eq!(scene.word(LOCK).wakers[&2].ran_meanwhile_ns, 20);
}

#[test]
fn lost_events_mark_the_waits_that_they_touch() {
    let mut scene = Scene::new();
    scene.0.lost(Gap { start_ns: 120, end_ns: 130 });
    scene.wait_and_wake(1, 2, LOCK, 110, 150);
    scene.wait_and_wake(1, 2, OTHER, 160, 190);
    let summed = scene.0.finish(1000);
    assert!(summed.events_lost && summed.words[&(7, LOCK)].truncated && !summed.words[&(7, OTHER)].truncated);
}
