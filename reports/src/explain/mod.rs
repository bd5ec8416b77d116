//! One window of a program, with a cause for each stretch of its time, and the rest named as unexplained.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::format;
pub use crate::format::RenderError;

mod chain;
mod flame;
mod text;
mod trace;

/// The `schema` of [`Explain`]: the number grows with every change that a reader could trip over.
pub const SCHEMA: &str = "forkd.explain/1";

/// Where the time of one window went, along the critical path that ends it. All `_ns` are nanoseconds; those
/// that are points in time are of CLOCK_MONOTONIC.
///
/// `causes` and `unexplained_ns` sum to `window_ns`, to the nanosecond; `segments` tile the window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explain {
    /// [`SCHEMA`].
    pub schema: String,
    /// What the window is of.
    pub window: Window,
    /// Its length.
    pub window_ns: u64,
    /// The critical path, in the order of time, without a hole and without an overlap.
    pub segments: Vec<Segment>,
    /// Time by cause, longest first.
    pub causes: Vec<Cause>,
    /// What no cause was found for.
    pub unexplained_ns: u64,
    /// Threads that waited for the whole window, or nearly, and are on no path to its end.
    pub passive_waiters: Vec<PassiveWaiter>,
    /// The answer in short.
    pub verdict: Verdict,
    /// Events that were not recorded, by cause of loss; every cause is listed, zero or not.
    pub loss: BTreeMap<String, u64>,
    /// The kernel hooks that the records came from, as `kind/name`.
    pub attach: Vec<String>,
    /// Name and version of the table that maps what was seen to causes.
    pub cause_table: String,
    /// Time that the probes' programs ran during the window, summed over all CPUs; an estimate from the
    /// kernel's statistics or, without them, from the number of records.
    pub probe_overhead_ns: u64,
    /// What the reader must know before trusting the figures, one sentence each.
    pub warnings: Vec<String>,
}

/// What a window is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// What bounded it: `vmm::persist::create_snapshot`, `SIGUSR1`, `3s`, or a BRANCH.
    pub label: String,
    /// Its first nanosecond.
    pub start_ns: u64,
    /// The first nanosecond after it.
    pub end_ns: u64,
    /// The process whose thread ends it (thread group id in the initial pid namespace).
    pub pid: u32,
    /// That process's name.
    pub process: String,
    /// The thread that ends it, from which the path is walked back.
    pub tid: u32,
    /// That thread's name.
    pub comm: String,
    /// It was not seen to end: it was cut where recording ended, or where it was known to be over.
    pub clamped: bool,
}

/// A stretch of the critical path with one cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Its first nanosecond.
    pub start_ns: u64,
    /// The first nanosecond after it.
    pub end_ns: u64,
    /// The thread that the path goes through.
    pub tid: u32,
    /// That thread's name.
    pub comm: String,
    /// The cause's id in the cause table; `None` where there is no evidence for any.
    pub cause: Option<String>,
    /// What the cause was at work on: a file, a device, a thread, a function. Empty where nothing is known.
    pub detail: String,
    /// From the window's own thread to the cause, one link each.
    pub chain: Vec<String>,
    /// Kernel frames, innermost first.
    pub kernel_stack: Vec<String>,
    /// User frames, innermost first.
    pub user_stack: Vec<String>,
    /// An event inside it may have been lost: it may have begun or ended elsewhere, and have another cause in part.
    #[serde(default)]
    pub truncated: bool,
}

/// The time that one cause took on the path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cause {
    /// The cause's id in the cause table.
    pub cause: String,
    /// The same for people.
    pub title: String,
    /// Its time.
    pub ns: u64,
    /// Its part of the window, 0 to 1.
    pub share: f64,
    /// What it was at work on, in the segments that took longest.
    pub detail: String,
    /// The chain of the segments that took longest, from the window's thread to the cause.
    pub chain: Vec<String>,
}

/// A thread that waited meanwhile, and on which nothing on the path waited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassiveWaiter {
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// The thread's name.
    pub comm: String,
    /// How long it waited inside the window.
    pub ns: u64,
    /// In which kernel function; empty where that was not seen.
    pub waits_in: String,
    /// The thread that ended its wait, or will: `None` where nobody was seen to.
    pub waits_for: Option<Peer>,
}

/// A thread on the other side.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Peer {
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// The thread's name.
    pub comm: String,
}

/// The answer in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The id of the cause that took longest; `None` where the unexplained part is longer than any.
    pub cause: Option<String>,
    /// Its part of the window, 0 to 1.
    pub share: f64,
    /// The same as a sentence.
    pub sentence: String,
    /// No event was lost inside the window, and it was recorded from its first nanosecond. Where that is not so,
    /// the sentence says why, and the rest of the report may be wrong.
    pub sound: bool,
    /// Events that were lost inside the window.
    pub lost: u64,
    /// What could be done, for the causes that took longest.
    pub advice: Vec<Advice>,
}

/// One thing that could be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advice {
    /// The causes of this window that are gone when it is followed, by their ids, most time first. Empty in reports
    /// of releases that gave advice cause by cause.
    #[serde(default)]
    pub removes: Vec<String>,
    /// What to do.
    pub text: String,
    /// What the window would be then: its length less the time of those causes on the path.
    pub predicted_ns: u64,
    /// What a program can set to follow the advice, as `key=value`: `data_path=stage`. `None` where only
    /// a person can.
    pub action: Option<String>,
}

/// The forms of an explanation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Text of at most 80 columns.
    Text,
    /// The model itself.
    Json,
    /// The critical path as a flame graph.
    Svg,
    /// The critical path as a timeline, in the format that Perfetto and chrome://tracing read.
    Perfetto,
}

/// Draws `explain`: the whole file as bytes. The same explanation gives the same bytes.
///
/// # Errors
/// [`RenderError`] where it could not be serialised or laid out, or there is nothing to draw.
pub fn render(explain: &Explain, form: Form) -> Result<Vec<u8>, RenderError> {
    match form {
        Form::Text => Ok(text::render(explain).into_bytes()),
        Form::Json => format::json(explain),
        Form::Svg => flame::render(explain),
        Form::Perfetto => trace::render(explain),
    }
}

/// One line for a log or a live view: length, verdict, unexplained part.
pub fn one_line(explain: &Explain) -> String {
    text::one_line(explain)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Explain, Form, SCHEMA, render};

    /// The recorded explanation that the golden files draw.
    pub(crate) fn explain() -> Explain {
        serde_json::from_str(include_str!("../../tests/golden/explain.json")).expect("the explanation parses")
    }

    #[test]
    fn the_json_rendering_reads_back_as_the_same_explanation() {
        let json = render(&explain(), Form::Json).unwrap();
        assert_eq!(serde_json::from_slice::<Explain>(&json).unwrap(), explain());
        assert_eq!(explain().schema, SCHEMA);
    }

    #[test]
    fn each_segment_is_on_its_threads_track_and_on_that_of_the_causes() {
        let trace = render(&explain(), Form::Perfetto).unwrap();
        let trace: serde_json::Value = serde_json::from_slice(&trace).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let on =
            |track: u32| events.iter().filter(|event| event["ph"] == "X" && event["tid"] == track).count();
        let segments = explain().segments;
        assert_eq!(on(0), segments.len());
        for segment in &segments {
            assert_eq!(on(segment.tid), segments.iter().filter(|other| other.tid == segment.tid).count());
        }
    }
}
