//! Windows that the calls of one function bound: recorded as they come, until the recorder is dropped.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use super::state::PASS;
use super::{ExplainError, Explainer, Recorded, Window};
use crate::decode::Mark;
use crate::error::AttachError;

/// Said of a window in whose beginning recording was just being turned off for the one before.
const LATE: &str = "recording was turned on late in this window: its first part may lack events";

/// Calls of one function of one process.
#[derive(Debug)]
pub struct FunctionWindows<'a> {
    explainer: &'a Explainer,
    pid: u32,
    label: String,
    /// When each thread entered the function.
    open: HashMap<u32, u64>,
    /// Windows that are closed, and still being recorded with those that are not.
    closed: Vec<Window>,
    is_late: bool,
    opened: u64,
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
        let label = label.to_owned();
        let (open, closed) = (HashMap::new(), Vec::new());
        Ok(Self { explainer, pid, label, open, closed, is_late: false, opened: 0 })
    }

    /// How many windows have opened so far.
    pub const fn opened(&self) -> u64 {
        self.opened
    }

    /// Looks for windows that have closed, after a moment in which some may.
    ///
    /// # Errors
    /// [`AttachError`] where the programs could not be told, or their counters not be read.
    pub fn look(&mut self) -> Result<Vec<Opened>, AttachError> {
        thread::sleep(PASS);
        self.read();
        match self.closed.is_empty() || !self.open.is_empty() {
            true => Ok(Vec::new()),
            false => self.hand_out(),
        }
    }

    /// Ends: windows that are still open are cut here.
    ///
    /// # Errors
    /// As [`FunctionWindows::look`].
    pub fn finish(mut self) -> Result<Vec<Opened>, AttachError> {
        self.read();
        let end_ns = crate::proc::monotonic_ns();
        let open = std::mem::take(&mut self.open);
        for (tid, start_ns) in open {
            self.closed.push(self.window(tid, start_ns, end_ns, true));
        }
        if self.closed.is_empty() { Ok(Vec::new()) } else { self.hand_out() }
    }

    fn read(&mut self) {
        let mut state = self.explainer.inner.state();
        state.pass();
        let marks = state.take_marks();
        drop(state);
        self.take(marks);
    }

    fn take(&mut self, marks: Vec<Mark>) {
        for mark in marks {
            let tid = mark.thread.tid;
            if mark.opens {
                self.opened += 1;
                self.open.entry(tid).or_insert(mark.time_ns);
            } else if let Some(start_ns) = self.open.remove(&tid) {
                self.closed.push(self.window(tid, start_ns, mark.time_ns, false));
            }
        }
    }

    fn window(&self, tid: u32, start_ns: u64, end_ns: u64, clamped: bool) -> Window {
        Window { start_ns, end_ns, tid, label: self.label.clone(), clamped }
    }

    /// Turns recording off until the next window, and hands out those that are closed.
    fn hand_out(&mut self) -> Result<Vec<Opened>, AttachError> {
        let mut state = self.explainer.inner.state();
        let capture = state.finish()?;
        let marks = state.take_marks();
        state.begin(&[self.pid])?;
        let is_late = std::mem::replace(&mut self.is_late, !marks.is_empty());
        if self.is_late {
            // One opened while recording was being turned off: what is left of it is recorded.
            state.rearm()?;
        }
        drop(state);
        let recorded = Recorded {
            worker: self.explainer.worker.clone(),
            capture: Arc::new(capture),
            warning: is_late.then_some(LATE),
        };
        let closed = std::mem::take(&mut self.closed);
        self.take(marks);
        Ok(closed.into_iter().map(|window| Opened { window, recorded: recorded.clone() }).collect())
    }
}

impl Drop for FunctionWindows<'_> {
    fn drop(&mut self) {
        let _ = self.explainer.inner.state().close();
    }
}
