//! Block I/O as text of at most 80 columns.

use std::fmt::Write;

use super::{Ahead, Class, Device, Flow, Io, Slow, subject};
use crate::cost;
use crate::header::header;
use crate::text::{clip, wrap};
use crate::units::{bytes, duration};

/// Rows that are shown of each list; the rest is summed up in one line.
const FLOWS: usize = 12;
const SLOWEST: usize = 5;
const AHEAD: usize = 4;
const ROWS: usize = 8;
const BAR: u64 = 40;

pub fn render(report: &Io) -> String {
    let mut out = String::new();
    write_all(&mut out, report).expect("a String takes every write");
    out
}

fn write_all(out: &mut String, report: &Io) -> std::fmt::Result {
    let what = format!(
        "Block I/O of {}, {} window, {} kernel hooks",
        subject(report),
        duration(report.window_ns),
        report.attach.len()
    );
    header(out, &what, &report.loss, &report.warnings)?;
    for device in report.devices.iter().filter(|device| device.requests > 0) {
        one_device(out, report, device);
    }
    requests(out, report)?;
    histogram(out, report)?;
    slowest(out, report)?;
    syncs(out, report)?;
    journals(out, report)?;
    allocations(out, report)?;
    pauses(out, report)?;
    cost::render(out, report.cost.as_ref())
}

fn one_device(out: &mut String, report: &Io, device: &Device) {
    let mut facts = vec![format!(
        "{} ({}): {} requests, {}",
        device.name,
        device.device,
        device.requests,
        bytes(device.bytes)
    )];
    let counted = [
        (device.merged_requests, "requests merged"),
        (device.merged_pieces, "pieces merged into requests"),
        (device.split_pieces, "pieces split"),
        (device.requeued, "given back by the driver"),
        (device.unseen, "issued before the window"),
        (device.endless, "whose end was not seen"),
    ];
    facts.extend(
        counted.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")),
    );
    for (from, count) in &device.remapped_from {
        facts.push(format!("{count} pieces from {}", report.name(from)));
    }
    out.push_str(&wrap(&facts.join(", "), ", ", "    "));
    if let Some(file) = &device.backing_file {
        let again = device.backing_device.as_deref().map_or_else(String::new, |below| {
            format!(": its requests are on {} again, made by kernel threads", report.name(below))
        });
        out.push_str(&wrap(&format!("    lies on {file}{again}"), " ", "    "));
    }
}

fn requests(out: &mut String, report: &Io) -> std::fmt::Result {
    writeln!(
        out,
        "\n{:<22} {:>8} {:>9} {:>8} {:>8} {:>9} {:>8}",
        "CHARGED TO, ON", "REQUESTS", "BYTES", "HELD", "QUEUED", "AT DEVICE", "LONGEST"
    )?;
    for flow in report.flows.iter().take(FLOWS) {
        one_flow(out, report, flow)?;
    }
    rest(out, report.flows.len(), FLOWS)
}

fn one_flow(out: &mut String, report: &Io, flow: &Flow) -> std::fmt::Result {
    let dirtied = match flow.dirtied_bytes {
        0 => String::new(),
        dirty => format!(", made {} dirty", bytes(dirty)),
    };
    let who = who(&flow.comm, flow.pid);
    out.push_str(&wrap(&format!("{who} on {}{dirtied}", report.name(&flow.device)), " ", "  "));
    for class in &flow.classes {
        writeln!(
            out,
            "  {:<20} {:>8} {:>9} {:>8} {:>8} {:>9} {:>8}",
            class.class,
            class.requests,
            bytes(class.bytes),
            duration(class.held.ns),
            duration(class.queued.ns),
            duration(class.device.ns),
            duration(longest(class)),
        )?;
        notes(out, class);
    }
    Ok(())
}

/// The longest of the three times: a request's own times are in the list of the slowest.
fn longest(class: &Class) -> u64 {
    class.held.max_ns.max(class.queued.max_ns).max(class.device.max_ns)
}

