//! The files of a run.

use std::fs;
use std::path::{Path, PathBuf};

use reports::plot::{Words, sweep_png};
use reports::run::{Machine, Root, Versions};
use reports::sweep::{Circumstances, Sample, Sweep};
use serde::Serialize;

use super::rows::{Arm, Row, Set, to_csv};
use super::{Extras, Gathered, Request, Settings, table};
use crate::trial::unix_ms;
use crate::{Error, files};

const SAMPLES: &str = "floor.csv";
/// The `schema` of [`Run`]: the number grows with every change that a reader could trip over.
const SCHEMA: &str = "forkd.floor/1";

/// What a run was: enough to judge whether two may be compared.
#[derive(Serialize)]
struct Run<'a> {
    schema: &'static str,
    arguments: Vec<String>,
    settings: &'a Settings,
    started_unix_ms: u64,
    ended_unix_ms: u64,
    /// Why the run ended early, where it did.
    ended_early_by: Option<String>,
    machine: Machine,
    versions: Versions,
    root: Option<&'a Root>,
    extras: &'a Extras,
    warnings: &'a [String],
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

/// Writes every file, and gives their paths: `floor.json` alone where nothing was measured.
pub fn write(
    request: &Request,
    gathered: &Gathered,
    ended_by: Option<&Error>,
) -> Result<Vec<PathBuf>, Error> {
    let (out, settings) = (&request.out, &request.settings);
    let run = Run {
        schema: SCHEMA,
        arguments: std::env::args().collect(),
        settings,
        started_unix_ms: gathered.started_unix_ms,
        ended_unix_ms: unix_ms(),
        ended_early_by: ended_by.map(Error::to_string),
        machine: super::machine(),
        versions: Versions {
            bench: env!("CARGO_PKG_VERSION").to_owned(),
            forkd: gathered.forkd.clone(),
            firecracker: gathered.firecracker.clone(),
        },
        root: gathered.root.as_ref(),
        extras: &gathered.extras,
        warnings: &gathered.warnings,
    };
    let json = serde_json::to_vec_pretty(&run).map_err(|error| render("floor.json", &error))?;
    let mut written = vec![files::write(out, "floor.json", &json)?];
    if gathered.rows.is_empty() {
        return Ok(written);
    }
    written.push(files::write(out, SAMPLES, &to_csv(&gathered.rows)?)?);
    let markdown = table::markdown(settings, gathered);
    written.push(files::write(out, "floor.md", markdown.as_bytes())?);
    let words = words(settings, &run.machine);
    let png =
        sweep_png(&sweep(settings, &gathered.rows), &words).map_err(|error| render("floor.png", &error))?;
    written.push(files::write(out, "floor.png", &png)?);
    Ok(written)
}

fn render(file: &str, error: &dyn std::error::Error) -> Error {
    Error::Render { file: file.to_owned(), reason: error.to_string() }
}

/// The rows as the picture wants them: an arm and its set are a cell, a block is a trial.
fn sweep(settings: &Settings, rows: &[Row]) -> Sweep {
    let sample = |row: &Row| Sample {
        cell: match row.arm {
            Arm::Floor | Arm::Daemon(forkd::api::DataPath::Stage) => format!("{}, {}", row.arm, row.set),
            Arm::Daemon(data_path) => data_path.name().to_owned(),
        },
        data_path: row.arm.to_string(),
        root: "ext4-loop".to_owned(),
        file_system: "ext4".to_owned(),
        mem_mib: settings.mem_mib,
        dirty_pages: settings.dirty_pages,
        gap_ms: settings.gap_ms,
        trial: 1,
        branch_idx: row.index,
        pause_ms: row.pause_ms(),
        diff_ms: row.phases.create as f64 / 1e6,
        diff_physical_bytes: row.dirty_bytes,
        phases_ns: Vec::new(),
        start_unix_ms: 0,
        circumstances: Circumstances::default(),
    };
    let mut samples: Vec<Sample> = rows.iter().map(sample).collect();
    // One look for each cell, whatever order the first pair was drawn in.
    samples.sort_by(|a, b| (&a.cell, a.branch_idx).cmp(&(&b.cell, b.branch_idx)));
    Sweep { phases: Vec::new(), samples }
}

fn words(settings: &Settings, machine: &Machine) -> Words {
    let dirtied = settings.dirty_pages as f64 * 4096.0 / f64::from(1 << 20);
    Words {
        title: "Pause of diff BRANCHes, beside the least it can be (floor)".to_owned(),
        caption: format!(
            "Linux {}, {} CPUs; {} MiB guest, {dirtied:.1} MiB dirtied before each BRANCH ({}, or {})",
            machine.kernel.split(['-', '+']).next().unwrap_or_default(),
            machine.cpus,
            settings.mem_mib,
            Set::Repeated,
            Set::Moving,
        ),
    }
}
