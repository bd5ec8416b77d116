//! System calls as text of at most 80 columns.

use std::fmt::Write;

use super::{Call, Split, Syscalls, Thread};
use crate::header::header;
use crate::process::headline;
use crate::text::{clip, wrap};
use crate::units::duration;

/// Rows that are shown of each list; the rest is summed up in one line.
const CALLS: usize = 20;
const THREADS: usize = 12;
const CALLS_OF_THREAD: usize = 4;
const ERRORS: usize = 4;

pub fn render(report: &Syscalls) -> String {
    let mut out = String::new();
    write_all(&mut out, report).expect("a String takes every write");
    out
}

fn write_all(out: &mut String, report: &Syscalls) -> std::fmt::Result {
    let what = format!(
        "System calls of {}, {} window, {}",
        headline(&report.processes),
        duration(report.window_ns),
        report.attach.join(", ")
    );
    header(out, &what, &report.loss, &report.warnings)?;
    columns(out, "CALL")?;
    let calls = report.by_name();
    for call in calls.iter().take(CALLS) {
        row(out, &call.name, &call.count.to_string(), &call.split, call.max_ns)?;
        notes(out, call);
    }
    rest(out, calls.len(), CALLS, "calls")?;
    writeln!(out)?;
    columns(out, "THREAD")?;
    for thread in report.threads.iter().take(THREADS) {
        one_thread(out, thread)?;
    }
    rest(out, report.threads.len(), THREADS, "threads")
}

fn columns(out: &mut String, first: &str) -> std::fmt::Result {
    writeln!(
        out,
        "{first:<22} {:>8} {:>8} {:>8} {:>8} {:>9} {:>8}",
        "COUNT", "WALL", "ON-CPU", "ASLEEP", "RUN QUEUE", "LONGEST"
    )
}

fn row(out: &mut String, name: &str, count: &str, split: &Split, max_ns: u64) -> std::fmt::Result {
    let longest = if max_ns == 0 { "-".to_owned() } else { duration(max_ns) };
    writeln!(
        out,
        "{:<22} {count:>8} {:>8} {:>8} {:>8} {:>9} {longest:>8}",
        clip(name, 22),
        duration(split.wall_ns()),
        duration(split.on_cpu_ns),
        duration(split.asleep_ns),
        duration(split.run_queue_ns),
    )
}

/// How calls ended other than well, and what is not whole about their time.
fn notes(out: &mut String, call: &Call) {
    let mut errors: Vec<_> = call.errors.iter().collect();
    errors.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let mut notes: Vec<String> =
        errors.iter().take(ERRORS).map(|(error, count)| format!("{count} {error}")).collect();
    if errors.len() > ERRORS {
        notes.push(format!("{} other errors", errors.len() - ERRORS));
    }
    let counted = [
        (call.in_flight_at_start, "began before the window"),
        (call.in_flight_at_end, "not over at its end"),
        (call.truncated, "with events missing"),
    ];
    notes.extend(
        counted.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")),
    );
    if call.split.unknown_ns > 0 {
        notes.push(format!("{} unknown", duration(call.split.unknown_ns)));
    }
    if !notes.is_empty() {
        out.push_str(&wrap(&format!("    {}", notes.join(", ")), ", ", "    "));
    }
}

fn one_thread(out: &mut String, thread: &Thread) -> std::fmt::Result {
    let mut inside = Split::default();
    for call in &thread.calls {
        inside.add(&call.split);
    }
    let count: u64 = thread.calls.iter().map(|call| call.count).sum();
    let longest = thread.calls.iter().map(|call| call.max_ns).max().unwrap_or(0);
    let name = format!("{}-{}", clip(&thread.comm, 13), thread.tid);
    row(out, &name, &count.to_string(), &inside, longest)?;
    row(out, "  outside of calls", "", &thread.outside, 0)?;
    for call in thread.calls.iter().take(CALLS_OF_THREAD) {
        row(out, &format!("  {}", call.name), &call.count.to_string(), &call.split, call.max_ns)?;
    }
    Ok(())
}

fn rest(out: &mut String, count: usize, shown: usize, what: &str) -> std::fmt::Result {
    match count.saturating_sub(shown) {
        0 => Ok(()),
        rest => writeln!(out, "and {rest} {what} more"),
    }
}