fn notes(out: &mut String, class: &Class) {
    let mut notes: Vec<String> =
        class.submitted_by.iter().map(|(who, count)| format!("{count} made by {who}")).collect();
    notes.extend(class.errors.iter().map(|(error, count)| format!("{count} {error}")));
    let counted = [
        (class.meta, "of metadata"),
        (class.direct, "issued at once"),
        (class.in_flight_at_start, "made before the window"),
        (class.in_flight_at_end, "not done at its end"),
        (class.truncated, "with events missing"),
    ];
    notes.extend(
        counted.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")),
    );
    if !notes.is_empty() {
        out.push_str(&wrap(&format!("    {}", notes.join(", ")), ", ", "    "));
    }
}

/// The requests of the row with the most time, by their length.
fn histogram(out: &mut String, report: &Io) -> std::fmt::Result {
    let Some(flow) = report.flows.first() else { return Ok(()) };
    let Some(class) = flow.classes.first() else { return Ok(()) };
    let what = format!(
        "\n{} of {} on {}, by the time from made to done:",
        class.class,
        who(&flow.comm, flow.pid),
        report.name(&flow.device)
    );
    out.push_str(&wrap(&what, " ", ""));
    for bar in class.total.bars(BAR) {
        writeln!(out, "    {bar}")?;
    }
    Ok(())
}

fn slowest(out: &mut String, report: &Io) -> std::fmt::Result {
    if report.slowest.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nSLOWEST REQUESTS")?;
    for (index, slow) in report.slowest.iter().take(SLOWEST).enumerate() {
        one_slow(out, report, index + 1, slow);
    }
    Ok(())
}

fn one_slow(out: &mut String, report: &Io, rank: usize, slow: &Slow) {
    let by = slow.submitted_by.as_ref().map_or_else(String::new, |by| format!(", made by {by}"));
    let size = if slow.bytes == 0 { String::new() } else { format!(" of {}", bytes(slow.bytes)) };
    let first = format!(
        "{rank:>2}. {}  {}{size}, {}{by}, on {}, {} into the window",
        duration(slow.total_ns()),
        slow.class,
        who(&slow.comm, slow.pid),
        report.name(&slow.device),
        duration(slow.start_ns.saturating_sub(report.start_ns)),
    );
    out.push_str(&wrap(&first, ", ", "    "));
    let unfinished = if slow.unfinished { ", not done at the end of the window" } else { "" };
    let times = format!(
        "    held {}, queued {}, at the device {}{unfinished}",
        duration(slow.held_ns),
        duration(slow.queued_ns),
        duration(slow.device_ns)
    );
    out.push_str(&wrap(&times, ", ", "    "));
    let mut ahead: Vec<String> = slow.ahead.iter().take(AHEAD).map(one_ahead).collect();
    if slow.ahead.len() > AHEAD {
        ahead.push(format!("{} more", slow.ahead.len() - AHEAD));
    }
    if ahead.is_empty() {
        ahead.push("nothing".to_owned());
    }
    out.push_str(&wrap(&format!("    ahead   {}", ahead.join(", ")), ", ", "            "));
}

fn one_ahead(ahead: &Ahead) -> String {
    let mut counts = Vec::new();
    for (count, what) in [(ahead.queued, "queued"), (ahead.issued, "at the device")] {
        if count > 0 {
            counts.push(format!("{count} {what}"));
        }
    }
    let (who, size) = (who(&ahead.comm, ahead.pid), bytes(ahead.bytes));
    format!("{who}: {} ({}; {size})", counts.join(" and "), ahead.class)
}

