//! An explanation as text of at most 80 columns.

use std::fmt::Write;

use super::{Advice, Cause, Explain, PassiveWaiter, chain};
use crate::loss;
use crate::text::{clip, wrap};
use crate::units::{duration, share};

/// Columns of the longest bar.
const BAR: usize = 20;
/// Causes whose chain is shown.
const CHAINS: usize = 4;
/// Passive waiters that are shown one by one.
const WAITERS: usize = 6;

pub fn render(explain: &Explain) -> String {
    let mut out = String::new();
    write_all(&mut out, explain).expect("a String takes every write");
    out
}

/// `create_snapshot 343 ms: 41.0% journal commit on loop0, unexplained 0.2%`.
pub fn one_line(explain: &Explain) -> String {
    let top = explain.causes.first().map(|cause| {
        let detail = if cause.detail.is_empty() { String::new() } else { format!(", {}", cause.detail) };
        format!("{} {}{detail}; ", share(cause.ns, explain.window_ns), cause.title)
    });
    let open = if explain.window.clamped { ", cut there" } else { "" };
    let unsound = match (explain.verdict.sound, explain.verdict.lost) {
        (true, _) => "",
        (false, 0) => "; unsound: the report says why",
        (false, _) => "; unsound: events were lost",
    };
    format!(
        "{} {}{open}: {}unexplained {}{unsound}",
        explain.window.label,
        duration(explain.window_ns),
        top.unwrap_or_default(),
        share(explain.unexplained_ns, explain.window_ns),
    )
}

fn write_all(out: &mut String, explain: &Explain) -> std::fmt::Result {
    header(out, explain)?;
    out.push_str(&wrap(&format!("Verdict: {}", explain.verdict.sentence), " ", "  "));
    writeln!(out)?;
    for cause in &explain.causes {
        bar(out, &cause.title, cause.ns, explain.window_ns)?;
    }
    bar(out, "unexplained", explain.unexplained_ns, explain.window_ns)?;
    bar_sum(out, explain)?;
    chains(out, &explain.causes)?;
    waiters(out, explain)?;
    advice(out, explain)
}

fn header(out: &mut String, explain: &Explain) -> std::fmt::Result {
    let window = &explain.window;
    let thread = format!("{}({})", window.comm, window.tid);
    let what = format!(
        "{}: {} in {thread} of {} (pid {}), {}",
        window.label,
        duration(explain.window_ns),
        window.process,
        window.pid,
        explain.cause_table
    );
    out.push_str(&wrap(&what, " ", "  "));
    let overhead = duration(explain.probe_overhead_ns);
    out.push_str(&wrap(
        &format!("  {}; probes ran for {overhead}", loss::in_short(&explain.loss)),
        " ",
        "  ",
    ));
    if window.clamped {
        out.push_str(
            "  it was not seen to end: it is cut where recording ended, or where it was known to be over\n",
        );
    }
    for warning in &explain.warnings {
        out.push_str(&wrap(&format!("  warning: {warning}"), " ", "  "));
    }
    writeln!(out)
}

fn bar(out: &mut String, title: &str, ns: u64, window_ns: u64) -> std::fmt::Result {
    let line = format!(
        "  {:<32} {:>8} {:>6}  {}",
        clip(title, 32),
        duration(ns),
        share(ns, window_ns),
        blocks(ns, window_ns)
    );
    writeln!(out, "{}", line.trim_end())
}

/// What is not nothing shows: a cause of half a column and less has a thin one.
fn blocks(ns: u64, window_ns: u64) -> String {
    if ns == 0 || window_ns == 0 {
        return String::new();
    }
    let columns = (u128::from(ns) * BAR as u128 + u128::from(window_ns) / 2) / u128::from(window_ns);
    if columns == 0 { "|".to_owned() } else { "#".repeat(columns as usize) }
}

fn bar_sum(out: &mut String, explain: &Explain) -> std::fmt::Result {
    writeln!(out, "  {:<32} {:>8} {:>6}", "window", duration(explain.window_ns), "100.0%")
}

