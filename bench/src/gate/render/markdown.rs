//! The summary that a person sees in a pull request.

use std::fmt::Write;

use crate::gate::{Arm, CellVerdict, Document, Growth, Terms};
use crate::judge::{CHECK_ALPHA, Class};

use super::words::{design, percent};

/// GitHub cuts off a step's summary at 1 MiB; so does this, and says so.
const LIMIT_BYTES: usize = 1 << 20;
const CUT: &str = "\n\n(cut off here: gate.json has all of it)\n";
/// Functions of a stack that are shown.
const FRAMES: usize = 6;

/// The summary, under 1 MiB.
pub fn render(document: &Document) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, document);
    cut(out)
}

fn write(out: &mut String, document: &Document) -> std::fmt::Result {
    writeln!(out, "## forkd gate: {}\n", document.class.name())?;
    let (a, b) = (&document.baseline.what, &document.candidate.what);
    writeln!(out, "Candidate `{}` against baseline `{}`. {}\n", code(b), code(a), meaning(document.class))?;
    writeln!(out, "| cell | verdict | pause | bound | p | p50 ms | p95 ms | max ms | measured |")?;
    writeln!(out, "|---|---|--:|--:|--:|--:|--:|--:|---|")?;
    for cell in &document.cells {
        row(out, cell)?;
    }
    for cell in &document.cells {
        details(out, cell)?;
    }
    stacks(out, document)?;
    for warning in &document.warnings {
        writeln!(out, "\nWarning: {}", text(warning))?;
    }
    footer(out, document)
}

fn meaning(class: Class) -> &'static str {
    match class {
        Class::Pass => "The candidate's pause is less than 15 % longer.",
        Class::Regress => "The candidate's pause is longer.",
        Class::Inconclusive => "Neither a longer pause nor one that is less than 15 % longer could be shown.",
        Class::Invalid => "The measurement says nothing about the candidate.",
    }
}

fn row(out: &mut String, cell: &CellVerdict) -> std::fmt::Result {
    let (verdict, evidence) = (&cell.verdict, &cell.verdict.evidence);
    let both = |of: fn(&crate::judge::Quantiles) -> f64| match (&evidence.a, &evidence.b) {
        (Some(a), Some(b)) => format!("{:.1} → {:.1}", of(a), of(b)),
        _ => "-".to_owned(),
    };
    let (name, class) = (text(&cell.cell), verdict.class.name());
    let (pause, bound) = (percent(evidence.ratio), percent(evidence.ratio_upper));
    let p = crate::judge::figure(verdict.p_adjusted);
    let (p50, p95, max) = (both(|q| q.p50_ms), both(|q| q.p95_ms), both(|q| q.max_ms));
    let measured = design(evidence);
    writeln!(out, "| {name} | **{class}** | {pause} | {bound} | {p} | {p50} | {p95} | {max} | {measured} |")
}

fn details(out: &mut String, cell: &CellVerdict) -> std::fmt::Result {
    writeln!(out, "\n### {}\n", text(&cell.cell))?;
    for reason in &cell.verdict.reasons {
        writeln!(out, "- {}", text(reason))?;
    }
    grown(out, &cell.growth)?;
    let evidence = &cell.verdict.evidence;
    let regimes = &evidence.regimes;
    writeln!(out, "\n<details><summary>Checks of the measurement</summary>\n")?;
    writeln!(
        out,
        "- slow regime: {} sweeps of the baseline, {} of the candidate",
        regimes.a_slow, regimes.b_slow
    )?;
    for check in &evidence.checks {
        let fired = if check.fired { " **fired**" } else { "" };
        let few = if check.can_fire { "" } else { "; too few for it to fire" };
        let (name, found, p) = (check.name, text(&check.found), crate::judge::figure(check.p));
        writeln!(out, "- {name}:{fired} {found} (p = {p}{few})")?;
    }
    for spoiled in &evidence.spoiled {
        writeln!(out, "- {}", text(spoiled))?;
    }
    writeln!(out, "\n</details>")
}

