//! Change points over a series of stored runs: advice on where to look, not a verdict.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::Error;
use crate::gate::{Condition, Side, SideCell, read_side};
use crate::judge::{Change, MIN_RUNS, changes, median};

/// Files that a stored run may have its samples in.
const SAMPLES: [&str; 2] = ["sweep.csv", "b.csv"];

/// One cell over all runs that measured it alike: under the same conditions, on the same machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Series {
    /// The cell.
    pub cell: String,
    /// What the runs say of their conditions, by column.
    pub conditions: Vec<Condition>,
    /// Kernel and machine, where the runs say it.
    pub machine: Option<String>,
    /// In the order of time.
    pub runs: Vec<Point>,
    /// Whether there are too few runs for a change to show.
    pub too_few: bool,
    /// Where its level changes; `at` is an index into `runs`, levels are logarithms of milliseconds.
    pub changes: Vec<Change>,
}

impl Series {
    fn of(side: &Side, cell: &SideCell) -> Self {
        Self {
            cell: cell.name.clone(),
            conditions: cell.conditions.clone(),
            machine: side.machine.clone(),
            runs: Vec::new(),
            too_few: true,
            changes: Vec::new(),
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        self.cell == other.cell && self.conditions == other.conditions && self.machine == other.machine
    }

    fn look_for_changes(&mut self, seed: u64) {
        if self.runs.iter().all(|point| point.began_unix_ms.is_some()) {
            self.runs.sort_by_key(|point| point.began_unix_ms);
        }
        let levels: Vec<f64> = self.runs.iter().map(|point| point.median_ms.ln()).collect();
        self.too_few = levels.len() < MIN_RUNS;
        self.changes = changes(&levels, seed);
    }

    /// `stage@tmpfs (mem_mib 512; Linux 6.1)`.
    fn title(&self) -> String {
        let conditions = self.conditions.iter().filter(|(_, value)| !value.is_empty());
        let conditions = conditions.map(|(column, value)| format!("{column} {value}")).collect::<Vec<_>>();
        let machine = self.machine.as_deref().unwrap_or("machine not in the files");
        let parts = [conditions.join(", "), machine.to_owned()];
        let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        format!("{} ({})", self.cell, parts.join("; "))
    }

    fn summary(&self) -> String {
        let (title, runs) = (self.title(), self.runs.len());
        match self.too_few {
            true => format!(
                "{title}: median pause of {runs} runs, too few runs for a change: {MIN_RUNS} or more can show one"
            ),
            false => format!("{title}: median pause of {runs} runs, {} changes", self.changes.len()),
        }
    }
}

/// One run of one cell.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Its folder, as it was named.
    pub run: String,
    /// When its first BRANCH was asked for, in milliseconds since the Unix epoch, where it says so.
    pub began_unix_ms: Option<u64>,
    /// Its median pause.
    pub median_ms: f64,
}

/// Reads each folder's samples, and looks for changes of the median pause of each cell, apart for each machine and for
/// other conditions. Runs are ordered by when they began; where one does not say, they stay in the order in which they
/// are named.
pub fn series(folders: &[PathBuf], seed: u64) -> Result<Vec<Series>, Error> {
    let mut all: Vec<Series> = Vec::new();
    for folder in folders {
        let side = read(folder)?;
        for cell in &side.cells {
            let pauses = cell.trials.iter().flat_map(|trial| trial.pauses_ms.iter().copied());
            let Some(median_ms) = median(&pauses.collect::<Vec<f64>>()) else { continue };
            let began_unix_ms = cell.trials.iter().filter_map(|trial| trial.began_unix_ms).min();
            let point = Point { run: folder.display().to_string(), began_unix_ms, median_ms };
            let new = Series::of(&side, cell);
            let at = all.iter().position(|series| series.is_like(&new)).unwrap_or_else(|| {
                all.push(new);
                all.len() - 1
            });
            all[at].runs.push(point);
        }
    }
    all.iter_mut().for_each(|series| series.look_for_changes(seed));
    Ok(all)
}

