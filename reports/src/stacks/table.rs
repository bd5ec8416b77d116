//! Polled stacks as text of at most 80 columns.

use std::fmt::Write;

use super::{Seen, Source, Stacks, Thread};
use crate::process::headline;
use crate::text::{clip, wrap};
use crate::units::{duration, share};

/// Stacks that are shown of each thread.
const SEEN: usize = 5;
const BAR: u64 = 20;

pub fn render(report: &Stacks) -> String {
    let mut out = String::new();
    write_all(&mut out, report).expect("a String takes every write");
    out
}

fn write_all(out: &mut String, report: &Stacks) -> std::fmt::Result {
    let source = match report.source {
        Source::Stack => "/proc/PID/task/TID/stack",
        Source::Wchan => "/proc/PID/task/TID/wchan",
        Source::Nothing => "no kernel frames",
    };
    let what = format!(
        "Threads of {}, looked at {} times in {}, every {}, {source}",
        headline(&report.processes),
        report.rounds,
        duration(report.window_ns),
        duration(report.interval_ns)
    );
    out.push_str(&wrap(&what, " ", ""));
    if report.late_rounds > 0 {
        writeln!(out, "  {} rounds came late", report.late_rounds)?;
    }
    for warning in &report.warnings {
        out.push_str(&wrap(&format!("warning: {warning}"), " ", "  "));
    }
    for thread in &report.threads {
        writeln!(out)?;
        one_thread(out, thread)?;
    }
    Ok(())
}

fn one_thread(out: &mut String, thread: &Thread) -> std::fmt::Result {
    let role =
        if thread.role == thread.comm { String::new() } else { format!("  {}", clip(&thread.role, 20)) };
    writeln!(out, "{}-{}{role}  {} looks", clip(&thread.comm, 15), thread.tid, thread.looks)?;
    for seen in thread.seen.iter().take(SEEN) {
        one_stack(out, seen, thread.looks);
    }
    let rest = &thread.seen[thread.seen.len().min(SEEN)..];
    if !rest.is_empty() {
        let looks: u64 = rest.iter().map(|seen| seen.looks).sum();
        writeln!(out, "  and {} stacks more, {looks} looks in all", rest.len())?;
    }
    Ok(())
}

fn one_stack(out: &mut String, seen: &Seen, looks: u64) {
    let bar = "#".repeat((seen.looks * BAR).div_ceil(looks.max(1)) as usize);
    let call = seen.call.as_ref().map_or_else(String::new, |call| format!("  in {}", clip(call, 20)));
    let line =
        format!("  {:>6} {:>6} {bar:<20}  {}{call}", seen.looks, share(seen.looks, looks), state(seen.state));
    out.push_str(line.trim_end());
    out.push('\n');
    if !seen.kernel.is_empty() {
        out.push_str(&wrap(&format!("         {}", seen.kernel.join(" < ")), " < ", "         "));
    }
}

/// A state in words.
pub fn state(letter: char) -> &'static str {
    match letter {
        'R' => "runnable",
        'S' => "asleep",
        'D' => "asleep (D)",
        'T' | 't' => "stopped",
        'I' => "idle",
        'Z' | 'X' | 'x' => "ended",
        _ => "unknown",
    }
}
