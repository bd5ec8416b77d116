//! Windows that the calls of one function bound: recorded as they come, until the recorder is dropped.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use super::calls::{Calls, Span};
use super::state::PASS;
use super::{ExplainError, Explainer, Recorded, Window};
use crate::decode::Mark;
use crate::error::AttachError;
use crate::proc;

/// Said of a window in whose beginning recording was just being turned off for the one before.
const LATE: &str = "recording was turned on late in this window: its first part may lack events";
/// Said of a window that may be two.
const REENTERED: &str = "the function was entered again at the same place of the stack before it was seen to return: \
                         unless it calls itself as its last act, this is two calls, of which the first left by an \
                         exception or longjmp, and the time between them";

/// Calls of one function of one process.
#[derive(Debug)]
pub struct FunctionWindows<'a> {
    explainer: &'a Explainer,
    pid: u32,
    label: String,
    calls: Calls,
    /// Windows that are closed, and still being recorded with those that are not.
    closed: Vec<Span>,
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
    /// Watches calls of the function at `offset` of `file` by the process `pid`, which reports name `label`.
    ///
    /// # Errors
    /// [`ExplainError`] says what was refused.
    pub fn attach(
        explainer: &'a Explainer,
        pid: u32,
        file: &Path,
        offset: u64,
        label: &str,
    ) -> Result<Self, ExplainError> {
        explainer.prepare(&[pid])?;
        let mut state = explainer.inner.state();
        state.begin(&[pid])?;
        state.mark_tracer()?;
        state.clock.start()?;
        state.probes.windows(pid, file, offset)?;
        drop(state);
        // Whoever looks for windows has them explained meanwhile: the ring buffer is read without waiting for that.
        explainer.inner.changed.notify_all();
        let (label, calls, closed) = (label.to_owned(), Calls::default(), Vec::new());
        Ok(Self { explainer, pid, label, calls, closed })
    }

    /// How many windows have opened so far, in any thread.
    pub const fn opened(&self) -> u64 {
        self.calls.opened()
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
        match self.closed.is_empty() || !self.calls.is_idle() {
            true => Ok(Vec::new()),
            false => self.hand_out(),
        }
    }

    /// Ends: windows that are still open are cut here.
    ///
    /// # Errors
    /// As [`FunctionWindows::look`].
    pub fn finish(&mut self) -> Result<Vec<Opened>, AttachError> {
        self.read();
        self.cut(&self.calls.tids());
        if self.closed.is_empty() { Ok(Vec::new()) } else { self.hand_out() }
    }

    fn read(&mut self) {
        let mut state = self.explainer.inner.state();
        state.pass();
        let marks = state.take_marks();
        if marks.is_empty() && self.calls.is_idle() && self.closed.is_empty() {
            state.forget_readings();
        }
        drop(state);
        self.take(&marks);
    }

    fn take(&mut self, marks: &[Mark]) {
        let Self { calls, closed, .. } = self;
        closed.extend(marks.iter().filter_map(|mark| calls.take(mark)));
    }

    /// Those that are inside the function and are no more.
    fn ended_threads(&self) -> Vec<u32> {
        let has_ended = |tid: &u32| !proc::thread_file(self.pid, *tid, "stat").exists();
        self.calls.tids().into_iter().filter(has_ended).collect()
    }

    fn cut(&mut self, tids: &[u32]) {
        self.closed.extend(self.calls.cut(tids, proc::monotonic_ns()));
    }

    /// Turns recording off until the next window, and hands out those that are closed.
    fn hand_out(&mut self) -> Result<Vec<Opened>, AttachError> {
        let mut state = self.explainer.inner.state();
        let capture = Arc::new(state.finish()?);
        let marks = state.take_marks();
        state.begin(&[self.pid])?;
        if !marks.is_empty() {
            // One opened while recording was being turned off: what is left of it is recorded.
            state.rearm()?;
        }
        drop(state);
        let closed = std::mem::take(&mut self.closed);
        self.take(&marks);
        let hand_out = |span: Span| {
            let Span { tid, start_ns, end_ns, clamped, was_reentered } = span;
            let late = (start_ns < capture.start_ns).then_some(LATE);
            let warning = late.or(was_reentered.then_some(REENTERED));
            let (worker, capture) = (self.explainer.worker.clone(), Arc::clone(&capture));
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
