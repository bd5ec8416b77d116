//! Timelines, drawn, and then asserted. Times are in nanoseconds; the window opens at 100.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::comm::Comm;
use crate::decode::{Event, Record, Stack};
use crate::gaps::Gap;

const START: u64 = 100;
const SLEEP: u32 = 1;
const DEAD: u32 = 0x80;
const OLD: ThreadId = ThreadId { tid: 7, start_ns: 1 };

fn peer(tid: u32) -> Peer {
    Peer { tid, tgid: tid, comm: Comm::from_text("peer") }
}

fn stack(frame: u64) -> Stack {
    Stack { frames: Arc::from([frame]), truncated: false, failed: false }
}

fn switch_out(prev_state: u32) -> Event {
    let comm = Comm::from_text("thread");
    Event::SwitchOut { preempted: false, prev_state, user: None, stack: stack(5), comm }
}

fn preempted() -> Event {
    let comm = Comm::from_text("thread");
    Event::SwitchOut { preempted: true, prev_state: SLEEP, user: None, stack: stack(5), comm }
}

fn waking(tid: u32) -> Event {
    Event::Waking { waker: peer(tid), context: WakeContext::NoHandler, stack: stack(9) }
}

fn record(thread: ThreadId, time_ns: u64, event: Event) -> Record {
    Record { time_ns, cpu: 0, sequence: 0, thread, tgid: 7, event }
}

fn seed(tid: u32, taken_ns: u64, state: SeedState) -> Seed {
    let kernel = Some(Arc::from(["ep_poll".to_owned()]));
    let comm = Comm::from_text("seeded");
    Seed { tid, tgid: 7, start_ns: 1, taken_ns, comm, state, kernel, user: None, ran_ns: Some(1000) }
}

/// One line an interval: `start-end what (waker)`, with `!` where it is truncated.
fn draw(intervals: &[Interval]) -> Vec<String> {
    let line = |interval: &Interval| {
        let what = match &interval.doing {
            Doing::OnCpu => "on".to_owned(),
            Doing::Unknown => "unknown".to_owned(),
            Doing::OffCpu(off) => {
                let waker = off.waker.as_ref().map(|waker| format!(" by {}", waker.peer.tid));
                format!("{:?}{}", off.wait, waker.unwrap_or_default())
            }
        };
        let mark = if interval.truncated { "!" } else { "" };
        format!("{}-{} {what}{mark}", interval.start_ns, interval.end_ns)
    };
    intervals.iter().map(line).collect()
}

fn build(seeds: Vec<Seed>, gaps: &[Gap], records: &[Record], end_ns: u64, ran_ns: u64) -> Vec<Interval> {
    let mut builder = Builder::new(START, seeds);
    let mut intervals = Vec::new();
    for gap in gaps {
        builder.lost(*gap);
    }
    for record in records {
        builder.record(record, &mut |interval| intervals.push(interval));
    }
    builder.finish(end_ns, &HashMap::from([(7, ran_ns)]), &mut |interval| intervals.push(interval));
    intervals
}

/// The intervals of one thread from its events up to 200, without a seed.
fn check(events: &[(u64, Event)], expected: &[&str]) {
    let records: Vec<Record> =
        events.iter().map(|(time_ns, event)| record(OLD, *time_ns, event.clone())).collect();
    assert_eq!(draw(&build(Vec::new(), &[], &records, 200, 0)), expected);
}

// 100      120        150     155       200
//  |--on----|--asleep--|-queue-|---on----|
//          out        waking   in
#[test]
fn a_sleep_is_split_where_it_is_woken() {
    check(
        &[(120, switch_out(SLEEP)), (150, waking(9)), (155, Event::SwitchIn)],
        &["100-120 on", "120-150 Interruptible by 9", "150-155 RunQueue by 9", "155-200 on"],
    );
}

