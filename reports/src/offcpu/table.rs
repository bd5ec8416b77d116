//! Off-CPU time as text of at most 80 columns.

use std::fmt::Write;

use super::{OffCpu, Stack, State, Thread, Waker, subject, user};
use crate::cost;
use crate::loss;
use crate::text::{clip, wrap};
use crate::units::{duration, share};

/// Stacks that are shown; the rest is summed up in one line.
const STACKS: usize = 10;

pub fn render(report: &OffCpu) -> String {
    let mut out = String::new();
    write_all(&mut out, report).expect("a String takes every write");
    out
}

fn write_all(out: &mut String, report: &OffCpu) -> std::fmt::Result {
    header(out, report)?;
    threads(out, &report.threads, report.window_ns)?;
    writeln!(out)?;
    let waits = waits(&report.stacks);
    for (index, wait) in waits.iter().take(STACKS).enumerate() {
        one_wait(out, index + 1, wait, report.window_ns)?;
    }
    rest(out, &waits[waits.len().min(STACKS)..])?;
    cost::render(out, report.cost.as_ref())
}

fn header(out: &mut String, report: &OffCpu) -> std::fmt::Result {
    let window = match report.windows {
        1 => format!("{} window", duration(report.window_ns)),
        many => format!("{} in {many} windows", duration(report.window_ns)),
    };
    let what = format!("Off-CPU time of {}, {window}, {}", subject(report), report.attach);
    out.push_str(&wrap(&what, " ", ""));
    out.push_str(&wrap(&loss::in_full(&report.loss), ", ", "  "));
    writeln!(out, "{}", user::wholeness(report))?;
    for warning in &report.warnings {
        out.push_str(&wrap(&format!("warning: {warning}"), " ", "  "));
    }
    writeln!(out)
}

fn threads(out: &mut String, threads: &[Thread], window_ns: u64) -> std::fmt::Result {
    writeln!(
        out,
        "{:>8} {:<15} {:>8} {:>6} {:>9} {:>8} {:>8} {:>9}",
        "TID", "THREAD", "OFF-CPU", "SHARE", "RUN QUEUE", "ON-CPU", "UNKNOWN", "SWITCHES"
    )?;
    for thread in threads {
        writeln!(
            out,
            "{:>8} {:<15} {:>8} {:>6} {:>9} {:>8} {:>8} {:>9}",
            thread.tid,
            clip(&thread.comm, 15),
            duration(thread.off_cpu_ns),
            share(thread.off_cpu_ns, window_ns),
            duration(thread.run_queue_ns),
            duration(thread.on_cpu_ns),
            duration(thread.unknown_ns),
            thread.switches,
        )?;
        if thread.truncated > 0 {
            let s = if thread.truncated == 1 { "" } else { "s" };
            writeln!(
                out,
                "{:>8} {} interval{s} may be longer or merged: events are missing",
                "", thread.truncated
            )?;
        }
    }
    Ok(())
}

/// Stacks that differ only in who woke the thread: one place in the code, one entry.
struct Wait<'a> {
    stack: &'a Stack,
    ns: u64,
    count: u64,
    /// Longest wait first.
    wakers: Vec<&'a Waker>,
}

/// Longest first; equals stay in the report's order.
fn waits(stacks: &[Stack]) -> Vec<Wait<'_>> {
    let mut waits: Vec<Wait> = Vec::new();
    for stack in stacks {
        let known = waits.iter_mut().find(|wait| same_place(wait.stack, stack));
        let wait = match known {
            Some(wait) => wait,
            None => waits.push_mut(Wait { stack, ns: 0, count: 0, wakers: Vec::new() }),
        };
        wait.ns += stack.ns;
        wait.count += stack.count;
        wait.wakers.extend(&stack.waker);
    }
    waits.sort_by_key(|wait| std::cmp::Reverse(wait.ns));
    waits
}

fn same_place(a: &Stack, b: &Stack) -> bool {
    let key = |stack: &Stack| (stack.tid, stack.state, stack.user_truncated);
    key(a) == key(b) && a.kernel == b.kernel && a.user == b.user
}

fn one_wait(out: &mut String, rank: usize, wait: &Wait, window_ns: u64) -> std::fmt::Result {
    let stack = wait.stack;
    let times = if wait.count == 1 { "once".to_owned() } else { format!("{} times", wait.count) };
    writeln!(
        out,
        "{rank:>2}. {}  {} of the window  {}-{}  {}  {times}",
        duration(wait.ns),
        share(wait.ns, window_ns),
        clip(&stack.comm, 15),
        stack.tid,
        state(stack.state),
    )?;
    frames(out, "kernel  ", &stack.kernel);
    let mut user = stack.user.clone();
    user.extend(stack.user_truncated.then(|| "[truncated]".to_owned()));
    frames(out, "user    ", &user);
    if !wait.wakers.is_empty() {
        out.push_str(&wrap(&format!("    woken   by {}", wakers(&wait.wakers)), ", ", "            "));
    }
    Ok(())
}

fn wakers(wakers: &[&Waker]) -> String {
    const NAMED: usize = 3;
    let name = |waker: &&Waker| {
        let name = clip(&waker.comm, 20);
        // An interrupt is no thread: what it interrupted is chance, and is not named.
        if waker.interrupt { name } else { format!("{name}-{}", waker.tid) }
    };
    let mut names: Vec<String> = wakers.iter().take(NAMED).map(name).collect();
    if wakers.len() > NAMED {
        names.push(format!("{} more", wakers.len() - NAMED));
    }
    names.join(", ")
}

/// Frames on one line each would hide the next stack: they run on, innermost first, `<` reads "called by".
fn frames(out: &mut String, label: &str, frames: &[String]) {
    if !frames.is_empty() {
        out.push_str(&wrap(&format!("    {label}{}", frames.join(" < ")), " < ", "            "));
    }
}

fn rest(out: &mut String, waits: &[Wait]) -> std::fmt::Result {
    if waits.is_empty() {
        return Ok(());
    }
    let ns = waits.iter().map(|wait| wait.ns).sum();
    let s = if waits.len() == 1 { "" } else { "s" };
    writeln!(out, "and {} stack{s} more, {} in all", waits.len(), duration(ns))
}

fn state(state: State) -> &'static str {
    match state {
        State::Interruptible => "asleep",
        State::Uninterruptible => "asleep (D)",
        State::Stopped => "stopped",
        State::Preempted => "preempted",
        State::RunQueue => "waits for a CPU",
        State::Unknown => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::render;
    use crate::offcpu::tests::report;

    #[test]
    fn no_line_is_wider_than_80_columns_whatever_the_names() {
        let mut report = report();
        report.stacks[0].kernel = vec!["x".repeat(300), "ünïcödé::".repeat(30), "short".to_owned()];
        report.stacks[0].comm = "n".repeat(40);
        report.warnings.push("w".repeat(200));
        for line in render(&report).lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn stacks_that_differ_only_in_the_waker_are_one_entry_that_names_both() {
        let mut report = report();
        let mut again = report.stacks[0].clone();
        if let Some(waker) = &mut again.waker {
            waker.tid = 77;
        }
        report.stacks = vec![report.stacks[0].clone(), again];
        let table = render(&report);
        assert!(table.contains("woken   by firecracker-4120, firecracker-77"), "{table}");
        assert!(table.contains(" 12 times") && !table.contains(" 2. "), "{table}");
    }
}
