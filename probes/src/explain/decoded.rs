//! A capture's bytes to what the attribution takes. Pure but for user stacks, which are unwound on the way.

use std::collections::BTreeMap;

use probes_common::{CALL_LANE, CpuCounters, Loss, SCHED_LANE};

use super::capture::Capture;
use super::devices::{DeviceNames, Devices};
use crate::attribute::{Facts, Sample, Timelines, Window};
use crate::decode::{self, Decoder, Event, Record, UserSide};
use crate::device::{self, DeviceRecord};
use crate::gaps::GapFinder;
use crate::unwind::ProcessStacks;

/// What a capture holds.
#[derive(Debug)]
pub struct Decoded {
    /// Threads and CPUs.
    pub timelines: Timelines,
    /// Files, devices and limits.
    pub facts: Facts,
    /// Losses by cause, zero or not.
    pub loss: BTreeMap<String, u64>,
    /// Events among them that a thread's timeline may lack.
    pub lost: u64,
}

/// What is sorted out of the bytes before anything is made of it.
#[derive(Default)]
struct Records {
    events: Vec<Record>,
    samples: Vec<Sample>,
    devices: Vec<DeviceRecord>,
    undecodable: u64,
}

impl Decoded {
    /// Reads everything in `capture`, for `window`; its user stacks go to `stacks`.
    pub fn of(
        capture: &Capture,
        window: &Window,
        stacks: &mut ProcessStacks,
        names: &mut dyn DeviceNames,
    ) -> Self {
        let mut finder = GapFinder::resuming(capture.start_ns, &capture.counters_before);
        let mut records = records(capture, &mut finder, stacks);
        for record in &mut records.events {
            if let Event::SwitchOut { user: Some(user), .. } = &mut record.event {
                *user = stacks.canonical(record.tgid, *user);
            }
        }
        records.events.sort_by_key(|record| record.time_ns);
        let gaps = finder.end_pass(capture.end_ns, capture.end_ns, &capture.counters_after);
        let bounds = (capture.start_ns, capture.end_ns);
        let timelines = Timelines::of(bounds, &records.events, capture.seeds.clone(), &gaps, records.samples);
        records.devices.sort_by_key(|record| record.time_ns);
        let mut devices = Devices::new(capture.start_ns, names);
        records.devices.iter().for_each(|record| devices.take(record));
        let facts = devices.finish(capture.end_ns, &capture.dirtied);
        let throttled = capture.throttled_ns(window.start_ns, window.end_ns);
        let facts = Facts { throttled, ..facts };
        let (loss, lost) = losses(capture, records.undecodable);
        Self { timelines, facts, loss, lost }
    }
}

fn records(capture: &Capture, finder: &mut GapFinder, stacks: &mut ProcessStacks) -> Records {
    let mut decoder = Decoder::default();
    let mut found = Records::default();
    let lane = |lane: u32, cpu: u32| lane * capture.cpus + cpu;
    for bytes in capture.records() {
        // Their numbers have holes that are filled later: only their counters tell of a loss.
        if device::is_device(bytes) {
            match device::decode(bytes) {
                Ok(record) => found.devices.push(record),
                Err(_) => found.undecodable += 1,
            }
            continue;
        }
        match decoder.decode(bytes) {
            Ok(decode::Decoded::Event(record)) => {
                finder.note(lane(SCHED_LANE, record.cpu), record.sequence, record.time_ns);
                found.events.push(record);
            }
            Ok(decode::Decoded::UserStack(sample)) => {
                let lane_of = if sample.lane == CALL_LANE { CALL_LANE } else { SCHED_LANE };
                finder.note(lane(lane_of, sample.cpu), sample.sequence, sample.time_ns);
                stacks.take(&sample);
            }
            Ok(decode::Decoded::Sample(look)) => {
                finder.note(lane(SCHED_LANE, look.cpu), look.sequence, look.time_ns);
                found.samples.push(sample(look));
            }
            // What bounds windows was read as it came.
            Ok(decode::Decoded::Window(_)) => {}
            Err(_) => found.undecodable += 1,
        }
    }
    found
}

fn sample(look: decode::Look) -> Sample {
    let user: Option<UserSide> = look.user;
    Sample {
        time_ns: look.time_ns,
        tid: look.thread.tid,
        tgid: look.tgid,
        comm: look.comm,
        kernel: look.stack.frames,
        user,
    }
}

/// What was lost while the capture was made; and how much of it are events, which a timeline may lack. A missing
/// stack is told by the segment that has none.
fn losses(capture: &Capture, undecodable: u64) -> (BTreeMap<String, u64>, u64) {
    let sum = |counters: &[CpuCounters], cause: Loss| -> u64 {
        counters.iter().map(|cpu| cpu.lost[cause as usize]).sum()
    };
    let grown = |cause: Loss| {
        sum(&capture.counters_after, cause).saturating_sub(sum(&capture.counters_before, cause))
    };
    let mut loss: BTreeMap<String, u64> =
        Loss::ALL.iter().map(|cause| (cause.name().to_owned(), grown(*cause))).collect();
    let ours = [
        ("recursion_misses", capture.recursion_misses),
        ("undecodable", undecodable),
        ("window_full", capture.dropped),
    ];
    loss.extend(ours.map(|(cause, count)| (cause.to_owned(), count)));
    let lost = grown(Loss::RingFull) + capture.recursion_misses + undecodable + capture.dropped;
    (loss, lost)
}