// 100      120                155       200
//  |--on----|---- queue -------|---on----|
//          out (preempted, though its state was "asleep")
#[test]
fn a_preempted_thread_waits_for_a_cpu_all_the_time() {
    check(&[(120, preempted()), (155, Event::SwitchIn)], &["100-120 on", "120-155 Preempted", "155-200 on"]);
}

// 100      119 120            155       200
//  |--on---w----|--- queue -----|---on----|
// The waker on another CPU is stamped before the switch that it waits for.
#[test]
fn a_wake_up_that_overtakes_the_switch_belongs_to_that_sleep() {
    check(
        &[(110, Event::SwitchIn), (119, waking(9)), (120, switch_out(SLEEP)), (155, Event::SwitchIn)],
        &["100-110 RunQueue", "110-120 on", "120-155 RunQueue by 9", "155-200 on"],
    );
}

// 100    110 115     120          150 155      200
//  |-queue|-w--on-----|---asleep---|---|---on---|
// The first wake-up was over before the thread slept; the second one ends the sleep.
#[test]
fn an_early_wake_up_that_was_used_up_gives_way_to_the_real_one() {
    check(
        &[
            (110, Event::SwitchIn),
            (115, waking(8)),
            (120, switch_out(SLEEP)),
            (150, waking(9)),
            (155, Event::SwitchIn),
        ],
        &[
            "100-110 RunQueue",
            "110-120 on",
            "120-150 Interruptible by 9",
            "150-155 RunQueue by 9",
            "155-200 on",
        ],
    );
}

// 100      120                              200
//  |--on----|------------asleep--------------|
#[test]
fn a_thread_still_asleep_at_the_end_is_counted_up_to_it() {
    check(&[(120, switch_out(2))], &["100-120 on", "120-200 Uninterruptible"]);
}

// 100      120     200
//  |--on----x
#[test]
fn a_thread_that_ends_has_no_time_afterwards() {
    check(&[(120, switch_out(DEAD))], &["100-120 on"]);
}

//          130      140        200
//           |-queue--|---on-----|
#[test]
fn a_thread_born_inside_the_window_has_no_time_before() {
    let born = ThreadId { tid: 8, start_ns: 130 };
    let records = [record(born, 131, Event::Born { maker: peer(7) }), record(born, 140, Event::SwitchIn)];
    assert_eq!(draw(&build(Vec::new(), &[], &records, 200, 0)), ["130-140 RunQueue by 7", "140-200 on"]);
}

// 100  105(look)     150   155     200
//  |------asleep------|--q--|--on---|
#[test]
fn a_thread_asleep_at_the_start_is_counted_from_it_with_the_stack_it_slept_in() {
    let records = [record(OLD, 150, waking(9)), record(OLD, 155, Event::SwitchIn)];
    let asleep = seed(7, 105, SeedState::Waiting(Wait::Interruptible));
    let intervals = build(vec![asleep], &[], &records, 200, 0);
    assert_eq!(draw(&intervals), ["100-150 Interruptible by 9", "150-155 RunQueue by 9", "155-200 on"]);
    let Doing::OffCpu(off) = &intervals[0].doing else { panic!("{intervals:?}") };
    assert_eq!(off.stack, KernelStack::Names(Arc::from(["ep_poll".to_owned()])));
}

// 100        150   155 160(look)   200
//  |----?-----|--q--|--on-----------|
#[test]
fn a_look_taken_after_the_first_event_says_nothing_about_the_start() {
    let records = [record(OLD, 150, waking(9)), record(OLD, 155, Event::SwitchIn)];
    let asleep = seed(7, 160, SeedState::Waiting(Wait::Interruptible));
    assert_eq!(
        draw(&build(vec![asleep], &[], &records, 200, 0)),
        ["100-150 Unknown by 9", "150-155 RunQueue by 9", "155-200 on"]
    );
}

