//! The proof as tables.

use std::fmt::Write;

use super::document::{Document, Rate, RunRow};
use super::resample::Injected;

/// Both tables, with what each says and what it does not.
pub fn render(document: &Document) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, document);
    out
}

fn write(out: &mut String, document: &Document) -> std::fmt::Result {
    let Document { blocks, seed, alpha, median_ms, .. } = document;
    let (alarms, runs) = document.false_alarms;
    writeln!(out, "# The gate's power, alpha {alpha}\n")?;
    writeln!(out, "Seed {seed}. Measured on\n")?;
    document.machines.iter().try_for_each(|machine| writeln!(out, "- {machine}"))?;
    writeln!(
        out,
        "\n## From resampling\n\n{blocks} recorded blocks, which are those of the {runs} runs of a build against itself below \
         (median pause {median_ms:.2} ms), drawn whole and with replacement, the sweep taken first named as the gate's order \
         names it (both are of one build); `multiplied` lengthens each of the candidate's pauses by a share of itself, \
         `added` by a share of the median. The interval is that of the number of resamples (Clopper and Pearson, 95 %): it \
         does not count that there are only {blocks} blocks, and none of another host.\n"
    )?;
    writeln!(
        out,
        "| taken | candidate's pauses | REGRESS | 95 % interval | PASS | INCONCLUSIVE | INVALID |"
    )?;
    writeln!(out, "|---|---|--:|---|--:|--:|--:|")?;
    document.rates.iter().try_for_each(|rate| rate_row(out, rate))?;
    writeln!(
        out,
        "\n## From runs of the whole tool\n\nEach is a quick gate with microVMs of its own. {alarms} of {runs} runs of a build \
         against itself ended REGRESS: from these runs alone the rate of false alarms is below {:.0} % with 95 % \
         confidence. Their blocks are the ones that are resampled above: they confirm that the whole tool works, and are no \
         second sample of the host.\n",
        document.false_alarm_bound * 100.0
    )?;
    writeln!(
        out,
        "| run | cell | candidate | verdict | pause | p | took s |\n|---|---|---|---|--:|--:|--:|"
    )?;
    document.runs.iter().try_for_each(|run| run_row(out, run))
}

fn rate_row(out: &mut String, rate: &Rate) -> std::fmt::Result {
    let share = |count: usize| format!("{:.1} %", 100.0 * count as f64 / rate.counts.all.max(1) as f64);
    let change = match (rate.injected, rate.percent) {
        (_, 0) => "the same".to_owned(),
        (Injected::Multiplied, percent) => format!("+{percent} %, multiplied"),
        (Injected::Added, percent) => format!("+{percent} %, added"),
    };
    let (counts, bounds) = (&rate.counts, rate.regress);
    writeln!(
        out,
        "| {} | {change} | {} | {:.1} to {:.1} % | {} | {} | {} |",
        rate.plan,
        share(counts.regress),
        bounds.low * 100.0,
        bounds.high * 100.0,
        share(counts.pass),
        share(counts.inconclusive),
        share(counts.invalid)
    )
}

fn run_row(out: &mut String, run: &RunRow) -> std::fmt::Result {
    let pause = run.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{:+.1} %", (ratio - 1.0) * 100.0));
    let RunRow { name, cell, candidate, class, p, seconds, .. } = run;
    let p = crate::judge::figure(*p);
    writeln!(out, "| {name} | {cell} | {candidate} | {} | {pause} | {p} | {seconds:.0} |", class.name())
}
