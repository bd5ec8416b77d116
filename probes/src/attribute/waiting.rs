//! Time off a CPU: queued for one, and waits whose cause their stack names.

use super::causes::Cause;
use super::facts::overlap;
use super::path::{By, Frames, Span, Walk};
use super::rules::{On, classify};
use super::words;
use crate::interval::{Doing, Interval, OffCpu, Wait};

const MS: u64 = 1_000_000;
/// How long after a request's completion the thread that it woke may be seen to wake.
const COMPLETION_REACH_NS: u64 = MS / 5;
/// A wait for a CPU that others hold for less than this part of it is no queue.
const QUEUE_SHARE: u64 = 2;

/// Runnable, and without a CPU.
pub fn for_a_cpu(
    walk: &mut Walk<'_>,
    span: &Span,
    interval: &Interval,
    off: &OffCpu,
    before: Option<&Interval>,
) {
    let frames = walk.frames(span.tid, &off.stack, off.user.as_ref());
    let is_throttled =
        classify(On::Blocked, &frames.kernel, &[]).is_some_and(|it| it.cause == Cause::CpuQuota);
    let cpu = walk.timelines.cpu_got(span.tid, interval.end_ns);
    let holders = cpu.map(|cpu| walk.timelines.holders(cpu, span.start_ns, span.end_ns)).unwrap_or_default();
    let held_ns: u64 = holders.iter().map(|(_, ns)| ns).sum();
    let length_ns = span.end_ns - span.start_ns;
    // On a busy host others hold the CPU meanwhile as well: then the kernel's account of the quota decides.
    let is_no_queue = held_ns < length_ns / QUEUE_SHARE;
    let throttled_ns = walk.timelines.process(span.tid).map_or(0, |pid| walk.facts.throttled_ns(pid));
    let is_counted = throttled_ns >= length_ns / QUEUE_SHARE;
    let looks_throttled = throttled_ns > 0 && length_ns >= MS && (is_no_queue || is_counted);
    let name = words::thread(walk.timelines, span.tid);
    if is_throttled || looks_throttled {
        let detail = format!("of {name}'s cgroup");
        let link = format!("CPU quota {detail}");
        return walk.because(span, Cause::CpuQuota, detail, vec![link], frames);
    }
    let was = match off.wait {
        Wait::Preempted => "taken off the CPU",
        _ if before.is_some() => "woken",
        _ => "made",
    };
    let context = walk.call(span, &frames).map(|call| format!(" in {call}")).unwrap_or_default();
    let mut links = vec![format!("{name} {was}{context}")];
    let detail = match (cpu, holders.first()) {
        (Some(cpu), Some((tid, _))) => format!("behind {} on CPU {cpu}", words::thread(walk.timelines, *tid)),
        (Some(cpu), None) => format!("CPU {cpu} was idle: it took as long to start"),
        (None, _) => "it had not got one when the window closed".to_owned(),
    };
    links.push(format!("waiting for a CPU {detail}"));
    walk.because(span, Cause::RunQueue, detail, links, frames);
}

/// A wait whose stack names its cause.
pub fn for_cause(walk: &mut Walk<'_>, span: &Span, cause: Cause, frames: Frames, waker: Option<&By>) {
    if cause == Cause::DeviceTime
        && let Some(issued_ns) = issued(walk, span)
    {
        // Until the driver takes the request it is ahead of it in the queue that others are.
        storage(walk, &span.cut(span.start_ns, issued_ns), Cause::RequestQueue, &frames);
        return storage(walk, &span.cut(issued_ns, span.end_ns), cause, &frames);
    }
    match cause {
        Cause::WritebackThrottle
        | Cause::DirtyThrottle
        | Cause::OwnWriteback
        | Cause::JournalCommit
        | Cause::RequestQueue
        | Cause::DeviceTime
        | Cause::PageFaultMajor => storage(walk, span, cause, &frames),
        _ => {
            let (detail, links) = words::object(walk, span, cause, &frames, waker);
            walk.because(span, cause, detail, links, frames);
            if let Some(By::Thread(tid)) = waker {
                walk.held_by(*tid);
            }
        }
    }
}

/// When the driver took the request that the wait was for, if that is known and inside the wait.
fn issued(walk: &Walk<'_>, span: &Span) -> Option<u64> {
    let request = walk.facts.completed_by(span.tid, span.end_ns, COMPLETION_REACH_NS)?;
    Some(request.issued_ns.clamp(span.start_ns, span.end_ns))
}

