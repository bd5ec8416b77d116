//! Times are in nanoseconds; the window is 100 to 1000.

use probes_common::{COMM_LEN, Dirtied, Dirtier, REQUEST_BACKGROUND, REQUEST_BY_KERNEL, Request, operation};

use super::*;
use crate::device::RequestStage::{self, Complete, Insert, Issue};

const LOOP: u32 = 7 << 20;
const WRITER: u32 = 50;
const FLUSHER: u32 = 9;

fn comm(name: &str) -> [u8; COMM_LEN] {
    *Comm::from_text(name).bytes()
}

fn event(sums: &mut Sums, time_ns: u64, tid: u32, event: DeviceEvent) {
    let thread = ThreadId { tid, start_ns: 1 };
    sums.device(&DeviceRecord { time_ns, cpu: 0, sequence: 0, thread, tgid: tid, event });
}

fn write(address: u64, inode: u64) -> Request {
    Request {
        request: address,
        sector: 8 * address,
        made_ns: 0,
        inode,
        inode_device: LOOP,
        device: LOOP,
        bytes: 4096,
        done_bytes: 0,
        status: 0,
        flags: REQUEST_BACKGROUND | REQUEST_BY_KERNEL,
        operation: operation::WRITE,
        reserved: 0,
        comm: comm("kworker"),
    }
}

fn request(sums: &mut Sums, time_ns: u64, stage: RequestStage, request: Request) {
    let request = if stage == Complete {
        Request { done_bytes: request.bytes, comm: [0; _], ..request }
    } else {
        request
    };
    event(sums, time_ns, FLUSHER, DeviceEvent::Request(stage, request));
}

fn dirtiers() -> Dirtiers {
    let key = Dirtier { inode: 12, device: LOOP, tgid: WRITER };
    Dirtiers::new(&[(key, Dirtied { pages: 2, comm: comm("writer") })])
}

fn about(pids: &[u32]) -> Question {
    Question { pids: pids.to_vec(), tids: Vec::new(), tick_ns: 10 }
}

/// Two writes of the flusher: the writer's file, and one that nobody dirtied in the window.
fn two_writes() -> Sums {
    let mut sums = Sums::new(100);
    let (one, other) = (write(1, 12), write(2, 13));
    for (time_ns, stage, which) in
        [(110, Insert, one), (115, Insert, other), (120, Issue, one), (130, Issue, other)]
    {
        let which = if stage == Insert { which } else { Request { inode: 0, ..which } };
        request(&mut sums, time_ns, stage, which);
    }
    request(&mut sums, 200, Complete, one);
    request(&mut sums, 300, Complete, other);
    sums
}

#[test]
fn writeback_is_charged_to_the_dirtier_and_says_who_made_it() {
    let lists = two_writes().finish(1000, &dirtiers(), &about(&[]));
    let rows: Vec<_> =
        lists.flows.iter().map(|flow| (flow.comm.as_str(), flow.pid, flow.dirtied_bytes)).collect();
    assert_eq!(rows, [("kworker", FLUSHER, 0), ("writer", WRITER, 8192)]);
    let class = &lists.flows[1].classes[0];
    assert_eq!((class.class.as_str(), class.requests, class.bytes), ("background write", 1, 4096));
    assert_eq!((class.queued.ns, class.device.ns), (10, 80));
    assert_eq!(class.submitted_by, [("kworker-9".to_owned(), 1)].into());
    assert_eq!(lists.devices[0].device, "7:0");
    assert_eq!((lists.devices[0].requests, lists.devices[0].bytes), (2, 8192));
}

#[test]
fn a_report_about_a_process_holds_what_it_is_charged_with_and_what_it_made() {
    let of = |pid: u32| {
        let lists = two_writes().finish(1000, &dirtiers(), &about(&[pid]));
        (lists.flows.iter().map(|flow| flow.pid).collect::<Vec<_>>(), lists.slowest.len())
    };
    assert_eq!(of(WRITER), (vec![WRITER], 1));
    assert_eq!(of(FLUSHER), (vec![FLUSHER, WRITER], 2));
    assert_eq!(of(77), (vec![], 0));
}

#[test]
fn the_slowest_come_first_with_what_was_ahead_of_them_by_whom_it_is_charged_to() {
    let lists = two_writes().finish(1000, &dirtiers(), &about(&[]));
    let slow = &lists.slowest[0];
    assert_eq!((slow.pid, slow.queued_ns, slow.device_ns), (FLUSHER, 15, 170));
    let ahead: Vec<_> = slow.ahead.iter().map(|one| (one.pid, one.queued, one.issued, one.bytes)).collect();
    assert_eq!(ahead, [(WRITER, 1, 0, 4096)]);
}

