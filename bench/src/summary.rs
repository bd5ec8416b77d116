//! The table at the end of a sweep, at most 80 columns wide.

use std::fmt::Write;

use reports::run::Spent;
use reports::stats::Spread;
use reports::sweep::Sweep;
use reports::units::duration;

/// Pauses that fit beside the widest usual cell name.
const COLUMNS: usize = 7;

/// Pauses in milliseconds, one row a cell, one column a BRANCH index; medians where there are several trials.
pub fn table(sweep: &Sweep) -> String {
    let cells = sweep.cells();
    let trials = sweep.samples.iter().map(|sample| sample.trial).max().unwrap_or(0);
    let last = sweep.samples.iter().map(|sample| sample.branch_idx).max().unwrap_or(0);
    let width = cells.iter().map(|cell| cell.len()).max().unwrap_or(0).max("cell".len());
    let what = match trials {
        0 | 1 => "pause_ms by BRANCH".to_owned(),
        _ => format!("median pause_ms of {trials} trials by BRANCH"),
    };
    let mut out = format!("{what}\n");
    let indices: Vec<u32> = (1..=last).collect();
    for block in indices.chunks(COLUMNS) {
        row(&mut out, width, "cell", block.iter().map(u32::to_string));
        for cell in &cells {
            let medians = sweep.pauses_by_index(cell);
            let median = |index: &u32| {
                let trials =
                    medians.iter().find(|(found, _)| found == index).map(|(_, trials)| trials.clone());
                let spread = trials.and_then(Spread::of);
                spread.map_or_else(|| "-".to_owned(), |spread| milliseconds(spread.median))
            };
            row(&mut out, width, cell, block.iter().map(median));
        }
    }
    out
}

/// Where the time of a run went, in one line.
pub fn spent(spent: Spent) -> String {
    format!(
        "{} in all: BRANCHes {}, gaps {}, waiting for idle disks {}; {:.1}% of it neither in BRANCHes nor in gaps\n",
        duration(spent.wall_ns),
        duration(spent.branches_ns),
        duration(spent.gaps_ns),
        duration(spent.drain_ns),
        spent.overhead_pct(),
    )
}

/// Seven columns at most, up to a pause of two hours.
fn milliseconds(value: f64) -> String {
    if value < 99_999.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

fn row(out: &mut String, width: usize, name: &str, values: impl Iterator<Item = String>) {
    let values: String = values.map(|value| format!(" {value:>7}")).collect();
    writeln!(out, "{name:<width$}{values}").expect("a String takes every write");
}

#[cfg(test)]
mod tests {
    use super::{spent, table};
    use crate::sweep::testing::sample;
    use reports::run::Spent;
    use reports::sweep::Sweep;

    #[test]
    fn medians_stand_under_their_index_and_missing_ones_are_dashes() {
        let samples =
            vec![sample("a@tmpfs", 1, 1, 10.0), sample("a@tmpfs", 2, 1, 20.0), sample("b", 1, 2, 7.25)];
        assert_eq!(
            table(&Sweep { phases: Vec::new(), samples }),
            "median pause_ms of 2 trials by BRANCH\n\
             cell          1       2\n\
             a@tmpfs    15.0       -\n\
             b             -     7.2\n"
        );
    }

    #[test]
    fn many_branches_go_on_in_a_block_below_and_no_line_is_wider_than_80() {
        let samples = (1..=20).map(|index| sample("fallocate@ext4-loop", 1, index, 123_456.7)).collect();
        let table = table(&Sweep { phases: Vec::new(), samples });
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
        assert_eq!(table.matches("fallocate@ext4-loop").count(), 3);
    }

    #[test]
    fn the_sweeps_own_work_is_told_as_a_share_of_its_time() {
        let second_ns = 1_000_000_000;
        let measured = Spent {
            wall_ns: 40 * second_ns,
            branches_ns: 3 * second_ns,
            gaps_ns: 32 * second_ns,
            drain_ns: second_ns,
        };
        assert_eq!(
            spent(measured),
            "40.0 s in all: BRANCHes 3.00 s, gaps 32.0 s, waiting for idle disks 1.00 s; \
             12.5% of it neither in BRANCHes nor in gaps\n"
        );
    }
}
