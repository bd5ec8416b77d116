//! The slowest cell once more, under the off-CPU probe.

use std::path::PathBuf;

use forkd::api::{Branch, Sandbox};
use probes::offcpu::{Options, Session};
use probes::{AttachError, Fault, FinishError};
use reports::offcpu::{Format, OffCpu, render};
use reports::sweep::to_csv;

use super::output::render_error;
use super::{Recording, Request, Settings, Step, Watch, measure};
use crate::cell::Cell;
use crate::interrupt::Interrupt;
use crate::work::Work;
use crate::{Error, files};

const SAMPLES: &str = "offcpu-sweep.csv";
const FILES: [(&str, Format); 4] = [
    ("offcpu.svg", Format::Svg),
    ("offcpu.txt", Format::Table),
    ("offcpu.folded", Format::Folded),
    ("offcpu.json", Format::Json),
];

/// Runs the cell with the largest median pause for one more trial, and adds the files it writes to `written`.
/// An interruption writes what was recorded before it.
pub async fn slowest(
    request: &Request,
    work: &Work,
    interrupt: &mut Interrupt,
    sweep: &Recording,
    written: &mut Vec<PathBuf>,
) -> Result<(), Error> {
    let Some(cell) = slowest_cell(&request.settings, sweep) else { return Ok(()) };
    let settings = Settings { cells: vec![cell], trials: 1, ..request.settings.clone() };
    let request = Request { settings, earlier: None, ..request.clone() };
    let [cell] = &request.settings.cells[..] else { return Ok(()) };
    let mut recording = Recording::new(&request.settings);
    recording.progress.note(&format!("{} is the slowest: once more, under the off-CPU probe", cell.name));
    let mut pauses = Pauses::default();
    let measured =
        measure(&request, work, Step { cell, trial: 1, order: 1 }, interrupt, &mut recording, &mut pauses)
            .await;
    recording.progress.finish();
    let csv = to_csv(&recording.sweep).map_err(|error| render_error(SAMPLES, error))?;
    written.push(files::write(&request.out, SAMPLES, &csv)?);
    if let Some(report) = pauses.report()? {
        for (name, format) in FILES {
            let bytes = render(&report, format).map_err(|error| render_error(name, error))?;
            written.push(files::write(&request.out, name, &bytes)?);
        }
    }
    measured
}

fn slowest_cell(settings: &Settings, recording: &Recording) -> Option<Cell> {
    let cells = recording.cells();
    let slowest = cells.iter().max_by(|a, b| a.pause_ms.median.total_cmp(&b.pause_ms.median))?;
    settings.cells.iter().find(|cell| cell.name == slowest.cell).cloned()
}

/// Records a sandbox's Firecracker, to be cut to the pauses.
#[derive(Default)]
pub struct Pauses {
    session: Option<Session>,
    windows_ns: Vec<(u64, u64)>,
}

impl Watch for Pauses {
    fn begin(&mut self, sandbox: &Sandbox) -> Result<(), Error> {
        // Which part of the recording is a pause is known only when the daemon has answered.
        let options = Options { keep_intervals: true, ..Options::default() };
        self.session = Some(Session::attach(sandbox.pid, options).map_err(refused)?);
        Ok(())
    }

    fn branch(&mut self, branch: &Branch) {
        self.windows_ns.extend(branch.pause_window_ns());
    }
}

impl Pauses {
    /// The report on the pauses so far; `None` where there was none.
    pub fn report(self) -> Result<Option<OffCpu>, Error> {
        match self.session {
            Some(session) if !self.windows_ns.is_empty() => {
                let report = session.finish_in(&self.windows_ns);
                report.map(Some).map_err(|error: FinishError| Error::OffCpu(error.to_string()))
            }
            _ => Ok(None),
        }
    }
}

fn refused(error: AttachError) -> Error {
    match error.fault() {
        Fault::Host => Error::Missing(error.to_string()),
        Fault::Input | Fault::Internal => Error::OffCpu(error.to_string()),
    }
}
