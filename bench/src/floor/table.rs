//! The figures of a run, for a terminal and as Markdown. A goal's figure stands beside what was measured;
//! whether it is met is for the reader to see.

use std::fmt::Write;

use forkd::api::DataPath;

use super::rows::{Arm, Row, Set};
use super::stats::{Estimate, median, quantile, ratio_of_medians, trend};
use super::{Gathered, Settings};

const STAGE: Arm = Arm::Daemon(DataPath::Stage);
/// Of a compared block, the BRANCHes from this one on are in the slow regime: writeback of the first meets them.
const SLOW_FROM: u32 = 3;
const MIB: f64 = (1 << 20) as f64;

/// Rows of cells under a header.
struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// For a terminal.
pub fn text(settings: &Settings, gathered: &Gathered) -> String {
    let pauses = pauses(&gathered.rows).to_text();
    format!("pause in ms\n{pauses}\n{}", figures(settings, gathered).to_text())
}

/// As Markdown, with the conditions.
pub fn markdown(settings: &Settings, gathered: &Gathered) -> String {
    let machine = super::machine();
    format!(
        "Linux {}, {}, {} CPUs, {} MiB; guest of {} MiB, {} pages of 4 KiB dirtied {} ms before each BRANCH, \
         seed {}.\n\nPause in milliseconds:\n\n{}\n{}",
        machine.kernel,
        machine.cpu_model,
        machine.cpus,
        machine.mem_mib,
        settings.mem_mib,
        settings.dirty_pages,
        settings.gap_ms,
        settings.seed,
        pauses(&gathered.rows).to_markdown(),
        figures(settings, gathered).to_markdown()
    )
}

fn pauses(rows: &[Row]) -> Table {
    let mut table = Table::new(&["arm", "set", "BRANCHes", "p50", "p99", "max", "create p50"]);
    let mut kinds: Vec<(Set, Arm)> = rows.iter().map(|row| (row.set, row.arm)).collect();
    kinds.sort_by_key(|(set, arm)| (*set, arm.to_string()));
    kinds.dedup();
    for (set, arm) in kinds {
        let of_kind = || rows.iter().filter(move |row| (row.set, row.arm) == (set, arm));
        let pauses: Vec<f64> = of_kind().map(Row::pause_ms).collect();
        let create: Vec<f64> = of_kind().map(|row| row.phases.create as f64 / 1e6).collect();
        let figures = [median(&pauses), quantile(&pauses, 0.99), quantile(&pauses, 1.0), median(&create)];
        let figures = figures.map(|figure| figure.map_or_else(dash, |ms| format!("{ms:.2}")));
        table.rows.push(
            [arm.to_string(), set.to_string(), pauses.len().to_string()].into_iter().chain(figures).collect(),
        );
    }
    table
}

fn figures(settings: &Settings, gathered: &Gathered) -> Table {
    let rows = &gathered.rows;
    let mut table = Table::new(&["figure", "measured", "goal"]);
    let mut add = |figure: String, measured: Option<String>, goal: &str| {
        table.rows.push(vec![figure, measured.unwrap_or_else(dash), goal.to_owned()]);
    };
    for (set, goal) in [(Set::Repeated, "at most 1.15"), (Set::Moving, "at most 1.50")] {
        let ratio = ratio_of_medians(&paired(rows, set), settings.seed);
        add(format!("{set}: p50 of stage / p50 of floor"), ratio.map(interval), goal);
    }
    for set in Set::ALL {
        let stage = pauses_ms(rows, STAGE, set);
        let tail = quantile(&stage, 0.99).zip(median(&stage)).map(|(p99, p50)| format!("{:.2}", p99 / p50));
        add(format!("{set}: p99 of stage / its p50"), tail, "at most 2");
        let slope = trend(&stage).map(|slope| interval(slope.scaled(1e3)));
        add(format!("{set}: trend of stage, us a BRANCH"), slope, "0 within");
    }
    for &data_path in &settings.compared {
        let slow = rows.iter().filter(|row| row.arm == Arm::Daemon(data_path) && row.index >= SLOW_FROM);
        let slow = median(&slow.map(Row::pause_ms).collect::<Vec<_>>());
        let stage = median(&pauses_ms(rows, STAGE, Set::Repeated));
        let times = slow.zip(stage).map(|(slow, stage)| format!("{:.1}", slow / stage));
        let goal = if data_path == DataPath::Naive { "at least 20" } else { "-" };
        add(format!("p50 of {} from BRANCH {SLOW_FROM} / p50 of stage", data_path.name()), times, goal);
    }
    add_resources(settings, gathered, &mut add);
    table
}