fn syncs(out: &mut String, report: &Io) -> std::fmt::Result {
    if report.syncs.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{:<42} {:>8} {:>9} {:>9}", "SYNCS OF FILES (ext4)", "CALLS", "TOTAL", "LONGEST")?;
    for sync in report.syncs.iter().take(ROWS) {
        let name =
            format!("{}, inode {} on {}", who(&sync.comm, sync.tid), sync.inode, report.name(&sync.device));
        row(out, &name, sync.times.histogram.count(), sync.times.ns, sync.times.max_ns)?;
        let mut notes: Vec<String> =
            sync.errors.iter().map(|(error, count)| format!("{count} {error}")).collect();
        let counted = [
            (sync.data_only, "of data only"),
            (sync.in_flight_at_start, "began before the window"),
            (sync.in_flight_at_end, "not over at its end"),
        ];
        notes.extend(
            counted.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")),
        );
        if !notes.is_empty() {
            out.push_str(&wrap(&format!("    {}", notes.join(", ")), ", ", "    "));
        }
    }
    rest(out, report.syncs.len(), ROWS)
}

fn row(out: &mut String, name: &str, count: u64, ns: u64, max_ns: u64) -> std::fmt::Result {
    let name = clip(name, 42);
    writeln!(out, "{name:<42} {count:>8} {:>9} {:>9}", duration(ns), duration(max_ns))
}

fn journals(out: &mut String, report: &Io) -> std::fmt::Result {
    if report.journals.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\n{:<22} {:>8} {:>9} {:>9} {:>9} {:>9} {:>8}",
        "JOURNAL COMMITS (jbd2)", "COMMITS", "TOTAL", "LOCKING", "FLUSHING", "LOGGING", "LONGEST"
    )?;
    for journal in report.journals.iter().take(ROWS) {
        writeln!(
            out,
            "{:<22} {:>8} {:>9} {:>9} {:>9} {:>9} {:>8}",
            clip(report.name(&journal.device), 22),
            journal.total.histogram.count(),
            duration(journal.total.ns),
            duration(journal.locking.ns),
            duration(journal.flushing.ns),
            duration(journal.logging.ns),
            duration(journal.total.max_ns),
        )?;
        if journal.partial > 0 {
            writeln!(out, "    and {} that lie in the window only in part", journal.partial)?;
        }
    }
    rest(out, report.journals.len(), ROWS)
}

fn allocations(out: &mut String, report: &Io) -> std::fmt::Result {
    if report.allocations.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{:<42} {:>8} {:>9} {:>9}", "SEARCHES FOR BLOCKS (ext4)", "CALLS", "TOTAL", "LONGEST")?;
    for one in report.allocations.iter().take(ROWS) {
        let failed = if one.failed > 0 { format!(", {} in vain", one.failed) } else { String::new() };
        let name = format!(
            "{} on {}: {} blocks{failed}",
            who(&one.comm, one.pid),
            report.name(&one.device),
            one.blocks
        );
        row(out, &name, one.times.histogram.count(), one.times.ns, one.times.max_ns)?;
    }
    rest(out, report.allocations.len(), ROWS)
}

fn pauses(out: &mut String, report: &Io) -> std::fmt::Result {
    if report.pauses.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{:<42} {:>8} {:>9} {:>9}", "PAUSES FOR DIRTYING TOO MUCH", "PAUSES", "TOLD", "LONGEST")?;
    for pause in report.pauses.iter().take(ROWS) {
        let rate = bytes(pause.lowest_bytes_per_second);
        let name = format!("{} on {}, to {rate}/s", who(&pause.comm, pause.tid), report.name(&pause.device));
        row(out, &name, pause.told.histogram.count(), pause.told.ns, pause.told.max_ns)?;
    }
    rest(out, report.pauses.len(), ROWS)
}

/// A flush of a device's cache is nobody's, and has no process.
fn who(comm: &str, pid: u32) -> String {
    let comm = clip(comm, 15);
    if pid == 0 { comm } else { format!("{comm}-{pid}") }
}

fn rest(out: &mut String, count: usize, shown: usize) -> std::fmt::Result {
    match count.saturating_sub(shown) {
        0 => Ok(()),
        rest => writeln!(out, "and {rest} more"),
    }
}
