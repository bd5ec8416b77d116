//! Windows that the calls of one function bound: recorded as they come, until the recorder is dropped.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use super::calls::{Calls, Span};
use super::state::PASS;
use super::{ExplainError, Explainer, Recorded, Window, return_probe};
use crate::decode::{Mark, ThreadId};
use crate::error::AttachError;
use crate::proc;

/// Said of a window in whose beginning recording was just being turned off for the one before.
const LATE: &str = "recording was turned on late in this window: its first part may lack events";
/// Said of a window that opened just then, and closed before it could be turned on again.
const EARLY: &str = "recording was turned off early in this window: its last part lacks events";
/// Said of a window that may be two.
const REENTERED: &str = "the function was entered again at the same place of the stack before it was seen to return: \
                         unless it calls itself as its last act, these are two calls, of which the first left by \
                         longjmp, and the time between them";

/// Which calls are windows.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The process.
    pub pid: u32,
    /// The only thread whose calls are meant; calls by all threads where there is none.
    pub tid: Option<u32>,
    /// The file that holds the function.
    pub file: &'a Path,
    /// Where in the file it begins.
    pub offset: u64,
    /// What reports call it.
    pub label: &'a str,
}

/// Calls of one function of one process.
#[derive(Debug)]
pub struct FunctionWindows<'a> {
    explainer: &'a Explainer,
    pid: u32,
    /// The only thread whose calls are windows.
    only: Option<u32>,
    /// Calls by other threads than that.
    others: u64,
    /// How many of those there had been when recording was last turned off.
    others_before: u64,
    label: String,
    calls: Calls,
    /// Windows that are closed, and still being recorded with those that are not.
    closed: Vec<Span>,
    /// Records that had been lost at the last look.
    ring_losses: u64,
}

/// A window that has closed.
#[derive(Debug)]
pub struct Opened {
    /// When it opened and closed, and in which thread.
    pub window: Window,
    /// What was recorded.
    pub recorded: Recorded,
}

impl<'a> FunctionWindows<'a> {
    /// Watches calls of a function by a process, or by one of its threads.
    ///
    /// # Errors
    /// [`ExplainError`] says what was refused.
    pub fn attach(explainer: &'a Explainer, place: &Place<'_>) -> Result<Self, ExplainError> {
        let Place { pid, tid, file, offset, label } = *place;
        return_probe::is_outlived_by(pid)?;
        explainer.prepare(&[pid])?;
        let mut state = explainer.inner.state();
        state.begin(&[pid])?;
        state.mark_tracer()?;
        state.clock.start()?;
        state.probes.windows(pid, file, offset)?;
        let ring_losses = state.ring_losses();
        drop(state);
        // Whoever looks for windows has them explained meanwhile: the ring buffer is read without waiting for that.
        explainer.inner.changed.notify_all();
        Ok(Self {
            explainer,
            pid,
            only: tid,
            others: 0,
            others_before: 0,
            label: label.to_owned(),
            calls: Calls::default(),
            closed: Vec::new(),
            ring_losses,
        })
    }

    /// How many calls there have been so far, in any thread.
    pub const fn opened(&self) -> u64 {
        self.calls.opened() + self.others
    }

    /// How many windows have closed that are not handed out yet.
    pub const fn closed(&self) -> usize {
        self.closed.len()
    }

    /// Looks for windows that have closed, after a moment in which some may. They are handed out once no thread is
    /// inside the function: recording goes on for those that are.
    ///
    /// # Errors
    /// [`AttachError`] where the programs could not be told, or their counters not be read.
    pub fn look(&mut self) -> Result<Vec<Opened>, AttachError> {
        thread::sleep(PASS);
        // Before the records: a thread that returned and then ended has said so in them.
        let ended = self.ended_threads();
        self.read();
        self.cut(&ended);
        // Calls by others turn recording on as well.
        let is_over = !self.closed.is_empty() || self.others > self.others_before;
        if is_over && self.calls.is_idle() { self.hand_out() } else { Ok(Vec::new()) }
    }

    /// Ends: windows that are still open are cut here, and come last.
    ///
    /// # Errors
    /// As [`FunctionWindows::look`].
    pub fn finish(&mut self) -> Result<Vec<Opened>, AttachError> {
        self.read();
        self.cut(&self.calls.threads());
        if self.closed.is_empty() { Ok(Vec::new()) } else { self.hand_out() }
    }

    fn read(&mut self) {
        let mut state = self.explainer.inner.state();
        state.pass();
        let marks = state.take_marks();
        if marks.is_empty() && self.calls.is_idle() && self.closed.is_empty() {
            state.forget_readings();
        }
        let ring_losses = state.ring_losses();
        drop(state);
        self.take(&marks);
        if std::mem::replace(&mut self.ring_losses, ring_losses) < ring_losses {
            self.calls.doubt();
        }
    }

    fn take(&mut self, marks: &[Mark]) {
        for mark in marks {
            if self.only.is_none_or(|tid| tid == mark.thread.tid) {
                self.closed.extend(self.calls.take(mark));
            } else {
                self.others += u64::from(mark.opens);
            }
        }
    }

    /// Those that are inside the function and are no more.
    fn ended_threads(&self) -> Vec<ThreadId> {
        let has_ended = |thread: &ThreadId| !proc::lives(self.pid, thread.tid, thread.start_ns);
        self.calls.threads().into_iter().filter(has_ended).collect()
    }

    fn cut(&mut self, threads: &[ThreadId]) {
        self.closed.extend(self.calls.cut(threads, proc::monotonic_ns()));
    }

    /// Turns recording off until the next window, and hands out those that are closed.
    fn hand_out(&mut self) -> Result<Vec<Opened>, AttachError> {
        let explainer = self.explainer;
        let mut state = explainer.inner.state();
        self.others_before = self.others;
        let capture = Arc::new(state.finish()?);
        let marks = state.take_marks();
        self.take(&marks);
        let closed = std::mem::take(&mut self.closed);
        state.begin(&[self.pid])?;
        if !self.calls.is_idle() {
            // One opened while recording was being turned off: what is left of it is recorded.
            state.rearm()?;
        }
        drop(state);
        let hand_out = |span: Span| {
            let Span { tid, start_ns, end_ns, clamped, was_reentered } = span;
            let late = (start_ns < capture.start_ns).then_some(LATE);
            let early = (end_ns > capture.end_ns).then_some(EARLY);
            let warning = late.or(early).or(was_reentered.then_some(REENTERED));
            let (worker, capture) = (explainer.worker.clone(), Arc::clone(&capture));
            let window = Window { start_ns, end_ns, tid, label: self.label.clone(), clamped };
            Opened { window, recorded: Recorded { worker, capture, warning } }
        };
        Ok(closed.into_iter().map(hand_out).collect())
    }
}

impl Drop for FunctionWindows<'_> {
    fn drop(&mut self) {
        let _ = self.explainer.inner.state().close();
    }
}
