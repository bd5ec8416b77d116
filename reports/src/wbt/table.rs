//! Writeback throttling as text of at most 80 columns.

use std::fmt::Write;

use super::{Device, Latency, Limits, Waits, Wbt};
use crate::cost;
use crate::header::header;
use crate::histogram::Histogram;
use crate::io::{Class, Flow};
use crate::process::headline;
use crate::text::{clip, wrap};
use crate::units::{bytes, duration};

/// Rows that are shown of each list; the rest is summed up in one line.
const ROWS: usize = 8;
const STACKS: usize = 3;
const BAR: u64 = 40;

pub fn render(report: &Wbt) -> String {
    let mut out = String::new();
    write_all(&mut out, report).expect("a String takes every write");
    out
}

fn write_all(out: &mut String, report: &Wbt) -> std::fmt::Result {
    let what = format!(
        "Writeback throttling of {}, {} window, waits seen by {}",
        headline(&report.processes),
        duration(report.window_ns),
        report.rung
    );
    header(out, &what, &report.loss, &report.warnings)?;
    waits(out, report)?;
    for device in &report.devices {
        one_device(out, device)?;
    }
    writers(out, report)?;
    cost::render(out, report.cost.as_ref())
}

fn waits(out: &mut String, report: &Wbt) -> std::fmt::Result {
    writeln!(out, "{:<34} {:>8} {:>9} {:>9} {:>9}", "HELD BACK", "WAITS", "TIME", "RUN QUEUE", "LONGEST")?;
    if report.waits.is_empty() {
        writeln!(out, "nobody that was watched")?;
    }
    let mut all = Histogram::default();
    for one in &report.waits {
        all.merge(&one.times.histogram);
    }
    for one in report.waits.iter().take(ROWS) {
        thread(out, report, one)?;
    }
    rest(out, report.waits.len(), ROWS)?;
    let bars = all.bars(BAR);
    if !bars.is_empty() {
        writeln!(out, "\nWAITS BY LENGTH")?;
    }
    for bar in bars {
        writeln!(out, "    {bar}")?;
    }
    writeln!(out)
}

fn thread(out: &mut String, report: &Wbt, waits: &Waits) -> std::fmt::Result {
    let device = waits.device.as_deref().map_or("a device not known", |device| report.name(device));
    let name = format!("{}-{} for {device}", clip(&waits.comm, 15), waits.tid);
    writeln!(
        out,
        "{:<34} {:>8} {:>9} {:>9} {:>9}",
        clip(&name, 34),
        waits.times.histogram.count(),
        duration(waits.times.ns),
        duration(waits.run_queue_ns),
        duration(waits.times.max_ns),
    )?;
    let counted = [
        (waits.let_through, "times let through at once"),
        (waits.in_flight_at_start, "began before the window"),
        (waits.in_flight_at_end, "not over at its end"),
    ];
    let notes: Vec<String> = counted
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if !notes.is_empty() {
        out.push_str(&wrap(&format!("    {}", notes.join(", ")), ", ", "    "));
    }
    for stack in waits.stacks.iter().take(STACKS) {
        writeln!(out, "    {} at", duration(stack.ns))?;
        let mut user = stack.user.clone();
        user.extend(stack.user_truncated.then(|| "[truncated]".to_owned()));
        for (label, frames) in [("kernel  ", &stack.kernel), ("user    ", &user)] {
            if !frames.is_empty() {
                out.push_str(&wrap(&format!("    {label}{}", frames.join(" < ")), " < ", "            "));
            }
        }
    }
    Ok(())
}

fn one_device(out: &mut String, device: &Device) -> std::fmt::Result {
    let target = match device.target_ns {
        Some(target_ns) => format!("keeps reads below {}", duration(target_ns)),
        None => "does not throttle now".to_owned(),
    };
    let mut facts = vec![
        format!("{} ({}) {target}", device.name, device.device),
        format!("{} windows measured", device.windows),
    ];
    if device.late_windows > 0 {
        facts.push(format!("reads late in {} of them", device.late_windows));
    }
    if device.late_reads > 0 {
        facts.push(format!("a read in flight for up to {}", duration(device.latest_read_ns)));
    }
    facts.extend(device.steps.iter().map(|(step, count)| format!("{count} times {step}")));
    if device.most_in_flight > 0 {
        facts.push(format!("up to {} throttled writes in flight", device.most_in_flight));
    }
    out.push_str(&wrap(&facts.join(", "), ", ", "    "));
    for (what, limits) in [("tightest", device.tightest), ("last", device.last)] {
        if let Some(limits) = limits {
            limit(out, what, &limits);
        }
    }
    for (what, latency) in [("reads", &device.reads), ("writes", &device.writes)] {
        measured(out, what, latency)?;
    }
    Ok(())
}

fn limit(out: &mut String, what: &str, limits: &Limits) {
    let text = format!(
        "    {what:<9} step {}: {} background, {} other, {} awaited writes in flight; windows of {}",
        limits.step,
        limits.background,
        limits.normal,
        limits.max,
        duration(limits.window_ns)
    );
    out.push_str(&wrap(&text, " ", "              "));
}

fn measured(out: &mut String, what: &str, latency: &Latency) -> std::fmt::Result {
    let Some(mean_ns) = latency.sum_ns.checked_div(latency.samples) else { return Ok(()) };
    writeln!(
        out,
        "    {what:<9} {} measured, {} on average, {} to {}",
        latency.samples,
        duration(mean_ns),
        duration(latency.min_ns),
        duration(latency.max_ns)
    )
}

fn writers(out: &mut String, report: &Wbt) -> std::fmt::Result {
    if report.writers.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\n{:<24} {:>9} {:>10} {:>9} {:>10} {:>9}",
        "WHOSE DIRTY PAGES", "DIRTIED", "BACKGROUND", "BYTES", "OTHER", "BYTES"
    )?;
    for flow in report.writers.iter().take(ROWS) {
        writer(out, report, flow)?;
    }
    rest(out, report.writers.len(), ROWS)
}

fn writer(out: &mut String, report: &Wbt, flow: &Flow) -> std::fmt::Result {
    let sum = |of: &dyn Fn(&Class) -> u64, background: bool| -> u64 {
        flow.classes.iter().filter(|class| (class.class == "background write") == background).map(of).sum()
    };
    let name = format!("{}-{} on {}", clip(&flow.comm, 12), flow.pid, report.name(&flow.device));
    writeln!(
        out,
        "{:<24} {:>9} {:>10} {:>9} {:>10} {:>9}",
        clip(&name, 24),
        bytes(flow.dirtied_bytes),
        sum(&|class| class.requests, true),
        bytes(sum(&|class| class.bytes, true)),
        sum(&|class| class.requests, false),
        bytes(sum(&|class| class.bytes, false)),
    )?;
    let mut by: Vec<&str> =
        flow.classes.iter().flat_map(|class| class.submitted_by.keys().map(String::as_str)).collect();
    by.sort_unstable();
    by.dedup();
    if !by.is_empty() {
        out.push_str(&wrap(&format!("    made by {}", by.join(", ")), ", ", "    "));
    }
    Ok(())
}

fn rest(out: &mut String, count: usize, shown: usize) -> std::fmt::Result {
    match count.saturating_sub(shown) {
        0 => Ok(()),
        rest => writeln!(out, "and {rest} more"),
    }
}
