//! What the runs of a proof left on disk.

use std::fs;
use std::path::Path;

use serde::Deserialize;

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
    /// What it compared.
    pub baseline: Arm,
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