/// A wait for storage: on which device, and who keeps that busy.
fn storage(walk: &mut Walk<'_>, span: &Span, cause: Cause, frames: &Frames) {
    let (detail, links) = words::storage(walk, span, cause, frames);
    walk.because(span, cause, detail, links, frames.clone());
}

/// A wait for another thread that its own time limit ended.
pub fn ran_out(walk: &mut Walk<'_>, span: &Span, frames: Frames) {
    let call = words::waits_in(walk, span, &frames);
    let name = words::thread(walk.timelines, span.tid);
    let links = vec![format!("{name} waits in {call}"), "until its time is over".to_owned()];
    walk.because(span, Cause::Timer, format!("{call} of {name}"), links, frames);
}

/// A wait that a thread ended of which nothing else was seen.
pub fn for_unseen(walk: &mut Walk<'_>, span: &Span, cause: Option<Cause>, frames: Frames, tid: u32) {
    let by = words::thread(walk.timelines, tid);
    match cause {
        Some(cause) => {
            let link = words::waits_for(walk, span.tid, tid, &frames);
            walk.because(span, cause, format!("woken by {by}"), vec![link], frames);
        }
        None => walk.unexplained(
            span,
            &format!("woken by {by}; no row of the cause table has its frames"),
            frames,
        ),
    }
}

/// A wait that an interrupt ended.
pub fn for_interrupt(walk: &mut Walk<'_>, span: &Span, cause: Option<Cause>, frames: Frames, name: &str) {
    match cause {
        Some(cause) => {
            let call = words::waits_in(walk, span, &frames);
            let me = words::thread(walk.timelines, span.tid);
            let link = format!("{me} waits in {call}");
            walk.because(span, cause, format!("woken by an interrupt ({name})"), vec![link], frames);
        }
        None if may_be_of_a_disk(name) && issued(walk, span).is_some() => {
            for_cause(walk, span, Cause::DeviceTime, frames, None);
        }
        None => {
            let what = format!("woken by an interrupt ({name}); no row of the cause table has its frames");
            walk.unexplained(span, &what, frames);
        }
    }
}

/// Whether an interrupt of this name can be that of a request: a device's, a message from the CPU that had it, what both
/// leave to a soft interrupt, or one whose entry nobody saw. Not a clock, the network or the scheduler.
fn may_be_of_a_disk(name: &str) -> bool {
    const DISKS: [&str; 6] =
        ["softirq/block", "softirq/irq_poll", "softirq/tasklet", "softirq", "device_interrupt", "idle"];
    DISKS.contains(&name) || name.starts_with("irq/") || name.starts_with("call_function")
}

/// A wait that nobody was seen to end.
pub fn not_woken(walk: &mut Walk<'_>, span: &Span, cause: Option<Cause>, frames: Frames) {
    let Some(cause) = cause else {
        return walk.unexplained(span, "asleep, and nobody was seen to wake it", frames);
    };
    let call = words::waits_in(walk, span, &frames);
    let me = words::thread(walk.timelines, span.tid);
    let detail = "nobody woke it inside the window".to_owned();
    walk.because(span, cause, detail, vec![format!("{me} waits in {call}")], frames);
}

/// What a thread did for the longest part of `start_ns..end_ns`, in a few words.
pub fn mostly(walk: &mut Walk<'_>, tid: u32, start_ns: u64, end_ns: u64) -> Option<String> {
    let timelines = walk.timelines;
    let inside = |interval: &&Interval| overlap(interval.start_ns, interval.end_ns, start_ns, end_ns);
    let longest = timelines.thread(tid).iter().max_by_key(inside).filter(|it| inside(it) > 0)?;
    match &longest.doing {
        Doing::OnCpu => Some("ran".to_owned()),
        Doing::OffCpu(off) if off.wait.is_runnable() => Some("waited for a CPU".to_owned()),
        Doing::OffCpu(off) => {
            let frames = walk.frames(tid, &off.stack, off.user.as_ref());
            let found = classify(On::Blocked, &frames.kernel, &frames.user)?;
            Some(format!("was in {} ({})", found.cause.entry().title, found.frame))
        }
        Doing::Unknown => None,
    }
}
