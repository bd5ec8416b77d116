use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::aggregate::{Names, UserNames};
use crate::comm::Comm;
use crate::decode::{Event, Peer, Record, Stack, ThreadId, UserSide, WakeContext};
use crate::interval::{Seed, SeedState, Wait};

/// Kernel frames of the scenarios: an address is an index into this, and stands for the stack from there to the
/// next empty name.
const KERNEL: &[&str] = &[
    "",
    // 1: a throttled fsync
    "io_schedule",
    "rq_qos_wait",
    "wbt_wait",
    "__rq_qos_throttle",
    "blk_mq_submit_bio",
    "ext4_io_submit",
    "ext4_do_writepages",
    "file_write_and_wait_range",
    "ext4_sync_file",
    "__x64_sys_fsync",
    "do_syscall_64",
    "",
    // 13: a futex wait
    "futex_do_wait",
    "__futex_wait",
    "futex_wait",
    "do_futex",
    "__x64_sys_futex",
    "do_syscall_64",
    "",
    // 20: asleep for a time
    "do_nanosleep",
    "hrtimer_nanosleep",
    "__x64_sys_clock_nanosleep",
    "do_syscall_64",
    "",
    // 25: writing to memory
    "copy_page_from_iter_atomic",
    "generic_perform_write",
    "shmem_file_write_iter",
    "vfs_write",
    "ksys_write",
    "do_syscall_64",
    "",
    // 32: a timer interrupt that wakes
    "try_to_wake_up",
    "hrtimer_wakeup",
    "__hrtimer_run_queues",
    "asm_sysvec_apic_timer_interrupt",
    "",
    // 37: nothing that the table knows
    "some_driver_wait",
    "some_driver_ioctl",
    "__x64_sys_ioctl",
    "do_syscall_64",
    "",
    // 42: out of CPU time
    "throttle_cfs_rq_work",
    "task_work_run",
    "exit_to_user_mode_loop",
    "",
    // 46: no name, and the thunk of a call
    "0xffffffffc0123456",
    "__pi___x86_indirect_thunk_rdx",
    "ret_from_fork",
    "",
];
const WBT: u64 = 1;
const FUTEX: u64 = 13;
const SLEEP: u64 = 20;
const COPY: u64 = 25;
const TIMER: u64 = 32;
const STRANGE: u64 = 37;
const THROTTLED: u64 = 42;
const NAMELESS: u64 = 46;

struct Book;

impl Names for Book {
    fn kernel(&mut self, frames: &[u64]) -> Vec<String> {
        let from = frames.first().map_or(&[][..], |first| &KERNEL[*first as usize..]);
        from.iter().take_while(|name| !name.is_empty()).map(|name| (*name).to_owned()).collect()
    }

    fn user(&mut self, _: u32, user: &UserSide) -> UserNames {
        let name = if user.ip == 2 { "std::sync::Mutex::lock_contended" } else { "main" };
        UserNames { frames: vec![name.to_owned()], truncated: false }
    }
}

fn stack(at: u64) -> Stack {
    let frames: Arc<[u64]> = if at == 0 { Arc::from([]) } else { Arc::from([at]) };
    Stack { frames, truncated: false, failed: false }
}

fn record(tid: u32, time_ns: u64, event: Event) -> Record {
    let thread = ThreadId { tid, start_ns: 0 };
    Record { time_ns, cpu: tid % 2, sequence: 0, thread, tgid: 100 + tid, event }
}

fn comm(tid: u32) -> Comm {
    Comm::from_text(&format!("t{tid}"))
}

fn out(tid: u32, time_ns: u64, prev_state: u32, at: u64, ip: u64) -> Record {
    let user = Some(UserSide { ip, stack: None });
    let (preempted, stack) = (prev_state == 0, stack(at));
    record(tid, time_ns, Event::SwitchOut { preempted, prev_state, user, stack, comm: comm(tid) })
}

fn into(tid: u32, time_ns: u64) -> Record {
    record(tid, time_ns, Event::SwitchIn)
}

fn wake(tid: u32, time_ns: u64, by: u32, at: u64) -> Record {
    let waker = Peer { tid: by, tgid: 100 + by, comm: comm(by) };
    record(tid, time_ns, Event::Waking { waker, context: WakeContext::NoHandler, stack: stack(at) })
}

