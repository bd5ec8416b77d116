//! The gate: is the candidate's pause longer than the baseline's?
//!
//! It measures, or reads what was measured, and has [`crate::judge`] judge it; what it found goes to people and to
//! continuous integration. `docs/GATE.md` has the method and the exit codes.

use std::path::{Path, PathBuf};

use crate::Error;
use crate::host::facts;
use crate::judge::overall;
use crate::trial::unix_ms;

mod arms;
mod causes;
pub mod columns;
mod compare;
mod csv;
mod disturb;
mod document;
mod growth;
mod measure;
mod output;
pub mod render;
mod revisions;
mod side;
mod stacks;
mod why;

pub use arms::{ArmRequest, Source};
pub use columns::Condition;
pub use compare::{CellVerdict, Rule, blocks, blocks_so_far, files};
pub use disturb::Disturbance;
pub use document::{Arm, Document, Inconclusive, SCHEMA, Terms};
pub use growth::Growth;
pub use measure::{MeasureRequest, measure};
pub use side::{Part, Side, SideCell, Trial};

/// Two files to compare.
#[derive(Clone, Debug)]
pub struct FilesRequest {
    /// The CSV of the side that is compared with.
    pub baseline: PathBuf,
    /// The CSV of the side that is judged.
    pub candidate: PathBuf,
    /// How to judge.
    pub rule: Rule,
    /// What becomes of INCONCLUSIVE.
    pub inconclusive: Inconclusive,
    /// Where the files go.
    pub out: PathBuf,
}

/// Compares two files and writes the result; gives the exit code.
pub fn compare_files(request: &FilesRequest) -> Result<u8, Error> {
    let started_unix_ms = unix_ms();
    let (a, b) = (read_side(&request.baseline)?, read_side(&request.candidate)?);
    let cells = files(&a, &b, &request.rule)?;
    output::prepare(&request.out)?;
    let document = Document {
        schema: SCHEMA,
        class: overall(cells.iter().map(|cell| &cell.verdict)),
        started_unix_ms,
        ended_unix_ms: unix_ms(),
        machine: facts::machine(),
        baseline: arm(&a),
        candidate: arm(&b),
        terms: Terms {
            alpha: request.rule.alpha,
            looks: cells.first().map(|cell| cell.verdict.look).into_iter().collect(),
            limit_ms: request.rule.limit_ms,
            forced: request.rule.force,
            inconclusive: request.inconclusive,
            seed: request.rule.seed,
        },
        cells,
        stacks: Vec::new(),
        warnings: Vec::new(),
    };
    output::write(&request.out, &document, Vec::new())?;
    Ok(document.exit_code())
}

fn arm(side: &Side) -> Arm {
    Arm { what: side.file.clone(), version: None, machine: side.machine.clone() }
}

/// Reads a side; what it does not say of its machine is taken from a `run.json` beside it.
pub fn read_side(path: &Path) -> Result<Side, Error> {
    let file = std::fs::File::open(path)
        .map_err(|error| Error::Usage(format!("cannot open {}: {error}", path.display())))?;
    let mut side = Side::read(&path.display().to_string(), std::io::BufReader::new(file))?;
    if side.machine.is_none() {
        let run = std::fs::read(path.with_file_name("run.json")).ok();
        let run: Option<reports::run::Run> = run.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        side.machine = run.map(|run| machine_name(&run.machine));
    }
    Ok(side)
}

/// Kernel and machine on one line, as the column `machine` has them.
pub fn machine_name(machine: &reports::run::Machine) -> String {
    let reports::run::Machine { kernel, cpu_model, cpus, mem_mib, .. } = machine;
    format!("Linux {kernel}, {cpus} x {cpu_model}, {mem_mib} MiB")
}

/// Blocks of a quick gate.
pub const QUICK_BLOCKS: usize = 10;

/// The conditions of a quick gate: short enough for each change of the code, and the same for all who use it.
#[must_use]
pub fn quick(mut settings: crate::sweep::Settings) -> crate::sweep::Settings {
    settings.branches = 6;
    for cell in &mut settings.cells {
        (cell.gap_ms, cell.dirty_pages, cell.mem_mib) = (200, 2048, 128);
    }
    settings
}
