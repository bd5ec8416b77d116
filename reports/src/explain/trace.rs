//! The critical path as a timeline, in the JSON trace event format, which Perfetto and chrome://tracing read.
//!
//! One track a thread, with the segments of the path on it; a track of its own has the causes alone, so that the
//! window reads from left to right; arrows show where the path goes from one thread to another.

use serde_json::{Value, json};

use super::{Explain, RenderError, Segment};
use crate::format;

/// The track of the causes: no thread has this id.
const CAUSES: u32 = 0;

pub fn render(explain: &Explain) -> Result<Vec<u8>, RenderError> {
    let mut events = names(explain);
    for segment in &explain.segments {
        events.push(slice(explain, segment, CAUSES));
        events.push(slice(explain, segment, segment.tid));
    }
    for (number, pair) in explain.segments.windows(2).enumerate() {
        if pair[0].tid != pair[1].tid {
            events.extend(arrow(explain, number, &pair[0], &pair[1]));
        }
    }
    format::json(&json!({ "displayTimeUnit": "ns", "traceEvents": events }))
}

/// The format counts in microseconds; three decimals keep the nanoseconds.
fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

fn slice(explain: &Explain, segment: &Segment, track: u32) -> Value {
    let cause = segment.cause.as_deref().unwrap_or("unexplained");
    json!({
        "ph": "X",
        "pid": explain.window.pid,
        "tid": track,
        "ts": us(segment.start_ns - explain.window.start_ns),
        "dur": us(segment.end_ns - segment.start_ns),
        "name": cause,
        "cat": "path",
        "args": {
            "detail": segment.detail,
            "chain": segment.chain.join(" -> "),
            "kernel": segment.kernel_stack.join(" < "),
            "user": segment.user_stack.join(" < "),
        },
    })
}

/// From the end of one thread's part of the path to the beginning of the next one's.
fn arrow(explain: &Explain, number: usize, from: &Segment, to: &Segment) -> [Value; 2] {
    let end = |phase: &str, segment: &Segment, ns: u64| {
        json!({
            "ph": phase,
            "pid": explain.window.pid,
            "tid": segment.tid,
            "ts": us(ns - explain.window.start_ns),
            "id": number,
            "name": "path",
            "cat": "path",
            "bp": "e",
        })
    };
    // The end lies inside its slice, so that the viewer binds it to that one and not to the next.
    [end("s", from, from.end_ns.saturating_sub(1).max(from.start_ns)), end("f", to, to.start_ns)]
}

fn names(explain: &Explain) -> Vec<Value> {
    let meta = |name: &str, tid: u32, text: String| json!({ "ph": "M", "pid": explain.window.pid, "tid": tid, "name": name, "args": { "name": text } });
    let window = &explain.window;
    let mut events = vec![
        meta("process_name", CAUSES, format!("{}: {}", window.process, window.label)),
        meta("thread_name", CAUSES, "critical path, by cause".to_owned()),
    ];
    let mut tids: Vec<(u32, &str)> =
        explain.segments.iter().map(|segment| (segment.tid, segment.comm.as_str())).collect();
    tids.sort_unstable();
    tids.dedup_by_key(|(tid, _)| *tid);
    events.extend(tids.iter().map(|(tid, comm)| meta("thread_name", *tid, format!("{comm}({tid})"))));
    events
}