#[test]
fn a_thread_without_any_event_did_one_thing_all_the_time() {
    let silent = |state, ran_ns| draw(&build(vec![seed(7, 105, state)], &[], &[], 200, ran_ns));
    assert_eq!(silent(SeedState::Waiting(Wait::Interruptible), 0), ["100-200 Interruptible"]);
    assert_eq!(silent(SeedState::Runnable, 1090), ["100-200 on"]);
    assert_eq!(silent(SeedState::Runnable, 1000), ["100-200 Preempted"]);
    assert!(silent(SeedState::Dead, 0).is_empty());
}

// 100    120        140              180      200
//  |--on--|--asleep--|...lost: in ...|-queue---|
#[test]
fn a_thread_that_only_calls_is_the_one_that_its_records_name() {
    // A look at /proc knows the start to a clock tick: 1 in place of 3.
    let calls = ThreadId { start_ns: 3, ..OLD };
    let mut builder = Builder::new(START, [seed(7, 105, SeedState::Runnable)]);
    builder.saw(calls, 7);
    builder.saw(calls, 7);
    let mut intervals = Vec::new();
    let ran_ns = HashMap::from([(7, 1090)]);
    let finished = builder.finish(200, &ran_ns, &mut |interval| intervals.push(interval));
    assert_eq!(draw(&intervals), ["100-200 on"]);
    assert_eq!(intervals[0].thread, calls);
    assert_eq!(finished.notes.iter().map(|note| note.thread).collect::<Vec<_>>(), [calls]);
}

#[test]
fn an_interval_that_touches_a_loss_is_marked_and_not_shortened() {
    let gap = Gap { start_ns: 140, end_ns: 150 };
    let records = [record(OLD, 120, switch_out(SLEEP)), record(OLD, 180, preempted())];
    assert_eq!(
        draw(&build(Vec::new(), &[gap], &records, 200, 0)),
        ["100-120 on", "120-180 Interruptible!", "180-200 Preempted"]
    );
}

// 100    120        140      150              180      200
//  |--on--|--asleep--|--queue-- (in, unseen) ---|-queue---|
#[test]
fn an_unseen_switch_in_is_marked_and_leaves_the_sleep_alone() {
    check(
        &[(120, switch_out(SLEEP)), (140, waking(9)), (180, preempted())],
        &["100-120 on", "120-140 Interruptible by 9", "140-180 RunQueue by 9!", "180-200 Preempted"],
    );
}

#[test]
fn a_contradiction_without_a_loss_is_counted() {
    let mut builder = Builder::new(START, Vec::new());
    for time_ns in [120, 180] {
        builder.record(&record(OLD, time_ns, preempted()), &mut |_| {});
    }
    assert_eq!(builder.finish(200, &HashMap::new(), &mut |_| {}).unpaired, 1);
}

#[test]
fn a_reused_thread_id_is_another_thread() {
    let second = ThreadId { tid: 7, start_ns: 150 };
    let records = [
        record(OLD, 120, switch_out(DEAD)),
        record(second, 160, Event::SwitchIn),
        record(second, 170, switch_out(DEAD)),
    ];
    let intervals = build(Vec::new(), &[], &records, 200, 0);
    assert_eq!(draw(&intervals), ["100-120 on", "150-160 RunQueue", "160-170 on"]);
    assert_ne!(intervals[0].thread, intervals[1].thread);
}

// intervals   |----a----|--b--|------c------|
// windows         |--1--|  |2|   |--3--|
#[test]
fn intervals_are_cut_to_windows_and_a_switch_counts_where_it_happened() {
    let records =
        [record(OLD, 120, switch_out(SLEEP)), record(OLD, 150, waking(9)), record(OLD, 155, Event::SwitchIn)];
    let windows = Windows::new(&[(170, 180), (110, 130), (152, 156)]).unwrap();
    let mut parts = Vec::new();
    for interval in build(Vec::new(), &[], &records, 200, 0) {
        windows.clip(&interval, &mut |part| parts.push(part));
    }
    assert_eq!(
        draw(&parts),
        ["110-120 on", "120-130 Interruptible by 9", "152-155 RunQueue by 9", "155-156 on", "170-180 on"]
    );
    assert_eq!(parts.iter().filter(|part| part.left_cpu).count(), 1);
    assert_eq!(windows.total_ns(), 34);
}

