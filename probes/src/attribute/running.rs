//! Time on a CPU: what looks at the running thread, and the stacks with which it came and left, say of it.

use super::causes::Cause;
use super::path::{Frames, Span, Walk};
use super::rules::{On, classify};
use super::words;
use crate::interval::{Doing, Interval};

/// A stack that was seen at one instant.
struct Point {
    time_ns: u64,
    frames: Frames,
}

/// Gives each instant of the span to the stack that was seen nearest to it; what is further than the walk's reach
/// from all of them is unexplained.
pub fn account(walk: &mut Walk<'_>, span: &Span, intervals: &[Interval], index: usize) {
    let points = points(walk, span, intervals, index);
    let reach_ns = walk.reach_ns;
    let mut at_ns = span.start_ns;
    for (number, point) in points.iter().enumerate() {
        let from_ns = point.time_ns.saturating_sub(reach_ns).max(at_ns).min(span.end_ns);
        let halfway = points.get(number + 1).map(|next| u64::midpoint(point.time_ns, next.time_ns));
        let reached = point.time_ns.saturating_add(reach_ns).min(halfway.unwrap_or(u64::MAX));
        let to_ns = reached.min(span.end_ns).max(from_ns);
        unseen(walk, &span.cut(at_ns, from_ns));
        one(walk, &span.cut(from_ns, to_ns), &point.frames);
        at_ns = to_ns;
    }
    unseen(walk, &span.cut(at_ns, span.end_ns));
}

fn unseen(walk: &mut Walk<'_>, span: &Span) {
    walk.unexplained(span, "on a CPU, and no look at it came near", Frames::default());
}

/// In the order of time: the stack with which it came to the CPU, looks at it, the one with which it left.
fn points(walk: &mut Walk<'_>, span: &Span, intervals: &[Interval], index: usize) -> Vec<Point> {
    let interval = &intervals[index];
    let mut points = Vec::new();
    let before = index.checked_sub(1).and_then(|before| intervals.get(before));
    if let Some(frames) =
        before.filter(|it| it.end_ns == interval.start_ns).and_then(|it| off(walk, span, it))
    {
        points.push(Point { time_ns: interval.start_ns, frames });
    }
    let timelines = walk.timelines;
    for sample in timelines.samples(span.tid, interval.start_ns, interval.end_ns) {
        let kernel = walk.names.kernel(&sample.kernel);
        let user = walk.user_frames(span.tid, sample.user.as_ref());
        points.push(Point { time_ns: sample.time_ns, frames: Frames { kernel, user } });
    }
    let after = intervals.get(index + 1);
    if let Some(frames) = after.filter(|it| it.start_ns == interval.end_ns).and_then(|it| off(walk, span, it))
    {
        points.push(Point { time_ns: interval.end_ns, frames });
    }
    points
}

fn off(walk: &mut Walk<'_>, span: &Span, interval: &Interval) -> Option<Frames> {
    let Doing::OffCpu(off) = &interval.doing else { return None };
    let frames = walk.frames(span.tid, &off.stack, off.user.as_ref());
    (frames != Frames::default()).then_some(frames)
}

fn one(walk: &mut Walk<'_>, span: &Span, frames: &Frames) {
    let call = walk.call(span, frames);
    let in_user_space = is_user_space(&frames.kernel);
    let found = if in_user_space { None } else { classify(On::Running, &frames.kernel, &frames.user) };
    let (cause, what) = match found {
        Some(found) => (found.cause, call.unwrap_or(found.frame)),
        None if in_user_space => (Cause::UserCode, function(&frames.user).unwrap_or_default()),
        None => (Cause::KernelWork, call.unwrap_or_else(|| words::kernel_work(&frames.kernel))),
    };
    let name = words::thread(walk.timelines, span.tid);
    let detail = if what.is_empty() { name.clone() } else { what.clone() };
    let link = match what.is_empty() {
        true => format!("{name} runs"),
        false => format!("{name} runs {what}"),
    };
    let title = cause.entry().title.to_owned();
    walk.because(span, cause, detail, vec![link, title], frames.clone());
}

/// Whether a thread with these kernel frames ran its own code: it was taken off the CPU by an interrupt, and not in
/// a system call.
fn is_user_space(kernel: &[String]) -> bool {
    let is_kernels_own = |frame: &String| {
        [
            "do_syscall_64",
            "x64_sys_call",
            "entry_SYSCALL",
            "kthread",
            "ret_from_fork",
            "exc_page_fault",
            "asm_exc_",
        ]
        .iter()
        .any(|part| frame.contains(part))
    };
    let is_way_out = |frame: &String| {
        frame.starts_with("asm_sysvec_")
            || frame == "asm_common_interrupt"
            || frame.contains("exit_to_user_mode")
    };
    kernel.is_empty() || (kernel.iter().any(is_way_out) && !kernel.iter().any(is_kernels_own))
}

/// The innermost user function that has a name.
fn function(user: &[String]) -> Option<String> {
    user.iter().find(|frame| !frame.starts_with("0x") && !frame.starts_with('[')).cloned()
}
