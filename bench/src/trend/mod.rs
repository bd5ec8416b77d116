//! Change points over a series of stored runs: advice on where to look, not a verdict.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::Error;
use crate::gate::Side;
use crate::judge::{Change, changes, median};

/// Files that a stored run may have its samples in.
const SAMPLES: [&str; 2] = ["sweep.csv", "b.csv"];

/// One cell over all runs that have it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Series {
    /// The cell.
    pub cell: String,
    /// In the order of time.
    pub runs: Vec<Point>,
    /// Where its level changes; `at` is an index into `runs`, levels are logarithms of milliseconds.
    pub changes: Vec<Change>,
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

/// Reads each folder's samples, and looks for changes of each cell's median pause. Runs are ordered by when they
/// began; where one does not say, they stay in the order in which they are named.
pub fn series(folders: &[PathBuf], seed: u64) -> Result<Vec<Series>, Error> {
    let mut all: Vec<Series> = Vec::new();
    for folder in folders {
        let side = read(folder)?;
        for cell in &side.cells {
            let pauses = cell.trials.iter().flat_map(|trial| trial.pauses_ms.iter().copied());
            let Some(median_ms) = median(&pauses.collect::<Vec<f64>>()) else { continue };
            let began_unix_ms = cell.trials.iter().filter_map(|trial| trial.began_unix_ms).min();
            let point = Point { run: folder.display().to_string(), began_unix_ms, median_ms };
            match all.iter_mut().find(|series| series.cell == cell.name) {
                Some(series) => series.runs.push(point),
                None => all.push(Series { cell: cell.name.clone(), runs: vec![point], changes: Vec::new() }),
            }
        }
    }
    for series in &mut all {
        if series.runs.iter().all(|point| point.began_unix_ms.is_some()) {
            series.runs.sort_by_key(|point| point.began_unix_ms);
        }
        let levels: Vec<f64> = series.runs.iter().map(|point| point.median_ms.ln()).collect();
        series.changes = changes(&levels, seed);
    }
    Ok(all)
}

/// One line a run, and one where the level changes.
pub fn table(all: &[Series]) -> String {
    let mut lines = Vec::new();
    for series in all {
        lines.push(format!(
            "{}: median pause of {} runs, {} changes",
            series.cell,
            series.runs.len(),
            series.changes.len()
        ));
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
    let file = fs::File::open(&path)
        .map_err(|error| Error::Usage(format!("cannot open {}: {error}", path.display())))?;
    Side::read(&path.display().to_string(), std::io::BufReader::new(file))
}

#[cfg(test)]
mod tests {
    use super::{series, table};

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