// sync <100-150 failed | 200-300 data only | 900-
#[test]
fn syncs_are_summed_by_thread_and_file_and_clamped_to_the_window() {
    let mut sums = Sums::new(100);
    let sync = |value| Sync { inode: 12, device: LOOP, value, comm: comm("writer") };
    event(&mut sums, 150, WRITER, DeviceEvent::SyncExit(sync(-5)));
    event(&mut sums, 200, WRITER, DeviceEvent::SyncEnter(sync(1)));
    event(&mut sums, 300, WRITER, DeviceEvent::SyncExit(sync(0)));
    event(&mut sums, 900, WRITER, DeviceEvent::SyncEnter(sync(0)));
    let lists = sums.finish(1000, &Dirtiers::default(), &about(&[]));
    let row = &lists.syncs[0];
    assert_eq!((row.times.ns, row.times.max_ns, row.times.histogram.count()), (250, 100, 3));
    assert_eq!((row.in_flight_at_start, row.in_flight_at_end, row.data_only), (1, 1, 1));
    assert_eq!(row.errors, [("EIO".to_owned(), 1)].into());
    assert_eq!((row.pid, row.device.as_str()), (WRITER, "7:0"));
}

#[test]
fn a_commits_phases_are_between_its_steps_and_a_partial_one_is_in_no_sum() {
    let mut sums = Sums::new(100);
    let commit = |transaction, step| DeviceEvent::Commit { device: LOOP, transaction, step };
    event(&mut sums, 105, 3, commit(1, CommitStep::Logging));
    event(&mut sums, 110, 3, commit(1, CommitStep::End));
    for (step, time_ns) in CommitStep::ALL.into_iter().zip([200, 201, 210, 240, 300]) {
        event(&mut sums, time_ns, 3, commit(2, step));
    }
    event(&mut sums, 900, 3, commit(3, CommitStep::Start));
    let lists = sums.finish(1000, &Dirtiers::default(), &about(&[]));
    let journal = &lists.journals[0];
    let sums = [journal.total.ns, journal.locking.ns, journal.flushing.ns, journal.logging.ns];
    assert_eq!(sums, [100, 9, 30, 60]);
    assert_eq!((journal.partial, journal.total.histogram.count()), (2, 1));
}

#[test]
fn searches_count_what_they_found_and_those_in_vain() {
    let mut sums = Sums::new(100);
    let search = |block, blocks| Allocation { inode: 12, block, device: LOOP, blocks, comm: comm("writer") };
    for (begin, end, block) in [(200, 210, 77), (300, 305, 0)] {
        event(&mut sums, begin, WRITER, DeviceEvent::AllocateEnter(search(0, 16)));
        event(&mut sums, end, WRITER, DeviceEvent::AllocateExit(search(block, 8)));
    }
    let lists = sums.finish(1000, &Dirtiers::default(), &about(&[]));
    let row = &lists.allocations[0];
    assert_eq!((row.blocks, row.failed, row.times.ns, row.times.max_ns), (8, 1, 15, 10));
}

#[test]
fn pauses_are_in_ticks_and_one_of_no_length_is_none() {
    let mut sums = Sums::new(100);
    for pause_ticks in [-3, 0, 2, 5] {
        let mut device_name = [0; probes_common::DEVICE_NAME_LEN];
        device_name[..3].copy_from_slice(b"7:0");
        let pause =
            DirtyPause { pause_ticks, task_limit: 256, dirtied: 32, device_name, comm: comm("writer") };
        event(&mut sums, 200, WRITER, DeviceEvent::DirtyPause(pause));
    }
    let lists = sums.finish(1000, &Dirtiers::default(), &about(&[]));
    let row = &lists.pauses[0];
    assert_eq!((row.told.ns, row.told.max_ns, row.told.histogram.count()), (70, 50, 2));
    assert_eq!((row.device.as_str(), row.lowest_bytes_per_second), ("7:0", 1 << 20));
}

#[test]
fn lists_by_thread_are_of_the_threads_that_were_asked_for() {
    let mut sums = Sums::new(100);
    for tid in [WRITER, WRITER + 1] {
        let sync = Sync { inode: 12, device: LOOP, value: 0, comm: comm("writer") };
        event(&mut sums, 200, tid, DeviceEvent::SyncEnter(sync));
        event(&mut sums, 300, tid, DeviceEvent::SyncExit(sync));
    }
    let question = Question { tids: vec![WRITER], ..Question::default() };
    let lists = sums.finish(1000, &Dirtiers::default(), &question);
    assert_eq!(lists.syncs.iter().map(|row| row.tid).collect::<Vec<_>>(), [WRITER]);
}
