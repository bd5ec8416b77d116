//! Futex waits as text of at most 80 columns.

use std::fmt::Write;

use super::{Futex, Home, Operation, Verdict, Waiter, Waker, Word};
use crate::header::header;
use crate::process::headline;
use crate::text::{clip, wrap};
use crate::units::{duration, share};

/// Words that are shown; the rest is summed up in one line.
const WORDS: usize = 12;
/// Threads that are shown of each list.
const THREADS: usize = 3;
const BAR: u64 = 40;

pub fn render(report: &Futex) -> String {
    let mut out = String::new();
    write_all(&mut out, report).expect("a String takes every write");
    out
}

fn write_all(out: &mut String, report: &Futex) -> std::fmt::Result {
    let what = format!(
        "Futex waits of {}, {} window, {}",
        headline(&report.processes),
        duration(report.window_ns),
        report.attach.join(", ")
    );
    header(out, &what, &report.loss, &report.warnings)?;
    if report.words.is_empty() {
        return writeln!(out, "nobody waited on a futex");
    }
    for (index, word) in report.words.iter().take(WORDS).enumerate() {
        one_word(out, index + 1, word, report)?;
    }
    let rest = report.words.len().saturating_sub(WORDS);
    if rest > 0 {
        let ns = report.words[WORDS..].iter().map(asleep_ns).sum();
        writeln!(out, "and {rest} more, {} asleep in all", duration(ns))?;
    }
    Ok(())
}

fn one_word(out: &mut String, rank: usize, word: &Word, report: &Futex) -> std::fmt::Result {
    let asleep_ns = asleep_ns(word);
    let process = match report.processes.len() {
        1 => String::new(),
        _ => format!("  pid {}", word.pid),
    };
    let headline = format!(
        "{rank:>2}. {} asleep  {:#x}{process}  {}  {}",
        duration(asleep_ns),
        word.address,
        home(word),
        verdict(word)
    );
    out.push_str(&wrap(&headline, "  ", "    "));
    for operation in &word.operations {
        out.push_str(&wrap(&line(operation), ", ", "            "));
        if operation.asleep.count() > 1 {
            for bar in operation.asleep.bars(BAR) {
                writeln!(out, "      {bar}")?;
            }
        }
    }
    for waiter in word.waiters.iter().take(THREADS) {
        out.push_str(&wrap(&waiter_line(waiter, report.window_ns), "  ", "            "));
        frames(out, &waiter.user);
    }
    more(out, word.waiters.len(), "waiters")?;
    for waker in word.wakers.iter().take(THREADS) {
        out.push_str(&wrap(&waker_line(waker), "  ", "            "));
        frames(out, &waker.user);
    }
    more(out, word.wakers.len(), "wakers")
}

fn line(operation: &Operation) -> String {
    let flag = if operation.private { "" } else { " shared" };
    let mut parts = vec![
        format!("    {}{flag}: {} waits", operation.name, operation.waits),
        format!("{} in the call", duration(operation.wall_ns)),
        format!("{} in the run queue", duration(operation.run_queue_ns)),
        format!("longest {}", duration(operation.max_asleep_ns)),
    ];
    let counted = [
        (operation.woken, "woken"),
        (operation.timed_out, "timed out"),
        (operation.value_changed, "found the value changed"),
        (operation.interrupted, "interrupted"),
        (operation.failed, "failed"),
        (operation.in_flight_at_start, "began before the window"),
        (operation.in_flight_at_end, "not over at its end"),
    ];
    parts.extend(
        counted.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")),
    );
    parts.join(", ")
}

fn waiter_line(waiter: &Waiter, window_ns: u64) -> String {
    format!(
        "    waits   {}-{}  {} asleep  {} of the window",
        clip(&waiter.comm, 15),
        waiter.tid,
        duration(waiter.asleep_ns),
        share(waiter.asleep_ns, window_ns)
    )
}

fn waker_line(waker: &Waker) -> String {
    let how = match &waker.operation {
        Some(name) => format!("{} by {name}", waker.by_operation),
        None => "not by an operation on this word".to_owned(),
    };
    format!(
        "    woken   by {}-{}  {} times  {how}  ran {} meanwhile",
        clip(&waker.comm, 15),
        waker.tid,
        waker.waits_ended,
        duration(waker.ran_meanwhile_ns)
    )
}

/// Frames on one line each would hide the next word: they run on, innermost first, `<` reads "called by".
fn frames(out: &mut String, frames: &[String]) {
    if !frames.is_empty() {
        out.push_str(&wrap(&format!("            {}", frames.join(" < ")), " < ", "            "));
    }
}

fn more(out: &mut String, count: usize, what: &str) -> std::fmt::Result {
    match count.saturating_sub(THREADS) {
        0 => Ok(()),
        rest => writeln!(out, "            and {rest} {what} more"),
    }
}

pub fn asleep_ns(word: &Word) -> u64 {
    word.operations.iter().map(|operation| operation.asleep_ns).sum()
}

/// What lies there, in a few words.
pub fn home(word: &Word) -> String {
    match &word.home {
        Home::Heap => "heap".to_owned(),
        Home::Stack { tid } => format!("stack of thread {tid}"),
        Home::Data { module, symbol, module_address, zeroed } => {
            let section = if *zeroed { ".bss" } else { ".data" };
            let place = match symbol {
                Some((name, offset)) => format!("{name}+{offset:#x}"),
                None => format!("{module_address:#x}"),
            };
            format!("{place} in {section} of {}", module.rsplit('/').next().unwrap_or(module))
        }
        Home::Mapping { name, offset } => format!("{name}+{offset:#x}"),
        Home::Anonymous => "anonymous memory".to_owned(),
        Home::Unmapped => "unmapped".to_owned(),
    }
}

/// The verdict, in a few words.
pub fn verdict(word: &Word) -> String {
    let what = match word.verdict {
        Verdict::Contention => format!("contention, handed on {} times", word.handed_on),
        Verdict::PassiveWait => match word.wakers.first() {
            Some(waker) => format!("passive wait for {}-{}", clip(&waker.comm, 15), waker.tid),
            None => "passive wait".to_owned(),
        },
        Verdict::NobodyWoke => "parked, nobody woke it".to_owned(),
    };
    if word.sound { what } else { format!("{what} (events are missing)") }
}

#[cfg(test)]
mod tests {
    use super::render;
    use crate::futex::Futex;

    #[test]
    fn no_line_is_wider_than_80_columns_whatever_the_names() {
        let text = include_str!("../../tests/golden/futex.json");
        let mut report: Futex = serde_json::from_str(text).expect("the report parses");
        report.words[0].waiters[0].user = vec!["x".repeat(300), "ünïcödé::".repeat(30)];
        report.warnings.push("w".repeat(200));
        for line in render(&report).lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}
