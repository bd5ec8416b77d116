//! What the runs of a proof left on disk.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::gate::{Side, blocks};
use crate::judge::{Block, Class, median};

use super::runs::NULL;
use super::runs_folder;

/// The runs of the whole tool that have ended, and the blocks of those that compared a build with itself.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// By name.
    pub runs: Vec<Run>,
    /// Blocks of a build against itself, by run.
    pub blocks: Vec<Vec<Block>>,
}

/// What a run came to, as its `gate.json` says.
#[derive(Clone, Debug, Deserialize)]
pub struct Run {
    /// The name of its folder.
    #[serde(skip)]
    pub name: String,
    /// Its verdict.
    pub class: Class,
    /// Begin, in milliseconds since the Unix epoch.
    pub started_unix_ms: u64,
    /// End, in milliseconds since the Unix epoch.
    pub ended_unix_ms: u64,
    /// What it judged.
    pub candidate: Arm,
    /// One cell.
    pub cells: Vec<Cell>,
}

/// An arm of a run.
#[derive(Clone, Debug, Deserialize)]
pub struct Arm {
    /// What it was.
    pub what: String,
    /// Kernel and machine that it was measured on.
    pub machine: Option<String>,
}

/// The cell of a run.
#[derive(Clone, Debug, Deserialize)]
pub struct Cell {
    /// Its name.
    pub cell: String,
    /// Why the verdict is what it is.
    pub reasons: Vec<String>,
    /// What it rests on.
    pub evidence: Evidence,
}

/// The figures of a verdict that the proof repeats.
#[derive(Clone, Debug, Deserialize)]
pub struct Evidence {
    /// Candidate over baseline.
    pub ratio: Option<f64>,
    /// p value of the effect.
    pub p: f64,
}

/// Runs of one machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunsOn {
    /// Kernel and machine.
    pub machine: String,
    /// Names of its runs.
    pub runs: Vec<String>,
}

impl fmt::Display for RunsOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.machine, self.runs.join(", "))
    }
}

impl Recorded {
    /// Reads all runs below `out`.
    pub fn read(out: &Path) -> Result<Self, Error> {
        let folders = fs::read_dir(runs_folder(out)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            folders.filter_map(|folder| folder.file_name().into_string().ok()).collect();
        names.sort_by_key(|name| (name.len(), name.clone()));
        let mut recorded = Self::default();
        for name in names {
            let folder = runs_folder(out).join(&name);
            let path = folder.join("gate.json");
            let Ok(json) = fs::read(&path) else { continue };
            let run: Run = serde_json::from_slice(&json)
                .map_err(|error| Error::Usage(format!("{}: {error}", path.display())))?;
            if name.starts_with(NULL) {
                recorded.blocks.push(blocks_in(&folder)?);
            }
            recorded.runs.push(Run { name, ..run });
        }
        Ok(recorded)
    }

    /// The machines that runs were measured on, each with the names of its runs; in the order in which they first occur.
    pub fn machines(&self) -> Vec<RunsOn> {
        let mut machines: Vec<RunsOn> = Vec::new();
        for run in &self.runs {
            let machine = run.candidate.machine.as_deref().unwrap_or("not known");
            match machines.iter_mut().find(|known| known.machine == machine) {
                Some(known) => known.runs.push(run.name.clone()),
                None => machines.push(RunsOn { machine: machine.to_owned(), runs: vec![run.name.clone()] }),
            }
        }
        machines
    }

    /// Refuses to mix blocks of several machines, whose pauses differ for reasons of their own.
    pub fn check_resampled(&self) -> Result<(), Error> {
        let resampled = |on: &RunsOn| on.runs.iter().any(|run| run.starts_with(NULL));
        let machines: Vec<RunsOn> = self.machines().into_iter().filter(resampled).collect();
        if machines.len() < 2 {
            return Ok(());
        }
        let named: Vec<String> = machines.iter().map(ToString::to_string).collect();
        Err(Error::Usage(format!(
            "runs of a build against itself are of several machines ({}): --force resamples their blocks together",
            named.join("; ")
        )))
    }

    /// The median pause of the builds against themselves.
    pub fn median_pause_ms(&self) -> Option<f64> {
        let blocks = self.blocks.iter().flatten();
        median(&blocks.flat_map(|block| block.a_ms.iter().chain(&block.b_ms)).copied().collect::<Vec<f64>>())
    }
}

fn blocks_in(folder: &Path) -> Result<Vec<Block>, Error> {
    let side = |name: &str| {
        let path = folder.join(name);
        let file = fs::File::open(&path).map_err(Error::file("open", &path))?;
        Side::read(&path.display().to_string(), std::io::BufReader::new(file))
    };
    let (a, b) = (side("a.csv")?, side("b.csv")?);
    Ok(a.cells.iter().zip(&b.cells).flat_map(|(a, b)| blocks(a, b)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(runs: &[(&str, &str)]) -> Recorded {
        let run = |(name, machine): &(&str, &str)| Run {
            name: (*name).to_owned(),
            class: Class::Pass,
            started_unix_ms: 0,
            ended_unix_ms: 1,
            candidate: Arm { what: "forkd".to_owned(), machine: Some((*machine).to_owned()) },
            cells: Vec::new(),
        };
        Recorded { runs: runs.iter().map(run).collect(), blocks: Vec::new() }
    }

    #[test]
    fn each_machine_is_named_with_its_runs() {
        let machines = recorded(&[("same-1", "m"), ("load", "n"), ("same-2", "m")]).machines();
        let named: Vec<String> = machines.iter().map(ToString::to_string).collect();
        assert_eq!(named, ["m: same-1, same-2", "n: load"]);
    }

    #[test]
    fn blocks_of_two_machines_are_not_resampled_together() {
        let one = recorded(&[("same-1", "m"), ("same-2", "m"), ("disk-50", "n")]);
        assert!(one.check_resampled().is_ok(), "what is not resampled may be of another");
        let refused = recorded(&[("same-1", "m"), ("same-2", "n")]).check_resampled().unwrap_err();
        assert!(refused.to_string().contains("(m: same-1; n: same-2): --force"), "{refused}");
    }
}