fn sample(tid: u32, time_ns: u64, at: u64) -> Sample {
    let kernel = stack(at).frames;
    Sample {
        time_ns,
        tid,
        tgid: 100 + tid,
        comm: comm(tid),
        kernel,
        user: Some(UserSide { ip: 1, stack: None }),
    }
}

fn window(end_ns: u64) -> Window {
    Window { start_ns: 0, end_ns, tid: 1, label: "test".to_owned(), clamped: false }
}

/// The pieces as `start-end tid cause`, and `-` for no cause.
fn pieces(end_ns: u64, records: &[Record], samples: Vec<Sample>, facts: &Facts) -> Vec<String> {
    let timelines = Timelines::of((0, end_ns), records, Vec::new(), &[], samples);
    attribute(&window(end_ns), &timelines, facts, 50, &mut Book)
        .iter()
        .map(|piece| {
            let cause = piece.cause.map_or("-", Cause::id);
            format!("{}-{} {} {cause}", piece.start_ns, piece.end_ns, piece.tid)
        })
        .collect()
}

fn check(end_ns: u64, records: &[Record], samples: Vec<Sample>, expected: &[&str]) {
    assert_eq!(pieces(end_ns, records, samples, &Facts::default()), expected);
}

// 1: runs 0-100 | throttled 100-800, woken by an interrupt of the idle CPU | queued 800-900 | runs 900-1000. Looks at 20
// and 950 reach 50 ns, the call around the wait reaches 6.
#[test]
fn a_wait_is_its_stacks_cause_and_the_queue_after_it_is_apart() {
    let records =
        [out(1, 100, 2, WBT, 1), wake(1, 800, 0, 0), into(1, 900), out(1, 1000, 2, WBT, 1), into(1, 1000)];
    check(
        1000,
        &records,
        vec![sample(1, 20, COPY), sample(1, 950, COPY)],
        &[
            "0-70 1 dirty_page_copy",
            "70-94 1 -",
            "94-100 1 file_system_work",
            "100-800 1 writeback_throttle",
            "800-900 1 run_queue",
            "900-906 1 file_system_work",
            "906-1000 1 dirty_page_copy",
        ],
    );
}

// 1: waits on a futex 100-900 for 2, which sleeps 100-700 (a timer wakes it) and runs 700-900
#[test]
fn a_passive_wait_is_the_time_of_whom_it_waits_for() {
    let records = [
        out(1, 100, 1, FUTEX, 1),
        out(2, 100, 1, SLEEP, 1),
        wake(2, 700, 9, TIMER),
        into(2, 700),
        wake(1, 900, 2, 0),
        into(1, 900),
    ];
    let samples = vec![sample(1, 50, COPY), sample(2, 800, COPY), sample(1, 950, COPY)];
    let found = pieces(1000, &records, samples, &Facts::default());
    assert!(found.contains(&"100-700 2 timer".to_owned()), "{found:?}");
    assert!(found.iter().filter(|piece| piece.contains(" 2 ")).count() >= 2, "{found:?}");
    assert!(!found.iter().any(|piece| piece.contains("futex")), "{found:?}");
}

// 1: waits for a lock 100-900 that 2 has, and 2 sleeps meanwhile
#[test]
fn a_wait_for_a_lock_names_its_holder() {
    let records = [
        out(1, 100, 1, FUTEX, 2),
        out(2, 100, 1, SLEEP, 1),
        wake(2, 850, 9, TIMER),
        into(2, 850),
        wake(1, 900, 2, 0),
        into(1, 900),
    ];
    let timelines = Timelines::of((0, 900), &records, Vec::new(), &[], vec![sample(1, 60, COPY)]);
    let found = attribute(&window(900), &timelines, &Facts::default(), 100, &mut Book);
    let lock = found.iter().find(|piece| piece.cause == Some(Cause::FutexContention)).unwrap();
    assert_eq!((lock.start_ns, lock.end_ns, lock.detail.as_str()), (100, 900, "held by t2(2)"));
    assert_eq!(
        lock.chain.last().map(String::as_str),
        Some("t2(2) meanwhile was in sleeping until a time (do_nanosleep)")
    );
}

