//! The files of a sweep.

use std::fs;
use std::path::{Path, PathBuf};

use reports::plot::{Words, sweep_png};
use reports::run::{Plan, Run, SCHEMA, Versions};
use reports::sweep::to_csv;

use super::{Recording, Request, Settings};
use crate::host::facts;
use crate::trial::unix_ms;
use crate::{Error, files};

const SAMPLES: &str = "sweep.csv";

/// Creates the folder; refuses one that holds a sweep, whose samples would be lost.
pub fn prepare(out: &Path) -> Result<(), Error> {
    let samples = out.join(SAMPLES);
    if samples.exists() {
        return Err(Error::Usage(format!(
            "{} exists: remove it, or choose another folder with --out",
            samples.display()
        )));
    }
    fs::create_dir_all(out).map_err(Error::file("create", out))
}

/// Writes the samples so far.
pub fn write_samples(request: &Request, recording: &Recording) -> Result<PathBuf, Error> {
    let csv = to_csv(&recording.sweep).map_err(|error| render_error(SAMPLES, error))?;
    files::write(&request.out, SAMPLES, &csv)
}

/// Writes every file, and gives their paths: `run.json` alone where nothing was measured, so that a run which
/// failed at once can be repeated into the same folder.
pub fn write(
    request: &Request,
    recording: &Recording,
    ended_by: Option<&Error>,
) -> Result<Vec<PathBuf>, Error> {
    let run = describe(request, recording, ended_by);
    let json = serde_json::to_vec_pretty(&run).map_err(|error| render_error("run.json", error))?;
    let json = files::write(&request.out, "run.json", &json)?;
    if recording.sweep.samples.is_empty() {
        return Ok(vec![json]);
    }
    let csv = write_samples(request, recording)?;
    let words = words(&request.settings, &run);
    let png = sweep_png(&recording.sweep, &words).map_err(|error| render_error("sweep.png", error))?;
    Ok(vec![csv, json, files::write(&request.out, "sweep.png", &png)?])
}

pub(super) fn render_error(file: &str, error: impl ToString) -> Error {
    Error::Render { file: file.to_owned(), reason: error.to_string() }
}

fn describe(request: &Request, recording: &Recording, ended_by: Option<&Error>) -> Run {
    let interrupted = matches!(ended_by, Some(Error::Interrupted(_)));
    Run {
        schema: SCHEMA.to_owned(),
        arguments: std::env::args().collect(),
        plan: plan(&request.settings),
        started_unix_ms: recording.started_unix_ms,
        ended_unix_ms: unix_ms(),
        interrupted,
        error: ended_by.filter(|_| !interrupted).map(Error::to_string),
        machine: facts::machine(),
        versions: Versions {
            bench: env!("CARGO_PKG_VERSION").to_owned(),
            forkd: recording.forkd.clone(),
            firecracker: recording.firecracker.clone(),
        },
        roots: recording.roots.clone(),
        cells: recording.cells(),
        warnings: recording.warnings.clone(),
    }
}

fn plan(settings: &Settings) -> Plan {
    Plan {
        cells: settings.cells.iter().map(ToString::to_string).collect(),
        trials: settings.trials,
        branches: settings.branches,
        dirty_pages: settings.dirty_pages,
        gap_ms: settings.gap_ms,
        mem_mib: settings.mem_mib,
        durable: settings.durable,
        seed: settings.seed,
    }
}

fn words(settings: &Settings, run: &Run) -> Words {
    let trials =
        if settings.trials == 1 { "1 trial".to_owned() } else { format!("{} trials", settings.trials) };
    let interrupted = if run.interrupted || run.error.is_some() { ", ended early" } else { "" };
    let answered = if settings.durable { "answered when on disk" } else { "answered before on disk" };
    Words {
        title: "Pause of consecutive diff BRANCHes of one sandbox".to_owned(),
        caption: format!(
            "Linux {}, {} CPUs; {} MiB guest, {} MiB dirtied {} s before each BRANCH, {answered}; {trials}{interrupted}",
            short_release(&run.machine.kernel),
            run.machine.cpus,
            settings.mem_mib,
            tenths(settings.dirty_pages as f64 * 4096.0 / f64::from(1 << 20)),
            tenths(settings.gap_ms as f64 / 1000.0),
        ),
    }
}

/// `6.1.0` of `6.1.0-28-cloud-amd64`: the picture has no room for more, and `run.json` has all of it.
fn short_release(kernel: &str) -> &str {
    kernel.split(['-', '+']).next().unwrap_or(kernel)
}

/// At most one decimal, none for a whole number.
fn tenths(value: f64) -> String {
    format!("{value:.1}").trim_end_matches(".0").to_owned()
}