fn grown(out: &mut String, growth: &[Growth]) -> std::fmt::Result {
    if growth.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\n| median of each BRANCH | baseline ms | candidate ms | grew by ms |\n|---|--:|--:|--:|"
    )?;
    for part in growth {
        let beside = if part.in_pause { "" } else { " (beside the pause)" };
        let (kind, name) = (part.kind, text(&part.name));
        writeln!(
            out,
            "| {kind} {name}{beside} | {:.2} | {:.2} | {:+.2} |",
            part.a_ms,
            part.b_ms,
            part.grew_ms()
        )?;
    }
    Ok(())
}

fn stacks(out: &mut String, document: &Document) -> std::fmt::Result {
    if document.stacks.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n### Where Firecracker waits longer\n")?;
    writeln!(out, "From one recorded sweep of each arm; the picture is `offcpu-difference.svg`.\n")?;
    writeln!(
        out,
        "| kernel stack, from the function that waits | baseline ms a pause | candidate ms a pause |"
    )?;
    writeln!(out, "|---|--:|--:|")?;
    for stack in &document.stacks {
        let frames =
            stack.kernel.iter().take(FRAMES).map(|frame| code(frame)).collect::<Vec<_>>().join(" < ");
        writeln!(out, "| `{frames}` | {:.2} | {:.2} |", stack.a_ms, stack.b_ms)?;
    }
    Ok(())
}

fn footer(out: &mut String, document: &Document) -> std::fmt::Result {
    let Terms { alpha, seed, forced, .. } = &document.terms;
    let forced = if *forced { ", forced" } else { "" };
    let machines = machines(&document.baseline, &document.candidate);
    writeln!(
        out,
        "\n<sub>alpha {alpha}, that of each check {CHECK_ALPHA}, seed {seed}{forced}; {machines}. What each verdict means, and \
         what it does not: docs/GATE.md of forkd.</sub>"
    )
}

/// Where the sides were measured, which for two files need not be where they are judged.
fn machines(baseline: &Arm, candidate: &Arm) -> String {
    let of = |arm: &Arm| arm.machine.as_deref().map_or_else(|| "machine not in the file".to_owned(), text);
    match (&baseline.machine, &candidate.machine) {
        (one, other) if one == other => of(baseline),
        _ => format!("baseline: {}; candidate: {}", of(baseline), of(candidate)),
    }
}

/// Text that a table's cell and a paragraph can hold.
fn text(plain: &str) -> String {
    let one_line = plain.replace(char::is_control, " ");
    one_line
        .replace('\\', "\\\\")
        .replace('|', "\\|")
        .replace('<', "&lt;")
        .replace('*', "\\*")
        .replace('`', "'")
}

/// Text between backticks.
fn code(plain: &str) -> String {
    plain.replace(char::is_control, " ").replace('`', "'").replace('|', "\\|")
}

fn cut(mut out: String) -> String {
    if out.len() >= LIMIT_BYTES {
        let mut end = LIMIT_BYTES - CUT.len() - 1;
        while !out.is_char_boundary(end) {
            end -= 1;
        }
        out.truncate(end);
        out += CUT;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Arm, LIMIT_BYTES, cut, machines, text};

    #[test]
    fn the_footer_names_the_machines_of_the_sides() {
        let arm = |machine: Option<&str>| Arm {
            what: "x.csv".to_owned(),
            version: None,
            machine: machine.map(str::to_owned),
        };
        let machines = |a, b| machines(&arm(a), &arm(b));
        assert_eq!(machines(Some("Linux 6"), Some("Linux 6")), "Linux 6");
        assert_eq!(machines(None, Some("Linux 6")), "baseline: machine not in the file; candidate: Linux 6");
        assert_eq!(machines(None, None), "machine not in the file");
    }

    #[test]
    fn a_summary_stays_below_the_limit_and_says_that_it_was_cut() {
        let long = cut("ü".repeat(LIMIT_BYTES));
        assert!(long.len() < LIMIT_BYTES && long.ends_with("has all of it)\n"));
        assert_eq!(cut("short".to_owned()), "short");
    }

    #[test]
    fn a_name_cannot_break_the_table() {
        assert_eq!(text("a|b\n*c*<d>"), "a\\|b \\*c\\*&lt;d>");
    }
}
