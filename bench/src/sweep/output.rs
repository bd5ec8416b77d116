//! The files of a sweep.

use std::fs;
use std::path::{Path, PathBuf};

use reports::plot::{Words, sweep_png};
use reports::run::{Run, SCHEMA, Versions};
use reports::sweep::{Sweep, read, to_csv};

use super::{Earlier, Recording, Request, Settings, plan};
use crate::cell::Cell;
use crate::host::facts;
use crate::trial::unix_ms;
use crate::{Error, files};

/// The samples.
pub const SAMPLES: &str = "sweep.csv";
/// What the run was.
pub const RUN: &str = "run.json";
/// Samples of trials that were cut off and measured again.
const CUT_OFF: &str = "sweep-cut-off.csv";

/// Whether a run has ended, and by what.
#[derive(Clone, Copy, Debug)]
pub enum Ended<'a> {
    /// It goes on. Whoever reads this later finds a run that was killed.
    NotYet,
    /// All samples are there.
    Whole,
    /// This came between.
    By(&'a Error),
}

impl<'a> Ended<'a> {
    /// How `measured` ended.
    pub fn of(measured: &'a Result<(), Error>) -> Self {
        measured.as_ref().err().map_or(Self::Whole, Self::By)
    }
}

/// Creates the folder; refuses one that holds a sweep, whose samples would be lost, unless that is gone on with.
pub fn prepare(request: &Request) -> Result<(), Error> {
    let out = &request.out;
    if let Some(earlier) = &request.earlier {
        return keep_cut_off(out, earlier);
    }
    let samples = out.join(SAMPLES);
    if samples.exists() {
        return Err(Error::Usage(format!(
            "{} exists: remove it, go on with it (--resume), or choose another folder with --out",
            samples.display()
        )));
    }
    fs::create_dir_all(out).map_err(Error::file("create", out))
}

/// Adds the samples that will be measured again to those that were kept at an earlier interruption.
fn keep_cut_off(out: &Path, earlier: &Earlier) -> Result<(), Error> {
    if earlier.cut_off.samples.is_empty() {
        return Ok(());
    }
    let path = out.join(CUT_OFF);
    let kept = match fs::File::open(&path) {
        Ok(file) => read(CUT_OFF, file).map_err(|error| Error::Usage(error.to_string()))?,
        Err(_) => Sweep { samples: Vec::new(), ..earlier.cut_off.clone() },
    };
    let samples = [kept.samples, earlier.cut_off.samples.clone()].concat();
    let csv = to_csv(&Sweep { samples, ..kept }).map_err(|error| render_error(CUT_OFF, error))?;
    files::write(out, CUT_OFF, &csv).map(drop)
}

/// Writes `run.json`, and `sweep.csv` where there is a sample.
pub fn write_data(request: &Request, recording: &Recording, ended: Ended) -> Result<Vec<PathBuf>, Error> {
    write_described(request, recording, &describe(request, recording, ended))
}

fn write_described(request: &Request, recording: &Recording, run: &Run) -> Result<Vec<PathBuf>, Error> {
    let mut written = Vec::new();
    if !recording.sweep.samples.is_empty() {
        let csv = to_csv(&recording.sweep).map_err(|error| render_error(SAMPLES, error))?;
        written.push(files::write(&request.out, SAMPLES, &csv)?);
    }
    let json = serde_json::to_vec_pretty(run).map_err(|error| render_error(RUN, error))?;
    written.push(files::write(&request.out, RUN, &json)?);
    Ok(written)
}

/// Writes every file, and gives their paths: `run.json` alone where nothing was measured, so that a run which
/// failed at once can be repeated into the same folder.
pub fn write(request: &Request, recording: &Recording, ended: Ended) -> Result<Vec<PathBuf>, Error> {
    let run = describe(request, recording, ended);
    let mut written = write_described(request, recording, &run)?;
    if !recording.sweep.samples.is_empty() {
        let words = words(&request.settings, &run, &recording.sweep);
        let sweep = recording.sweep.clone().in_order_of(&run.plan.cells);
        let png = sweep_png(&sweep, &words).map_err(|error| render_error("sweep.png", error))?;
        written.push(files::write(&request.out, "sweep.png", &png)?);
    }
    Ok(written)
}

pub(crate) fn render_error(file: &str, error: impl ToString) -> Error {
    Error::Render { file: file.to_owned(), reason: error.to_string() }
}

