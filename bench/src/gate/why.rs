//! Why a candidate regressed: one more sweep of each arm, in which is recorded where Firecracker waits.

use std::path::PathBuf;

use reports::offcpu::{Format, OffCpu, difference, render};

use crate::cell::Cell;
use crate::interrupt::Interrupt;
use crate::site::Site;
use crate::sweep::Pauses;
use crate::{Error, files};

use super::measure::Session;
use super::stacks::{GrownStack, grown, of_main_thread};

const PICTURE: &str = "offcpu-difference.svg";
const REPORTS: [&str; 2] = ["offcpu-a.json", "offcpu-b.json"];

/// Records a sweep of each arm, writes their off-CPU reports and the difference as a flame graph, and gives the stacks
/// that grew. A recorded sweep is no sample. What this host cannot record leaves a warning and the verdict as it is.
pub(super) async fn record(
    session: &mut Session<'_>,
    cell: Cell,
    interrupt: &mut Interrupt,
    written: &mut Vec<PathBuf>,
) -> Result<Vec<GrownStack>, Error> {
    match record_both(session, cell, interrupt).await {
        Ok(Some([a, b])) => write(session, [&a, &b], written),
        Ok(None) => Ok(Vec::new()),
        Err(error @ Error::Interrupted(_)) => Err(error),
        Err(error) => {
            session.recording.warn(format!("where the candidate waits was not recorded: {error}"));
            Ok(Vec::new())
        }
    }
}

async fn record_both(
    session: &mut Session<'_>,
    cell: Cell,
    interrupt: &mut Interrupt,
) -> Result<Option<[OffCpu; 2]>, Error> {
    session.recording.progress.note("a regression: one sweep of each arm under the off-CPU probe");
    let mut reports = Vec::new();
    for arm in [0, 1] {
        let begin = |_: &Site| Ok(Pauses::default());
        let (_, pauses) = session.sweep(arm, (cell.clone(), 0), begin, interrupt).await?;
        reports.extend(pauses.report()?);
    }
    Ok(reports.try_into().ok())
}

fn write(
    session: &Session<'_>,
    reports: [&OffCpu; 2],
    written: &mut Vec<PathBuf>,
) -> Result<Vec<GrownStack>, Error> {
    let failed =
        |file: &str, error: &dyn ToString| Error::Render { file: file.to_owned(), reason: error.to_string() };
    let out = &session.request.out;
    for (name, report) in REPORTS.iter().zip(reports) {
        let json = render(report, Format::Json).map_err(|error| failed(name, &error))?;
        written.push(files::write(out, name, &json)?);
    }
    // Two arms that never waited have no picture, and no stack that grew.
    let [a, b] = reports.map(of_main_thread);
    if let Ok(svg) = difference(&a, &b) {
        written.push(files::write(out, PICTURE, &svg)?);
    }
    Ok(grown(reports[0], reports[1]))
}
