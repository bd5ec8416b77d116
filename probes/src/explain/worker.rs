//! The thread that gives names to addresses: the library that reads symbols can be used from one thread only, and
//! what it has read once is worth keeping.

use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;

use probes_common::{CODE_SPANS, CodeSpan};
use reports::explain::{Explain, Verdict};

use super::capture::Capture;
use super::decoded::Decoded;
use super::lookup::Lookup;
use super::{ExplainError, REACH_NS};
use crate::aggregate::Names;
use crate::attribute::{self, Surroundings, Window};
use crate::error::AttachError;
use crate::symbolize::{Symbolizer, hidden_kernel_symbols};
use crate::unwind::ProcessStacks;

/// Processes, each with where its code lies.
pub type Spans = Vec<(u32, [CodeSpan; CODE_SPANS])>;

enum Job {
    Look { pids: Vec<u32>, reply: Sender<Spans> },
    Explain { capture: Arc<Capture>, window: Window, warning: Option<&'static str>, reply: Sender<Explain> },
}

/// Sends work to the thread, which ends with the last of these.
#[derive(Clone, Debug)]
pub struct Worker(Sender<Job>);

impl Worker {
    /// Starts the thread.
    pub fn start() -> Result<Self, AttachError> {
        let (jobs, todo) = mpsc::channel();
        thread::Builder::new()
            .name("forkd-names".to_owned())
            .spawn(move || {
                let mut names = Symbolizer::new(ProcessStacks::default());
                let mut lookup = Lookup::default();
                // Reads the kernel's symbols, so that the first window need not wait for that.
                names.kernel(&[0]);
                while let Ok(job) = todo.recv() {
                    work(&mut names, &mut lookup, job);
                }
            })
            .map_err(|source| AttachError::System {
                what: "starting the thread of names".to_owned(),
                source,
            })?;
        Ok(Self(jobs))
    }

    /// Where the code of these processes lies now.
    pub fn look_at(&self, pids: &[u32]) -> Result<Spans, ExplainError> {
        let (reply, answer) = mpsc::channel();
        self.send(Job::Look { pids: pids.to_vec(), reply })?;
        answer.recv().map_err(|_| ExplainError::Ended)
    }

    /// Accounts for a window.
    pub fn explain(
        &self,
        capture: Arc<Capture>,
        window: &Window,
        warning: Option<&'static str>,
    ) -> Result<Explain, ExplainError> {
        let (reply, answer) = mpsc::channel();
        self.send(Job::Explain { capture, window: window.clone(), warning, reply })?;
        answer.recv().map_err(|_| ExplainError::Ended)
    }

    fn send(&self, job: Job) -> Result<(), ExplainError> {
        self.0.send(job).map_err(|_| ExplainError::Ended)
    }
}

/// Whoever asked may be gone by now: then nobody wants the answer.
fn work(names: &mut Symbolizer, lookup: &mut Lookup, job: Job) {
    match job {
        Job::Look { pids, reply } => {
            names.stacks_mut().forget_ended();
            let look = |pid: &u32| (*pid, names.stacks_mut().look_at(*pid));
            let _ = reply.send(pids.iter().map(look).collect());
        }
        Job::Explain { capture, window, warning, reply } => {
            let explain = explain(names, lookup, &capture, &window, warning);
            // Whoever has the answer may count on it that its room is free.
            drop(capture);
            let _ = reply.send(explain);
        }
    }
}

fn explain(
    names: &mut Symbolizer,
    lookup: &mut Lookup,
    capture: &Capture,
    window: &Window,
    warning: Option<&'static str>,
) -> Explain {
    lookup.refresh(&capture.pids);
    let decoded = Decoded::of(capture, window, names.stacks_mut(), lookup);
    let mut warnings: Vec<String> = warning.map(str::to_owned).into_iter().collect();
    warnings.extend(hidden_kernel_symbols());
    let around = Surroundings {
        pids: capture.pids.clone(),
        attach: capture.attach.clone(),
        loss: decoded.loss,
        lost: decoded.lost,
        probe_overhead_ns: capture.overhead_ns(window.start_ns, window.end_ns),
        warnings,
        reach_ns: REACH_NS,
    };
    let mut explain = attribute::explain(window, &decoded.timelines, &decoded.facts, around, names);
    if let Some(reason) = warning {
        doubt(&mut explain.verdict, reason);
    }
    explain
}

/// Calls a verdict unsound for a reason that no count of lost events tells.
fn doubt(verdict: &mut Verdict, reason: &str) {
    verdict.sound = false;
    verdict.sentence.push_str(&format!(" Unsound: {reason}."));
}

#[cfg(test)]
mod tests {
    use reports::explain::Verdict;

    use super::doubt;

    #[test]
    fn a_verdict_that_is_in_doubt_says_why_and_counts_no_event_that_nobody_saw_lost() {
        let mut verdict = Verdict {
            cause: None,
            share: 1.0,
            sentence: "All of it.".to_owned(),
            sound: true,
            lost: 0,
            advice: Vec::new(),
        };
        doubt(&mut verdict, "recording began late");
        assert_eq!((verdict.sound, verdict.lost), (false, 0));
        assert_eq!(verdict.sentence, "All of it. Unsound: recording began late.");
    }
}