#[test]
fn without_evidence_there_is_no_cause() {
    // On a CPU, and nobody looked: the stack of the call in which it went to sleep reaches an eighth of a look's 50 ns.
    check(
        1000,
        &[out(1, 900, 1, SLEEP, 1)],
        vec![],
        &["0-894 1 -", "894-900 1 kernel_work", "900-1000 1 timer"],
    );
    // The call that it was in before the window is none of the window's.
    let records = [out(1, 900, 1, SLEEP, 1), into(1, 950)];
    let timelines = Timelines::of((0, 1000), &records, Vec::new(), &[], vec![]);
    let late = Window { start_ns: 952, end_ns: 1000, ..window(0) };
    let found = attribute(&late, &timelines, &Facts::default(), 400, &mut Book);
    assert!(found.iter().all(|piece| piece.cause.is_none()), "{found:?}");
    // One that was taken off the CPU was looked at.
    check(
        1000,
        &[out(1, 900, 0, COPY, 1), into(1, 1000)],
        vec![],
        &["0-850 1 -", "850-900 1 dirty_page_copy", "900-1000 1 run_queue"],
    );
    // Addresses only.
    check(100, &[], vec![sample(1, 50, NAMELESS)], &["0-100 1 -"]);
    // A function that no row of the table knows, and an interrupt that says nothing.
    check(1000, &[out(1, 0, 2, STRANGE, 1), wake(1, 1000, 0, 0), into(1, 1000)], vec![], &["0-1000 1 -"]);
    // A thread that nothing was seen of.
    check(1000, &[], vec![sample(1, 10, COPY)], &["0-1000 1 -"]);
}

#[test]
fn a_used_up_quota_is_no_queue() {
    let records = [out(1, 0, 0, THROTTLED, 1), into(1, 1000)];
    check(1000, &records, vec![], &["0-1000 1 cpu_quota"]);
}

// 1 is taken off CPU 1 at 0; 3 has that CPU 0-600 and 5 has it 600-1000
#[test]
fn a_wait_for_a_cpu_names_who_had_it_longest() {
    let records = [
        out(1, 0, 0, COPY, 1),
        into(3, 0),
        out(3, 600, 1, SLEEP, 1),
        into(5, 600),
        out(5, 1000, 1, SLEEP, 1),
        into(1, 1000),
    ];
    let timelines = Timelines::of((0, 1000), &records, Vec::new(), &[], vec![]);
    let found = attribute(&window(1000), &timelines, &Facts::default(), 50, &mut Book);
    assert_eq!((found.len(), found[0].cause), (1, Some(Cause::RunQueue)));
    assert_eq!(found[0].detail, "behind t3(3) on CPU 1");
}

#[test]
fn the_chain_leads_from_the_call_through_the_cause_to_who_fills_the_device() {
    let facts = Facts {
        syncs: vec![SyncSpan {
            tid: 1,
            start_ns: 0,
            end_ns: 1000,
            file: "memory.bin".to_owned(),
            device: "loop0".to_owned(),
        }],
        dirty: vec![Dirty { device: "loop0".to_owned(), tgid: 4711, comm: "cp".to_owned(), bytes: 1 << 30 }],
        ..Facts::default()
    };
    let records = [out(1, 0, 2, WBT, 1), wake(1, 1000, 0, 0), into(1, 1000)];
    let timelines = Timelines::of((0, 1000), &records, Vec::new(), &[], vec![]);
    let found = attribute(&window(1000), &timelines, &facts, 50, &mut Book);
    assert_eq!(
        found[0].chain.join(" -> "),
        "fsync of memory.bin -> writeback throttle on loop0 -> 1 GiB of dirty pages by cp(4711)"
    );
}

#[test]
fn time_before_the_driver_has_the_request_is_the_queues() {
    let request = RequestSpan {
        device: "vda".to_owned(),
        made_ns: 10,
        issued_ns: 600,
        completed_ns: 990,
        bytes: 4096,
        operation: "read",
        tid: 1,
        comm: "t1".to_owned(),
        owner: None,
    };
    let facts = Facts { requests: vec![request], ..Facts::default() };
    // No row knows its frames, and an interrupt woke it right after a request was complete.
    let records = [out(1, 0, 2, STRANGE, 1), wake(1, 1000, 0, 0), into(1, 1000)];
    assert_eq!(pieces(1000, &records, vec![], &facts), ["0-600 1 request_queue", "600-1000 1 device_time"]);
}

