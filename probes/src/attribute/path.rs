//! The walk along the critical path.

use super::causes::Cause;
use super::facts::Facts;
use super::rules::{Follow, On, classify, system_call};
use super::timeline::Timelines;
use super::{Window, running, waiting, words};
use crate::aggregate::{Names, UserNames};
use crate::decode::UserSide;
use crate::interrupt;
use crate::interval::{Doing, Interval, KernelStack, OffCpu, Wait, Waker};

/// Threads that a wait is followed through at most: paths of real programs have a handful.
const MAX_DEPTH: usize = 24;

/// A stretch of the critical path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its first nanosecond.
    pub start_ns: u64,
    /// The first nanosecond after it.
    pub end_ns: u64,
    /// The thread that the path goes through.
    pub tid: u32,
    /// The cause; `None` where there is no evidence for one.
    pub cause: Option<Cause>,
    /// What the cause was at work on.
    pub detail: String,
    /// From the window's thread to the cause.
    pub chain: Vec<String>,
    /// Kernel frames, innermost first.
    pub kernel: Vec<String>,
    /// User frames, innermost first.
    pub user: Vec<String>,
    /// The thread that had what it waited for, where the path does not go through it.
    pub by: Option<u32>,
    /// An event inside it may have been lost.
    pub truncated: bool,
}

/// Named frames of one stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    /// Kernel frames, innermost first.
    pub kernel: Vec<String>,
    /// User frames, innermost first.
    pub user: Vec<String>,
}

/// Everything that the walk reads.
pub struct Walk<'a> {
    /// Threads and CPUs.
    pub timelines: &'a Timelines,
    /// Files, devices and limits.
    pub facts: &'a Facts,
    /// How far from a look at a running thread its stack still counts as evidence, in nanoseconds.
    pub reach_ns: u64,
    /// Gives addresses names.
    pub names: &'a mut dyn Names,
    pieces: Vec<Piece>,
}

/// The stretch that is being accounted for, and how the path came there.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its first nanosecond.
    pub start_ns: u64,
    /// The first nanosecond after it.
    pub end_ns: u64,
    /// The thread.
    pub tid: u32,
    /// The links so far.
    pub chain: Vec<String>,
    /// The threads that the path came through.
    pub through: Vec<u32>,
}

/// The pieces that tile `window`, in the order of time.
pub fn attribute(
    window: &Window,
    timelines: &Timelines,
    facts: &Facts,
    reach_ns: u64,
    names: &mut dyn Names,
) -> Vec<Piece> {
    let mut walk = Walk { timelines, facts, reach_ns, names, pieces: Vec::new() };
    let span = Span {
        start_ns: window.start_ns,
        end_ns: window.end_ns.max(window.start_ns),
        tid: window.tid,
        chain: Vec::new(),
        through: Vec::new(),
    };
    walk.thread(&span);
    merge(walk.pieces)
}