fn describe(request: &Request, recording: &Recording, ended: Ended) -> Run {
    let interrupted = matches!(ended, Ended::NotYet | Ended::By(Error::Interrupted(_)));
    let error = match ended {
        Ended::By(error) if !interrupted => Some(error.to_string()),
        _ => None,
    };
    Run {
        schema: SCHEMA.to_owned(),
        run_id: recording.run_id.clone(),
        arguments: std::env::args().collect(),
        plan: plan::of(&request.settings),
        started_unix_ms: recording.started_unix_ms,
        ended_unix_ms: unix_ms(),
        interrupted,
        error,
        machine: facts::machine(),
        versions: Versions {
            bench: env!("CARGO_PKG_VERSION").to_owned(),
            forkd: recording.forkd.clone(),
            firecracker: recording.firecracker.clone(),
        },
        roots: recording.roots.clone(),
        cells: recording.cells(),
        warnings: recording.warnings.clone(),
        resumed_unix_ms: recording.resumed_unix_ms.clone(),
        spent: recording.spent(),
    }
}

fn words(settings: &Settings, run: &Run, sweep: &Sweep) -> Words {
    let trials =
        if settings.trials == 1 { "1 trial".to_owned() } else { format!("{} trials", settings.trials) };
    let interrupted = if run.interrupted || run.error.is_some() { ", ended early" } else { "" };
    let lab = run.machine.lab.as_ref().map_or_else(String::new, |lab| format!(" ({})", lab.words()));
    let disk = sweep.throttle_words().map_or_else(String::new, |words| format!(", {words}"));
    Words {
        title: format!("Pause of consecutive {} of one sandbox", branches(settings)),
        caption: format!(
            "Linux {}, {} CPUs{lab}{disk}; {}; {trials}{interrupted}",
            run.machine.short_kernel(),
            run.machine.cpus,
            run.plan.words(),
        ),
    }
}

fn branches(settings: &Settings) -> String {
    let modes = every(settings, |cell| cell.mode.name().to_owned());
    format!("{modes} BRANCHes")
}

/// The different figures of the cells, as in `256 or 512`.
fn every(settings: &Settings, figure: impl Fn(&Cell) -> String) -> String {
    let mut figures: Vec<String> = Vec::new();
    for figure in settings.cells.iter().map(figure) {
        if !figures.contains(&figure) {
            figures.push(figure);
        }
    }
    figures.join(" or ")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use forkd::api::DataPath;
    use forkd::http_client::Endpoint;

    use super::{Ended, describe, words};
    use crate::cell::{Cell, FileSystem, Matrix, Place, Root};
    use crate::sweep::testing::sample;
    use crate::sweep::{DRAIN_LIMIT, Recording, Request, Settings, Target};

    fn request(disk_bps: Option<u64>) -> Request {
        let roots = [Root::Loop(FileSystem::Ext4), Root::Tmpfs];
        let places = Place::matrix(&[DataPath::Naive], &roots);
        let settings = Settings {
            cells: Matrix { disk_bps: vec![disk_bps], ..Matrix::of(places) }.cells(),
            trials: 1,
            branches: 1,
            durable: false,
            seed: 0,
            drain_limit: DRAIN_LIMIT,
            disk_note: None,
        };
        Request {
            settings,
            target: Target::Running(Endpoint::Unix(PathBuf::new())),
            out: PathBuf::new(),
            work_dir: PathBuf::new(),
            offcpu_slowest: false,
            earlier: None,
        }
    }

    fn record(recording: &mut Recording, cell: &Cell) {
        let mut sample = sample(&cell.name, 1, 1, 1.0);
        cell.root.name().clone_into(&mut sample.root);
        sample.circumstances.disk_bps = cell.disk_bps;
        recording.sweep.samples.push(sample);
    }

    #[test]
    fn the_caption_tells_what_all_loop_devices_are_throttled_to() {
        let caption = |disk_bps| {
            let request = request(disk_bps);
            let mut recording = Recording::new(&request.settings);
            request.settings.cells.iter().for_each(|cell| record(&mut recording, cell));
            let run = describe(&request, &recording, Ended::Whole);
            words(&request.settings, &run, &recording.sweep).caption
        };
        let throttled = caption(Some(100_000_000));
        assert!(throttled.contains(", loop devices throttled to 100 MB/s; 512 MiB guest, "), "{throttled}");
        assert!(!caption(None).contains("throttled"));
    }
}