#[test]
fn windows_must_have_length_and_not_overlap() {
    assert_eq!(Windows::new(&[]), Err(WindowsError::None));
    assert_eq!(Windows::new(&[(5, 5)]), Err(WindowsError::Empty(5, 5)));
    assert_eq!(Windows::new(&[(10, 20), (0, 11)]), Err(WindowsError::Overlap(10)));
    assert!(Windows::new(&[(10, 20), (0, 10)]).is_ok());
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::SwitchIn),
        prop_oneof![Just(0), Just(SLEEP), Just(2), Just(0x102), Just(DEAD)].prop_map(switch_out),
        Just(preempted()),
        (0u32..20).prop_map(waking),
        Just(Event::Born { maker: peer(1) }),
    ]
}

fn any_seed() -> impl Strategy<Value = Seed> {
    let states = prop_oneof![
        Just(SeedState::Runnable),
        Just(SeedState::Waiting(Wait::Interruptible)),
        Just(SeedState::Waiting(Wait::Stopped)),
    ];
    (1u32..5, 100u64..200, states).prop_map(|(tid, taken_ns, state)| seed(tid, taken_ns, state))
}

proptest! {
    /// Whatever the events, and whatever was lost: each thread's intervals begin at the window's start or
    /// its birth, follow each other without hole or overlap, and end at the window's end, or before it
    /// where the thread ended.
    #[test]
    fn intervals_tile_each_threads_time(
        mut events in prop::collection::vec((90u64..300, 1u32..5, prop_oneof![Just(1u64), 100u64..200], any_event()), 0..60),
        seeds in prop::collection::vec(any_seed(), 0..4),
        gaps in prop::collection::vec((100u64..300, 0u64..50), 0..3),
        ran_ns: u64,
    ) {
        events.sort_by_key(|(time_ns, ..)| *time_ns);
        let records: Vec<Record> = events
            .into_iter()
            .map(|(time_ns, tid, start_ns, event)| record(ThreadId { tid, start_ns }, time_ns.max(start_ns), event))
            .collect();
        let gaps: Vec<Gap> =
            gaps.into_iter().map(|(start_ns, length)| Gap { start_ns, end_ns: start_ns + length }).collect();
        let end_ns = 400;
        let mut threads: HashMap<ThreadId, Vec<Interval>> = HashMap::new();
        for interval in build(seeds, &gaps, &records, end_ns, ran_ns) {
            threads.entry(interval.thread).or_default().push(interval);
        }
        let died = |thread: ThreadId| {
            records.iter().any(|record| {
                record.thread == thread
                    && matches!(record.event, Event::SwitchOut { prev_state: DEAD, preempted: false, .. })
            })
        };
        for record in &records {
            prop_assert!(threads.contains_key(&record.thread) || died(record.thread));
        }
        for (thread, intervals) in threads {
            let birth_ns = START.max(thread.start_ns);
            prop_assert_eq!(intervals[0].start_ns, birth_ns);
            for pair in intervals.windows(2) {
                prop_assert_eq!(pair[0].end_ns, pair[1].start_ns);
            }
            let last_ns = intervals.last().map_or(birth_ns, |last| last.end_ns);
            prop_assert!(last_ns == end_ns || died(thread), "{thread:?} ends at {last_ns}");
            let sum_ns: u64 = intervals.iter().map(Interval::length_ns).sum();
            prop_assert_eq!(sum_ns, last_ns - birth_ns);
            for interval in intervals {
                let touches = gaps.iter().any(|gap| {
                    gap.start_ns <= interval.end_ns && gap.end_ns >= interval.start_ns
                });
                prop_assert!(!touches || interval.truncated);
            }
        }
    }
}