impl Walk<'_> {
    /// Accounts for what `span.tid` did in the span: its intervals tile it, holes are unexplained.
    fn thread(&mut self, span: &Span) {
        let timelines = self.timelines;
        let intervals = timelines.thread(span.tid);
        let first = intervals.partition_point(|interval| interval.end_ns <= span.start_ns);
        let mut at_ns = span.start_ns;
        for (index, interval) in intervals.iter().enumerate().skip(first) {
            if interval.start_ns >= span.end_ns {
                break;
            }
            let (from_ns, to_ns) = (interval.start_ns.max(at_ns), interval.end_ns.min(span.end_ns));
            self.unseen(&span.cut(at_ns, from_ns));
            if from_ns < to_ns {
                self.interval(&span.cut(from_ns, to_ns), intervals, index);
            }
            at_ns = to_ns.max(at_ns);
        }
        self.unseen(&span.cut(at_ns, span.end_ns));
    }

    fn interval(&mut self, span: &Span, intervals: &[Interval], index: usize) {
        let interval = &intervals[index];
        let first_piece = self.pieces.len();
        match &interval.doing {
            Doing::OnCpu => running::account(self, span, intervals, index),
            Doing::OffCpu(off) if off.wait.is_runnable() => {
                waiting::for_a_cpu(self, span, interval, off, intervals.get(index.wrapping_sub(1)));
            }
            Doing::OffCpu(off) => self.blocked(span, off),
            Doing::Unknown => self.unseen(span),
        }
        for piece in &mut self.pieces[first_piece..] {
            piece.truncated |= interval.truncated;
        }
    }

    /// A wait for something other than a CPU.
    fn blocked(&mut self, span: &Span, off: &OffCpu) {
        let frames = self.frames(span.tid, &off.stack, off.user.as_ref());
        let found = classify(On::Blocked, &frames.kernel, &frames.user);
        let waker = off.waker.as_ref().map(|waker| self.woken(waker));
        let stopped = off.wait == Wait::Stopped;
        let cause = found.as_ref().map(|found| found.cause).or(stopped.then_some(Cause::Stopped));
        let follows = match (&found, stopped) {
            (_, true) => false,
            (Some(found), _) => found.follow == Follow::Waker,
            // No row knows the frames: whoever ended the wait is the evidence that there is.
            (None, _) => true,
        };
        if !follows {
            let cause = cause.unwrap_or(Cause::Stopped);
            return waiting::for_cause(self, span, cause, frames, waker.as_ref());
        }
        match waker {
            Some(By::Timer) => waiting::ran_out(self, span, frames),
            Some(By::Thread(tid)) if span.may_follow(tid) => {
                let link = words::waits_for(self, span.tid, tid, &frames);
                let mut next = span.clone();
                next.through.push(span.tid);
                next.tid = tid;
                next.chain.push(link);
                if self.timelines.thread(tid).is_empty() {
                    waiting::for_unseen(self, span, cause, frames, tid);
                } else {
                    self.thread(&next);
                }
            }
            Some(By::Thread(tid)) => waiting::for_unseen(self, span, cause, frames, tid),
            Some(By::Interrupt(name)) => waiting::for_interrupt(self, span, cause, frames, &name),
            None => waiting::not_woken(self, span, cause, frames),
        }
    }

    /// Who ended a wait: an interrupt is not the thread that it came upon.
    pub fn woken(&mut self, waker: &Waker) -> By {
        let kernel = self.names.kernel(&waker.stack);
        let is_timer = |frame: &String| {
            matches!(frame.as_str(), "hrtimer_wakeup" | "process_timeout" | "posix_timer_fn" | "it_real_fn")
        };
        if kernel.iter().any(is_timer) {
            return By::Timer;
        }
        match interrupt::name(waker, self.names) {
            // Bytes to a socket of this machine arrive in a soft interrupt that the sender itself runs.
            Some(_) if kernel.iter().any(|frame| frame == "__local_bh_enable_ip") => {
                By::Thread(waker.peer.tid)
            }
            Some(name) => By::Interrupt(name),
            None if waker.peer.tid == 0 => By::Interrupt("idle".to_owned()),
            None => By::Thread(waker.peer.tid),
        }
    }

    /// The names of a stack.
    pub fn frames(&mut self, tid: u32, stack: &KernelStack, user: Option<&UserSide>) -> Frames {
        let kernel = match stack {
            KernelStack::Addresses(frames) => self.names.kernel(frames),
            KernelStack::Names(names) => names.to_vec(),
            KernelStack::Missing => Vec::new(),
        };
        Frames { kernel, user: self.user_frames(tid, user) }
    }

    /// The names of a thread's user stack.
    pub fn user_frames(&mut self, tid: u32, user: Option<&UserSide>) -> Vec<String> {
        let (Some(user), Some(tgid)) = (user, self.timelines.process(tid)) else { return Vec::new() };
        let UserNames { mut frames, truncated } = self.names.user(tgid, user);
        frames.extend(truncated.then(|| "[truncated]".to_owned()));
        frames
    }

    /// Adds a piece with a cause. The links of `more` come after those of the span.
    pub fn because(&mut self, span: &Span, cause: Cause, detail: String, more: Vec<String>, frames: Frames) {
        let mut chain = span.chain.clone();
        chain.extend(more);
        self.push(span, Some(cause), detail, chain, frames);
    }

    /// Says who had what the last piece's thread waited for.
    pub fn held_by(&mut self, tid: u32) {
        if let Some(last) = self.pieces.last_mut() {
            last.by = Some(tid);
        }
    }

    /// Adds a piece without evidence of a cause: `what` says what is missing.
    pub fn unexplained(&mut self, span: &Span, what: &str, frames: Frames) {
        self.push(span, None, what.to_owned(), span.chain.clone(), frames);
    }

    fn unseen(&mut self, span: &Span) {
        let what = "nothing was seen of this thread here";
        self.unexplained(span, what, Frames::default());
    }

    fn push(
        &mut self,
        span: &Span,
        cause: Option<Cause>,
        detail: String,
        chain: Vec<String>,
        frames: Frames,
    ) {
        if span.end_ns <= span.start_ns {
            return;
        }
        let Frames { kernel, user } = frames;
        let (start_ns, end_ns, tid) = (span.start_ns, span.end_ns, span.tid);
        self.pieces.push(Piece {
            start_ns,
            end_ns,
            tid,
            cause,
            detail,
            chain,
            kernel,
            user,
            by: None,
            truncated: false,
        });
    }

    /// `fsync of memory.bin`, `write`: the call that frames are under, with its file where that is known.
    pub fn call(&self, span: &Span, frames: &Frames) -> Option<String> {
        self.call_at(span.tid, span.start_ns + (span.end_ns - span.start_ns) / 2, frames)
    }

    /// The same, of the thread `tid` at one instant.
    pub fn call_at(&self, tid: u32, time_ns: u64, frames: &Frames) -> Option<String> {
        let call = system_call(&frames.kernel)?;
        match self.facts.sync(tid, time_ns) {
            Some(sync) if call.contains("sync") => Some(format!("{call} of {}", sync.file)),
            _ => Some(call.to_owned()),
        }
    }
}

impl Span {
    /// The same way, for another stretch.
    pub fn cut(&self, start_ns: u64, end_ns: u64) -> Self {
        Self { start_ns, end_ns, ..self.clone() }
    }

    fn may_follow(&self, tid: u32) -> bool {
        tid != self.tid && self.through.len() < MAX_DEPTH && !self.through.contains(&tid)
    }
}

/// Who ended a wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// A thread.
    Thread(u32),
    /// A timer: the wait's own limit, or what it waited for.
    Timer,
    /// Another interrupt, by its name.
    Interrupt(String),
}

/// Puts together neighbours that differ in nothing but their times.
fn merge(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut merged: Vec<Piece> = Vec::new();
    for piece in pieces {
        match merged.last_mut() {
            Some(last) if is_same(last, &piece) => last.end_ns = piece.end_ns,
            _ => merged.push(piece),
        }
    }
    merged
}

fn is_same(a: &Piece, b: &Piece) -> bool {
    a.end_ns == b.start_ns
        && (a.tid, a.cause, a.by, a.truncated) == (b.tid, b.cause, b.by, b.truncated)
        && a.detail == b.detail
        && a.chain == b.chain
        && a.kernel == b.kernel
        && a.user == b.user
}