/// One line a run, and one where the level changes.
pub fn table(all: &[Series]) -> String {
    let mut lines = Vec::new();
    for series in all {
        lines.push(series.summary());
        for (index, point) in series.runs.iter().enumerate() {
            if let Some(change) = series.changes.iter().find(|change| change.at == index) {
                let percent = (change.after - change.before).exp_m1() * 100.0;
                let (before, after) = (change.before.exp(), change.after.exp());
                lines.push(format!(
                    "  -- from here {percent:+.1} %: {before:.2} ms before, {after:.2} ms after (p = {:.3})",
                    change.p
                ));
            }
            lines.push(format!("  {:>10.2} ms  {}", point.median_ms, point.run));
        }
    }
    lines.join("\n") + "\n"
}

fn read(folder: &Path) -> Result<Side, Error> {
    let path = match folder.is_dir() {
        true => SAMPLES.iter().map(|name| folder.join(name)).find(|path| path.is_file()),
        false => Some(folder.to_owned()),
    };
    let Some(path) = path else {
        return Err(Error::Usage(format!("{} has neither of {}", folder.display(), SAMPLES.join(", "))));
    };
    read_side(&path)
}

#[cfg(test)]
mod tests {
    use super::{Series, series, table};

    /// A series of the folders' runs, of one BRANCH each, with `columns` beside the five.
    fn stored(runs: u32, columns: &str, row: impl Fn(u32) -> &'static str) -> Vec<Series> {
        let folder = tempfile::tempdir().unwrap();
        let header = format!("trial,branch_idx,pause_ms,diff_ms,diff_physical_bytes,{columns}");
        let run = |number: u32| {
            let path = folder.path().join(format!("{number}.csv"));
            std::fs::write(&path, format!("{header}\n1,1,{},1,0,{}\n", 5 + number % 2, row(number))).unwrap();
            path
        };
        series(&(0..runs).map(run).collect::<Vec<_>>(), 0).unwrap()
    }

    #[test]
    fn runs_of_other_machines_or_conditions_are_series_of_their_own() {
        let all = stored(6, "machine,mem_mib", |number| ["m,512", "n,512", "m,128"][number as usize % 3]);
        let titles: Vec<String> = all.iter().map(Series::title).collect();
        assert_eq!(titles, ["pauses (mem_mib 512; m)", "pauses (mem_mib 512; n)", "pauses (mem_mib 128; m)"]);
        assert!(all.iter().all(|series| series.runs.len() == 2 && series.too_few));
    }

    #[test]
    fn few_runs_are_told_to_be_too_few() {
        let summary = |runs| stored(runs, "cell", |_| "stage@tmpfs")[0].summary();
        assert_eq!(
            summary(9),
            "stage@tmpfs (machine not in the files): median pause of 9 runs, too few runs for a change: 10 or more can show \
             one"
        );
        assert!(summary(10).ends_with("median pause of 10 runs, 0 changes"));
    }

    #[test]
    fn runs_are_ordered_by_time_and_a_step_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let run = |number: u64| {
            // The files' names count down while time goes up.
            let path = folder.path().join(format!("{:02}", 20 - number));
            std::fs::create_dir(&path).unwrap();
            let level = if number < 9 { 5.0 } else { 6.0 } + 0.01 * (number * 7 % 5) as f64;
            let header = "cell,trial,branch_idx,pause_ms,diff_ms,diff_physical_bytes,start_unix_ms";
            let row = format!("stage@tmpfs,1,1,{level},1,0,{number}");
            std::fs::write(path.join("sweep.csv"), format!("{header}\n{row}\n")).unwrap();
            path
        };
        let mut folders: Vec<_> = (0..18).map(run).collect();
        folders.sort();
        let all = series(&folders, 0).unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].changes.iter().map(|change| change.at).collect::<Vec<_>>(), [9]);
        assert!(table(&all).contains("from here +19."), "{}", table(&all));
        assert!(
            series(&[folder.path().to_owned()], 0).unwrap_err().to_string().contains("neither of sweep.csv")
        );
    }
}