fn add_resources(
    settings: &Settings,
    gathered: &Gathered,
    add: &mut impl FnMut(String, Option<String>, &str),
) {
    let kib = |bytes: f64| format!("{:.0}", bytes / 1024.0);
    // The limit depends on the BRANCH: the one that comes nearest to its limit is shown, with it.
    let limit = |row: &Row| 1.1 * row.dirty_bytes as f64 + 256.0 * 1024.0;
    let written = gathered.rows.iter().filter(|row| row.arm == STAGE);
    let written = written.filter_map(|row| Some((row.disk_bytes? as f64, limit(row))));
    let worst = written.clone().max_by(|(a, la), (b, lb)| (a - la).total_cmp(&(b - lb)));
    let usual = median(&written.map(|(bytes, _)| bytes).collect::<Vec<_>>());
    add("KiB written to disk by a stage BRANCH, p50".to_owned(), usual.map(kib), "-");
    let goal = worst.map_or_else(dash, |(_, limit)| format!("at most {}", kib(limit)));
    add("the same, the BRANCH nearest its limit".to_owned(), worst.map(|(bytes, _)| kib(bytes)), &goal);
    let extras = &gathered.extras;
    let beyond = extras.daemon_beyond_staged_bytes.iter().max();
    let beyond = beyond.map(|bytes| format!("{:.1}", *bytes as f64 / MIB));
    add("MiB of the daemon beyond staged bytes, peak".to_owned(), beyond, "at most 40");
    let ms = |ms: Option<f64>| ms.map(|ms| format!("{ms:.0}"));
    add("ms for the first child of a layer".to_owned(), ms(extras.first_child_ms), "-");
    let children = settings.children;
    let goal = if children == 100 { "at most 1500" } else { "-" };
    add(format!("ms for {children} children at once"), ms(extras.children_ms), goal);
}

fn pauses_ms(rows: &[Row], arm: Arm, set: Set) -> Vec<f64> {
    rows.iter().filter(|row| (row.arm, row.set) == (arm, set)).map(Row::pause_ms).collect()
}

/// The pauses of floor and stage, by pair; a pair that is not whole is left out.
fn paired(rows: &[Row], set: Set) -> Vec<(f64, f64)> {
    pauses_ms(rows, Arm::Floor, set).into_iter().zip(pauses_ms(rows, STAGE, set)).collect()
}

fn interval(estimate: Estimate) -> String {
    let Estimate { value, low, high } = estimate;
    format!("{value:.3} [{low:.3}, {high:.3}]")
}

fn dash() -> String {
    "-".to_owned()
}

impl Estimate {
    fn scaled(self, factor: f64) -> Self {
        Self { value: self.value * factor, low: self.low * factor, high: self.high * factor }
    }
}

impl Table {
    fn new(header: &[&str]) -> Self {
        Self { header: header.iter().map(|&name| name.to_owned()).collect(), rows: Vec::new() }
    }

    fn to_text(&self) -> String {
        let mut out = String::new();
        let lines = || std::iter::once(&self.header).chain(&self.rows);
        let widths: Vec<usize> = (0..self.header.len())
            .map(|column| lines().map(|line| line[column].chars().count()).max().unwrap_or(0))
            .collect();
        for line in lines() {
            let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            // A String takes every write.
            let _ = writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
        out
    }

    fn to_markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule = format!("|{}\n", "---|".repeat(self.header.len()));
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        line(&self.header) + &rule + &rows
    }
}

#[cfg(test)]
mod tests {
    use super::{Arm, DataPath, STAGE, Set, Table, paired, pauses};
    use crate::floor::{PhasesNs, Row};

    fn row(arm: Arm, set: Set, index: u32, pause_ms: u64) -> Row {
        let phases = PhasesNs { pause: 0, create: pause_ms * 1_000_000, resume: 0 };
        Row { arm, set, index, phases, dirty_bytes: 0, disk_bytes: None }
    }

    #[test]
    fn each_arm_and_set_has_a_line() {
        let naive = Arm::Daemon(DataPath::Naive);
        let rows = [
            row(STAGE, Set::Repeated, 1, 6),
            row(Arm::Floor, Set::Repeated, 1, 5),
            row(naive, Set::Repeated, 1, 300),
            row(STAGE, Set::Repeated, 2, 8),
        ];
        assert_eq!(
            pauses(&rows).to_markdown(),
            "| arm | set | BRANCHes | p50 | p99 | max | create p50 |\n|---|---|---|---|---|---|---|\n\
             | floor | repeated | 1 | 5.00 | 5.00 | 5.00 | 5.00 |\n\
             | naive | repeated | 1 | 300.00 | 300.00 | 300.00 | 300.00 |\n\
             | stage | repeated | 2 | 7.00 | 8.00 | 8.00 | 7.00 |\n"
        );
    }

    #[test]
    fn a_pair_cut_short_is_left_out_and_sets_do_not_mix() {
        let rows = [
            row(STAGE, Set::Repeated, 1, 6),
            row(Arm::Floor, Set::Moving, 1, 50),
            row(Arm::Floor, Set::Repeated, 1, 5),
            row(Arm::Floor, Set::Repeated, 2, 7),
        ];
        assert_eq!(paired(&rows, Set::Repeated), [(5.0, 6.0)]);
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["a", "b"]);
        table.rows.push(vec!["long".to_owned(), "x".to_owned()]);
        assert_eq!(table.to_text(), "a     b\nlong  x\n");
    }
}