#[test]
fn causes_and_the_unexplained_sum_to_the_window_and_loss_makes_the_verdict_unsound() {
    let records = [out(1, 400, 2, WBT, 1), wake(1, 900, 0, 0), into(1, 900)];
    let timelines = Timelines::of((0, 1000), &records, Vec::new(), &[], vec![]);
    let around = Surroundings { reach_ns: 50, lost: 3, ..Surroundings::default() };
    let explained = explain(&window(1000), &timelines, &Facts::default(), around, &mut Book);
    assert_eq!(explained.causes.iter().map(|cause| cause.ns).sum::<u64>() + explained.unexplained_ns, 1000);
    assert_eq!(explained.verdict.cause.as_deref(), Some("writeback_throttle"));
    assert!(!explained.verdict.sound && explained.verdict.sentence.contains("3 events were lost"));
    let advice = &explained.verdict.advice[0];
    assert_eq!(
        (advice.removes.join(" "), advice.predicted_ns, advice.action.as_deref()),
        ("writeback_throttle file_system_work".to_owned(), 488, Some("data_path=stage"))
    );
}

#[test]
fn threads_that_waited_all_the_time_are_passive_and_no_cause() {
    let seed = |tid| Seed {
        tid,
        tgid: 101,
        start_ns: 1,
        taken_ns: 990,
        comm: comm(tid),
        state: SeedState::Waiting(Wait::Interruptible),
        kernel: Some(Arc::from(["futex_do_wait".to_owned()])),
        user: None,
        ran_ns: None,
    };
    let records = [out(1, 10, 2, WBT, 1), wake(1, 900, 0, 0), into(1, 900)];
    let timelines = Timelines::of((0, 1000), &records, vec![seed(7), seed(8)], &[], vec![]);
    let around = Surroundings { pids: vec![101], reach_ns: 50, ..Surroundings::default() };
    let explained = explain(&window(1000), &timelines, &Facts::default(), around, &mut Book);
    let waiters: Vec<(u32, u64, &str)> =
        explained.passive_waiters.iter().map(|it| (it.tid, it.ns, it.waits_in.as_str())).collect();
    assert_eq!(waiters, [(7, 1000, "futex_do_wait"), (8, 1000, "futex_do_wait")]);
    assert!(explained.causes.iter().all(|cause| cause.cause != "futex_wait"));
}

/// What a thread does next, in any order and also such as no kernel would report.
fn any_record() -> impl Strategy<Value = Record> {
    let places = prop::sample::select(vec![0, WBT, FUTEX, SLEEP, COPY, STRANGE, THROTTLED]);
    (1u32..5, 0u64..2000, 0usize..4, places, 0u32..6, 0u32..3).prop_map(
        |(tid, time_ns, kind, at, other, state)| match kind {
            0 => out(tid, time_ns, state, at, 1),
            1 => into(tid, time_ns),
            2 => wake(tid, time_ns, other, if state == 0 { TIMER } else { 0 }),
            _ => record(
                tid,
                time_ns,
                Event::Born { maker: Peer { tid: other, tgid: 100 + other, comm: comm(other) } },
            ),
        },
    )
}

proptest! {
    #[test]
    fn pieces_tile_the_window_whatever_was_recorded(
        mut records in prop::collection::vec(any_record(), 0..60),
        looks in prop::collection::vec((1u32..5, 0u64..2000), 0..20),
        start_ns in 0u64..900, length_ns in 0u64..1200, reach_ns in 0u64..300, throttled_ns in 0u64..2_000,
    ) {
        records.sort_by_key(|record| record.time_ns);
        let samples = looks.iter().map(|(tid, time_ns)| sample(*tid, *time_ns, COPY)).collect();
        let timelines = Timelines::of((0, 2000), &records, Vec::new(), &[], samples);
        let window = Window { start_ns, end_ns: start_ns + length_ns, ..window(0) };
        let facts = Facts { throttled: vec![(101, throttled_ns)], ..Facts::default() };
        let around = Surroundings { reach_ns, pids: vec![101, 102], ..Surroundings::default() };
        let explained = explain(&window, &timelines, &facts, around, &mut Book);
        let mut at_ns = window.start_ns;
        for segment in &explained.segments {
            prop_assert_eq!(segment.start_ns, at_ns);
            prop_assert!(segment.end_ns > segment.start_ns);
            at_ns = segment.end_ns;
        }
        prop_assert_eq!(at_ns, window.end_ns);
        let causes_ns: u64 = explained.causes.iter().map(|cause| cause.ns).sum();
        prop_assert_eq!(causes_ns + explained.unexplained_ns, length_ns);
    }
}
