//! Timelines, drawn, and then asserted. Times are in nanoseconds; the window opens at 100.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::comm::Comm;
use crate::decode::{Peer, WakeContext};
use crate::gaps::Gap;
use crate::interval::{Doing, Interval, KernelStack, OffCpu, Wait};

const START: u64 = 100;
const READ: u32 = 0;
const OLD: ThreadId = ThreadId { tid: 7, start_ns: 1 };

enum Step {
    Enter(u64, u32),
    Exit(u64, u32, i64),
    Asleep(u64, u64),
    Queued(u64, u64),
}

use Step::{Asleep, Enter, Exit, Queued};

fn record(thread: ThreadId, time_ns: u64, event: CallEvent) -> CallRecord {
    CallRecord { time_ns, cpu: 0, sequence: 0, thread, tgid: 7, event }
}

fn off(thread: ThreadId, start_ns: u64, end_ns: u64, wait: Wait) -> Interval {
    let peer = Peer { tid: 9, tgid: 9, comm: Comm::from_text("waker") };
    let waker = Some(Waker { peer, context: WakeContext::NoHandler, stack: Arc::default() });
    let doing = Doing::OffCpu(OffCpu { wait, stack: KernelStack::Missing, user: None, waker });
    Interval { thread, start_ns, end_ns, doing, left_cpu: true, truncated: false }
}

fn run(thread: ThreadId, seeds: Vec<SeedCall>, steps: &[Step], end_ns: u64) -> Vec<Call> {
    let mut calls = Calls::new(START, seeds);
    let mut out = Vec::new();
    for step in steps {
        let mut emit = |call| out.push(call);
        match *step {
            Enter(time_ns, number) => {
                let event = CallEvent::Enter { number, arguments: [0; 6], user: None, words: Vec::new() };
                calls.record(&record(thread, time_ns, event), &mut emit);
            }
            Exit(time_ns, number, result) => {
                calls.record(&record(thread, time_ns, CallEvent::Exit { number, result }), &mut emit);
            }
            Asleep(from, to) => calls.interval(&off(thread, from, to, Wait::Interruptible)),
            Queued(from, to) => calls.interval(&off(thread, from, to, Wait::RunQueue)),
        }
    }
    calls.finish(end_ns, &mut |call| out.push(call));
    out
}

/// `number start-end asleep/queued/on = result`, with `<` in flight at the start and `!` truncated.
fn draw(calls: &[Call]) -> Vec<String> {
    let line = |call: &Call| {
        format!(
            "{} {}{}-{} {}/{}/{} = {}{}",
            call.number,
            if call.in_flight_at_start { "<" } else { "" },
            call.start_ns,
            call.end_ns,
            call.spent.asleep_ns,
            call.spent.run_queue_ns,
            call.on_cpu_ns(),
            call.result.map_or("open".to_owned(), |result| result.to_string()),
            if call.truncated { "!" } else { "" },
        )
    };
    calls.iter().map(line).collect()
}

fn check(steps: &[Step], expected: &[&str]) {
    assert_eq!(draw(&run(OLD, Vec::new(), steps, 200)), expected);
}

fn seed(number: u32) -> SeedCall {
    SeedCall { tgid: 7, tid: 7, taken_ns: 105, number, arguments: [42; 6] }
}

// read   110 |--on--120 asleep 150 queued 155 on--| 160
#[test]
fn a_calls_time_is_split_by_its_threads_intervals() {
    let steps = [Enter(110, READ), Asleep(120, 150), Queued(150, 155), Exit(160, READ, 4)];
    check(&steps, &["0 110-160 30/5/15 = 4"]);
}

#[test]
fn a_sleep_outside_every_call_belongs_to_none() {
    let steps =
        [Enter(110, READ), Exit(112, READ, 0), Queued(115, 140), Enter(150, READ), Exit(151, READ, 0)];
    check(&steps, &["0 110-112 0/0/2 = 0", "0 150-151 0/0/1 = 0"]);
}

