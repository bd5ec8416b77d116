//! Samples as text of at most 80 columns.

use std::fmt::Write;

use super::{OnCpu, Stack};
use crate::header::header;
use crate::process::headline;
use crate::text::{clip, wrap};
use crate::units::{duration, share};

/// Stacks and threads that are shown; the rest is summed up in one line.
const STACKS: usize = 10;
const THREADS: usize = 16;

pub fn render(report: &OnCpu) -> String {
    let mut out = String::new();
    write_all(&mut out, report).expect("a String takes every write");
    out
}

fn write_all(out: &mut String, report: &OnCpu) -> std::fmt::Result {
    let event = |event: &super::Event| format!("{} on {} CPUs", event.name, event.cpus);
    let events: Vec<String> = report.events.iter().map(event).collect();
    let what = format!(
        "Samples of {}, {} window, {} Hz of {}",
        headline(&report.processes),
        duration(report.window_ns),
        report.frequency_hz,
        events.join(" and ")
    );
    header(out, &what, &report.loss, &report.warnings)?;
    writeln!(out, "{:>8} {:<15} {:>9} {:>9} {:>9}", "TID", "THREAD", "RAN", "SAMPLES", "EXPECTED")?;
    for thread in report.threads.iter().take(THREADS) {
        let blind = if thread.blind { "  blind: some of it was not seen" } else { "" };
        writeln!(
            out,
            "{:>8} {:<15} {:>9} {:>9} {:>9}{blind}",
            thread.tid,
            clip(&thread.comm, 15),
            duration(thread.ran_ns),
            thread.samples,
            thread.expected
        )?;
    }
    more(out, report.threads.len(), THREADS, "threads")?;
    writeln!(out)?;
    let all = report.stacks.iter().map(|stack| stack.samples).sum();
    for (index, stack) in report.stacks.iter().take(STACKS).enumerate() {
        one_stack(out, index + 1, stack, all)?;
    }
    more(out, report.stacks.len(), STACKS, "stacks")
}

fn one_stack(out: &mut String, rank: usize, stack: &Stack, all: u64) -> std::fmt::Result {
    let samples = if stack.samples == 1 { "sample" } else { "samples" };
    writeln!(
        out,
        "{rank:>2}. {} {samples}  {}  {}-{}",
        stack.samples,
        share(stack.samples, all),
        clip(&stack.comm, 15),
        stack.tid
    )?;
    for (label, frames) in [("kernel  ", &stack.kernel), ("user    ", &stack.user)] {
        if !frames.is_empty() {
            out.push_str(&wrap(&format!("    {label}{}", frames.join(" < ")), " < ", "            "));
        }
    }
    Ok(())
}

fn more(out: &mut String, count: usize, shown: usize, what: &str) -> std::fmt::Result {
    match count.saturating_sub(shown) {
        0 => Ok(()),
        rest => writeln!(out, "and {rest} {what} more"),
    }
}
