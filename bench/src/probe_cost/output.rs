//! The files of a run, and its table. A goal stands beside what was measured; whether it is met is for the reader
//! to see.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Gathered, Kind, Measure, Request, Row, Settings};
use crate::floor::stats::median;
use crate::host::facts;
use crate::trial::unix_ms;
use crate::{Error, files};

const SAMPLES: &str = "probe-cost.csv";
/// The `schema` of [`Run`]: the number grows with every change that a reader could trip over.
const SCHEMA: &str = "forkd.probe-cost/1";
const TOOLS: [Kind; 3] = [Kind::Probe, Kind::Offcputime, Kind::Bpftrace];

/// What a run was.
#[derive(Serialize)]
struct Run<'a> {
    schema: &'static str,
    arguments: Vec<String>,
    settings: &'a Settings,
    ended_unix_ms: u64,
    machine: reports::run::Machine,
    skipped: &'a [String],
    rows: &'a [Row],
}

/// Creates the folder; refuses one that holds a run, whose samples would be lost.
pub fn prepare(out: &Path) -> Result<(), Error> {
    let samples = out.join(SAMPLES);
    if samples.exists() {
        let samples = samples.display();
        return Err(Error::Usage(format!(
            "{samples} exists: remove it, or choose another folder with --out"
        )));
    }
    fs::create_dir_all(out).map_err(Error::file("create", out))
}

/// Writes every file, and gives their paths.
pub fn write(request: &Request, gathered: &Gathered) -> Result<Vec<PathBuf>, Error> {
    let run = Run {
        schema: SCHEMA,
        arguments: std::env::args().collect(),
        settings: &request.settings,
        ended_unix_ms: unix_ms(),
        machine: facts::machine(),
        skipped: &gathered.skipped,
        rows: &gathered.rows,
    };
    let json = serde_json::to_vec_pretty(&run).map_err(|error| Error::Tool {
        program: "forkd-bench".to_owned(),
        reason: format!("the run has no JSON: {error}"),
    })?;
    Ok(vec![
        files::write(&request.out, SAMPLES, csv(&gathered.rows).as_bytes())?,
        files::write(&request.out, "probe-cost.json", &json)?,
        files::write(&request.out, "probe-cost.md", markdown(request, gathered).as_bytes())?,
    ])
}

fn csv(rows: &[Row]) -> String {
    let mut text = "measure,tool,round,value\n".to_owned();
    for row in rows {
        let measure = serde_json::to_string(&row.measure).unwrap_or_default();
        let _ = writeln!(text, "{},{},{},{}", measure.trim_matches('"'), row.tool, row.round, row.value);
    }
    text
}

fn markdown(request: &Request, gathered: &Gathered) -> String {
    let machine = facts::machine();
    let Settings { rounds, window_ms } = request.settings;
    let mut text = format!(
        "Linux {}, {}, {} CPUs, {} MiB. {rounds} rounds, in which the tools take turns; {window_ms} ms each. Medians, \
         and in brackets the least and the most.\n\n{}",
        machine.kernel,
        machine.cpu_model,
        machine.cpus,
        machine.mem_mib,
        table(&gathered.rows, true)
    );
    for line in &gathered.skipped {
        let _ = writeln!(text, "\n{line}");
    }
    text
}

/// For a terminal.
pub fn text(rows: &[Row]) -> String {
    table(rows, false)
}

fn table(rows: &[Row], markdown: bool) -> String {
    let mut measures: Vec<Measure> = rows.iter().map(|row| row.measure).collect();
    measures.sort_unstable();
    measures.dedup();
    let mut lines = vec![
        ["measure", "goal", "forkd-probe", "offcputime", "bpftrace", "ours/offcputime"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for measure in measures {
        let (name, goal) = measure.words();
        let of = |tool: Kind| -> Vec<f64> {
            rows.iter()
                .filter(|row| row.measure == measure && row.tool == tool.name())
                .map(|row| row.value)
                .collect()
        };
        let mut cells = vec![name.to_owned(), goal.to_owned()];
        cells.extend(TOOLS.map(|tool| spread(&of(tool))));
        let ratio = median(&of(Kind::Probe)).zip(median(&of(Kind::Offcputime)));
        cells.push(ratio.map_or_else(String::new, |(ours, theirs)| format!("{:.2}", ours / theirs)));
        lines.push(cells);
    }
    render(&lines, markdown)
}

/// `median [least, most]`.
fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().reduce(f64::min);
    let most = values.iter().copied().reduce(f64::max);
    match (median(values), least, most) {
        (Some(middle), Some(least), Some(most)) => {
            format!("{} [{}, {}]", number(middle), number(least), number(most))
        }
        _ => String::new(),
    }
}

fn number(value: f64) -> String {
    if value.abs() >= 1000.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

fn render(lines: &[Vec<String>], markdown: bool) -> String {
    let mut text = String::new();
    for (index, cells) in lines.iter().enumerate() {
        if markdown {
            let _ = writeln!(text, "| {} |", cells.join(" | "));
            if index == 0 {
                let _ = writeln!(text, "|{}", "---|".repeat(cells.len()));
            }
        } else {
            let widths = [55, 17, 24, 24, 24, 15];
            for (cell, width) in cells.iter().zip(widths) {
                let _ = write!(text, "{cell:<width$} ");
            }
            text = text.trim_end().to_owned();
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measure_is_one_line_with_its_medians_and_their_ratio() {
        let row = |tool, round, value| Row { measure: Measure::UnwatchedSwitchNs, tool, round, value };
        let rows = [
            row("forkd-probe", 1, 30.0),
            row("forkd-probe", 2, 20.0),
            row("forkd-probe", 3, 40.0),
            row("offcputime", 1, 60.0),
        ];
        let line = table(&rows, true).lines().nth(2).map(str::to_owned).unwrap_or_default();
        let cells = "| 45, aiming at 30 | 30.0 [20.0, 40.0] | 60.0 [60.0, 60.0] |  | 0.50 |";
        assert!(line.ends_with(cells), "{line}");
    }
}