// asleep since before the window | 150 exit
#[test]
fn a_call_in_flight_at_the_start_is_clamped_and_marked() {
    check(&[Asleep(100, 150), Exit(150, READ, -4)], &["0 <100-150 50/0/0 = -4"]);
}

#[test]
fn a_call_in_flight_at_the_end_is_clamped_and_has_no_result() {
    check(&[Enter(150, READ), Asleep(160, 200)], &["0 150-200 40/0/10 = open"]);
}

#[test]
fn a_thread_without_an_event_is_in_the_call_that_its_seed_shows() {
    let calls = run(OLD, vec![seed(202)], &[Asleep(100, 200)], 200);
    assert_eq!(draw(&calls), ["202 <100-200 100/0/0 = open"]);
    assert_eq!(calls[0].arguments, Some([42; 6]));
    assert_eq!(calls[0].waker.as_ref().map(|waker| waker.peer.tid), Some(9));
}

#[test]
fn a_seed_gives_arguments_to_the_call_that_it_saw_and_to_no_other() {
    let arguments =
        |number, exit_ns| run(OLD, vec![seed(202)], &[Exit(exit_ns, number, 0)], 200)[0].arguments;
    assert_eq!(arguments(202, 150), Some([42; 6]));
    assert_eq!(arguments(0, 150), None, "another call");
    assert_eq!(arguments(202, 103), None, "left before the look: the look saw the next one");
}

#[test]
fn a_lost_exit_ends_the_call_at_the_next_one_and_marks_it() {
    check(
        &[Enter(110, READ), Enter(140, 1), Exit(150, 1, 0)],
        &["0 110-140 0/0/30 = open!", "1 140-150 0/0/10 = 0"],
    );
    check(&[Enter(110, READ), Exit(120, 1, 0)], &["0 110-120 0/0/10 = 0!"]);
}

#[test]
fn the_end_of_a_thread_is_no_call_in_flight_and_a_birth_is_no_call() {
    check(&[Enter(150, 60)], &[]);
    let born = ThreadId { tid: 8, start_ns: 120 };
    assert_eq!(draw(&run(born, Vec::new(), &[Exit(125, 56, 0)], 200)), [""; 0]);
}

#[test]
fn a_return_from_a_signal_handler_is_no_loss() {
    check(&[Enter(110, 15), Exit(111, u32::MAX, 0)], &["15 110-111 0/0/1 = 0"]);
}

#[test]
fn a_gap_marks_the_calls_that_it_touches() {
    let mut calls = Calls::new(START, []);
    calls.lost(Gap { start_ns: 115, end_ns: 118 });
    let mut out = Vec::new();
    for (enter_ns, exit_ns) in [(110, 120), (130, 140)] {
        let enter = CallEvent::Enter { number: 1, arguments: [0; 6], user: None, words: Vec::new() };
        calls.record(&record(OLD, enter_ns, enter), &mut |call| out.push(call));
        let exit = CallEvent::Exit { number: 1, result: 0 };
        calls.record(&record(OLD, exit_ns, exit), &mut |call| out.push(call));
    }
    assert_eq!(draw(&out), ["1 110-120 0/0/10 = 0!", "1 130-140 0/0/10 = 0"]);
}

proptest! {
    /// Whatever comes in whatever order, calls of one thread do not overlap and lie in the window.
    #[test]
    fn calls_of_a_thread_never_overlap(mut times in prop::collection::vec((100u64..400, any::<bool>(), 0u32..3), 0..40)) {
        times.sort_unstable();
        let steps: Vec<Step> = times
            .iter()
            .map(|(time, enter, number)| if *enter { Enter(*time, *number) } else { Exit(*time, *number, 0) })
            .collect();
        let calls = run(OLD, Vec::new(), &steps, 400);
        for pair in calls.windows(2) {
            prop_assert!(pair[0].end_ns <= pair[1].start_ns, "{:?}", draw(&calls));
        }
        for call in &calls {
            prop_assert!(call.start_ns >= START && call.end_ns <= 400 && call.start_ns <= call.end_ns);
            prop_assert_eq!(call.on_cpu_ns(), call.wall_ns());
        }
    }
}
