//! Time on a CPU: what looks at the running thread, and the stacks with which it came and left, say of it.

use super::causes::Cause;
use super::path::{Frames, Span, Walk};
use super::rules::{On, classify};
use super::words;
use crate::interval::{Doing, Interval, Wait};

/// A thread that gave its CPU up, or came back from where it had, was in that system call at that instant only. What it
/// did before and after is another thing, so that such a stack reaches so many times less far than a look.
const CALL_ENDS_REACH: u64 = 8;

/// A stack that was seen at one instant, and what it says.
struct Point {
    time_ns: u64,
    /// How far from that instant it still is evidence.
    reach_ns: u64,
    cause: Cause,
    /// What ran: a system call or a function; empty where its name is not known.
    what: String,
    frames: Frames,
}

impl Point {
    const fn first_ns(&self) -> u64 {
        self.time_ns.saturating_sub(self.reach_ns)
    }

    const fn last_ns(&self) -> u64 {
        self.time_ns.saturating_add(self.reach_ns)
    }
}

/// Gives each instant of the span to the stack that was seen nearest to it, of those that reach it; the rest is
/// unexplained.
pub fn account(walk: &mut Walk<'_>, span: &Span, intervals: &[Interval], index: usize) {
    let points = points(walk, span, intervals, index);
    let mut at_ns = span.start_ns;
    for (number, point) in points.iter().enumerate() {
        let from_ns = point.first_ns().max(at_ns).min(span.end_ns);
        // As far as the next one is no nearer, or does not reach.
        let next = points.get(number + 1);
        let given_up_ns = next.map(|next| u64::midpoint(point.time_ns, next.time_ns).max(next.first_ns()));
        let reached_ns = point.last_ns().min(given_up_ns.unwrap_or(u64::MAX));
        let to_ns = reached_ns.min(span.end_ns).max(from_ns);
        unseen(walk, &span.cut(at_ns, from_ns));
        ran(walk, &span.cut(from_ns, to_ns), point);
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
    let before = index.checked_sub(1).and_then(|before| intervals.get(before));
    let before = before.filter(|it| it.end_ns == interval.start_ns);
    let mut points: Vec<Point> =
        before.and_then(|it| off(walk, span, it, interval.start_ns)).into_iter().collect();
    let timelines = walk.timelines;
    for sample in timelines.samples(span.tid, interval.start_ns, interval.end_ns) {
        let kernel = walk.names.kernel(&sample.kernel);
        let user = walk.user_frames(span.tid, sample.user.as_ref());
        points.extend(point(walk, span.tid, sample.time_ns, walk.reach_ns, Frames { kernel, user }));
    }
    let after = intervals.get(index + 1).filter(|it| it.start_ns == interval.end_ns);
    points.extend(after.and_then(|it| off(walk, span, it, interval.end_ns)));
    points
}

/// The stack with which the thread was off the CPU, as evidence of what it did beside that. One that was taken off was
/// looked at as it ran. Without kernel frames the stack is missing: to leave a CPU is to be in the kernel. The window's
/// own thread was in code of its own as the window opened and closed: what call it was in before and after is none.
fn off(walk: &mut Walk<'_>, span: &Span, interval: &Interval, time_ns: u64) -> Option<Point> {
    let Doing::OffCpu(off) = &interval.doing else { return None };
    let frames = walk.frames(span.tid, &off.stack, off.user.as_ref());
    let is_windows_own = span.through.is_empty();
    let is_inside = (span.start_ns..=span.end_ns).contains(&time_ns);
    let reach_ns = match off.wait {
        Wait::Preempted => walk.reach_ns,
        _ if is_windows_own && !is_inside => return None,
        _ => walk.reach_ns / CALL_ENDS_REACH,
    };
    if frames.kernel.is_empty() { None } else { point(walk, span.tid, time_ns, reach_ns, frames) }
}

/// What a stack says; `None` for one that says nothing, as where a thunk kept the kernel from following it.
fn point(walk: &Walk<'_>, tid: u32, time_ns: u64, reach_ns: u64, frames: Frames) -> Option<Point> {
    let call = walk.call_at(tid, time_ns, &frames);
    let in_user_space = is_user_space(&frames.kernel);
    let found = if in_user_space { None } else { classify(On::Running, &frames.kernel, &frames.user) };
    let (cause, what) = match found {
        Some(found) => (found.cause, call.unwrap_or(found.frame)),
        None if in_user_space => (Cause::UserCode, function(&frames.user).unwrap_or_default()),
        None => (Cause::KernelWork, call.or_else(|| words::kernel_work(&frames.kernel))?),
    };
    Some(Point { time_ns, reach_ns, cause, what, frames })
}

fn ran(walk: &mut Walk<'_>, span: &Span, point: &Point) {
    let Point { cause, what, frames, .. } = point;
    let name = words::thread(walk.timelines, span.tid);
    let link = format!("{name} runs {what}").trim_end().to_owned();
    let detail = if what.is_empty() { name } else { what.clone() };
    let title = cause.entry().title.to_owned();
    walk.because(span, *cause, detail, vec![link, title], frames.clone());
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