fn chains(out: &mut String, causes: &[Cause]) -> std::fmt::Result {
    let shown = causes.iter().filter(|cause| !cause.chain.is_empty()).take(CHAINS);
    for (number, cause) in shown.enumerate() {
        if number == 0 {
            writeln!(out, "\nHow the path came there")?;
        }
        writeln!(out, "  {}", clip(&cause.title, 76))?;
        out.push_str(&chain::lines(&cause.chain, "    "));
    }
    Ok(())
}

fn waiters(out: &mut String, explain: &Explain) -> std::fmt::Result {
    let waiters = &explain.passive_waiters;
    if waiters.is_empty() {
        return Ok(());
    }
    let (s, are) = if waiters.len() == 1 { ("", "is no cause") } else { ("s", "are no causes") };
    writeln!(
        out,
        "\n{} thread{s} waited meanwhile, off the path: passive waiter{s}, and {are}",
        waiters.len()
    )?;
    for waiter in waiters.iter().take(WAITERS) {
        out.push_str(&wrap(&format!("  {}", one_waiter(waiter)), " ", "    "));
    }
    if waiters.len() > WAITERS {
        writeln!(out, "  and {} more", waiters.len() - WAITERS)?;
    }
    Ok(())
}

fn one_waiter(waiter: &PassiveWaiter) -> String {
    let place = match waiter.waits_in.as_str() {
        "" => String::new(),
        function => format!(" in {function}"),
    };
    let peer = waiter.waits_for.as_ref().map(|peer| format!(" for {}({})", peer.comm, peer.tid));
    let name = format!("{}({})", clip(&waiter.comm, 15), waiter.tid);
    format!("{name} waited {}{place}{}", duration(waiter.ns), peer.unwrap_or_default())
}

fn advice(out: &mut String, explain: &Explain) -> std::fmt::Result {
    let advice = &explain.verdict.advice;
    if advice.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nWhat could be done, and the window then")?;
    for Advice { removes, text, predicted_ns, .. } in advice {
        let line = format!("  {text} ({}{})", duration(*predicted_ns), without(explain, removes));
        out.push_str(&wrap(&line, " ", "    "));
    }
    Ok(())
}

/// The causes that are gone then, the longest of them by name.
fn without(explain: &Explain, removes: &[String]) -> String {
    fn title<'a>(explain: &'a Explain, id: &'a str) -> &'a str {
        explain.causes.iter().find(|known| known.cause == id).map_or(id, |known| &known.title)
    }
    let title = |id| title(explain, id);
    match removes {
        [] => String::new(),
        [one] => format!(", without {}", title(one)),
        [one, two] => format!(", without {} and {}", title(one), title(two)),
        [one, two, rest @ ..] => format!(", without {}, {} and {} more", title(one), title(two), rest.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::{blocks, one_line, render};
    use crate::explain::tests::explain;

    #[test]
    fn no_line_is_wider_than_80_columns_whatever_the_names() {
        let mut report = explain();
        report.window.label = "l".repeat(120);
        report.causes[0].chain = vec!["x".repeat(300), "a short link".to_owned(), "y".repeat(100)];
        report.causes[0].title = "t".repeat(90);
        report.passive_waiters[0].comm = "n".repeat(40);
        report.warnings.push("w".repeat(200));
        for line in render(&report).lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn what_is_not_nothing_shows_in_a_bar() {
        assert_eq!(blocks(0, 100), "");
        assert_eq!(blocks(1, 100), "|");
        assert_eq!(blocks(50, 100), "#".repeat(10));
        assert_eq!(blocks(100, 100), "#".repeat(20));
        assert_eq!(blocks(0, 0), "");
    }

    #[test]
    fn an_open_window_and_a_loss_are_said_in_the_line_too() {
        let mut report = explain();
        report.window.clamped = true;
        report.verdict.sound = false;
        report.verdict.lost = 2;
        let line = one_line(&report);
        assert!(line.contains("cut there") && line.ends_with("unsound: events were lost"), "{line}");
        report.verdict.lost = 0;
        let line = one_line(&report);
        assert!(line.ends_with("unsound: the report says why"), "{line}");
    }
}
