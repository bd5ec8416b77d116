//! The proof of the gate's power: how often it alarms where nothing changed, and how often it finds what did.
//!
//! Real blocks are recorded once, by runs of the whole tool; each run is kept as it ends, so that an interrupted proof
//! goes on where it was. Rates come from resampling whole blocks with a seed; the runs of the whole tool confirm them.
//! The bound of the one is not the bound of the other, and they are printed apart.

use std::path::{Path, PathBuf};

use crate::cell::Matrix;
use crate::gate::{self, Inconclusive, MeasureRequest, Rule};
use crate::interrupt::Interrupt;
use crate::judge::Plan;
use crate::progress::{print, say};
use crate::site::Programs;
use crate::sweep::{DRAIN_LIMIT, Settings};
use crate::{Error, files};

mod document;
mod markdown;
mod recorded;
mod resample;
mod runs;

pub use document::{Document, Rate, RunRow};
pub use recorded::{Recorded, RunsOn};
pub use runs::{Planned, planned};

/// What a proof is told.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to run.
    pub programs: Programs,
    /// Runs of the whole tool on one build against itself; their blocks are resampled.
    pub null_runs: u32,
    /// Measure the planned runs whose names begin so, in place of all that are missing; none measures nothing.
    pub only: Option<Vec<String>>,
    /// Resamples of each rate.
    pub resamples: u32,
    /// Draws the order of arms, the contents of pages, and the resamples.
    pub seed: u64,
    /// Whether blocks of different machines are resampled together.
    pub force: bool,
    /// Where the runs and the result go.
    pub out: PathBuf,
    /// Where mounts, images and sockets live meanwhile.
    pub work_dir: PathBuf,
}

/// Measures the runs that are missing, and writes `power.json` and `power.md` on all that are there.
pub async fn run(request: &Request, interrupt: &mut Interrupt) -> Result<(), Error> {
    std::fs::create_dir_all(&request.out).map_err(Error::file("create", &request.out))?;
    let measured = measure(request, interrupt).await;
    let recorded = Recorded::read(&request.out)?;
    if recorded.blocks.is_empty() {
        measured?;
        return Err(Error::Usage(format!("{} has no run of a build against itself", request.out.display())));
    }
    if !request.force {
        recorded.check_resampled()?;
    }
    let document = Document::of(&recorded, request)?;
    let json = serde_json::to_vec_pretty(&document)
        .map_err(|error| Error::Render { file: "power.json".to_owned(), reason: error.to_string() })?;
    let summary = markdown::render(&document);
    let written = [
        files::write(&request.out, "power.json", &json)?,
        files::write(&request.out, "power.md", summary.as_bytes())?,
    ];
    print(&summary);
    for path in written {
        print(format_args!("{}\n", path.display()));
    }
    measured
}

async fn measure(request: &Request, interrupt: &mut Interrupt) -> Result<(), Error> {
    let wanted = |name: &str| {
        request.only.as_ref().is_none_or(|only| only.iter().any(|begin| name.starts_with(begin)))
    };
    for name in runs::names(request.null_runs).filter(|name| wanted(name)) {
        let out = request.out.join("runs").join(&name);
        if out.join("gate.json").exists() {
            continue;
        }
        // How long a pause is without any change is known from the runs before.
        let median_ms = Recorded::read(&request.out)?.median_pause_ms();
        let Some(planned) = planned(&name, median_ms) else {
            say(format_args!("{name} needs the runs of a build against itself first"));
            continue;
        };
        say(format_args!("run {name}: {}", planned.says));
        gate::measure(&gate_request(request, &planned, out)?, interrupt).await?;
    }
    Ok(())
}

/// A quick gate, as continuous integration runs it.
fn gate_request(request: &Request, planned: &Planned, out: PathBuf) -> Result<MeasureRequest, Error> {
    let alpha = ALPHA;
    let seed = request.seed.wrapping_add(planned.seed);
    Ok(MeasureRequest {
        arms: planned.arms(&request.programs.forkd),
        firecracker: request.programs.firecracker.clone(),
        settings: gate::quick(Settings {
            cells: Matrix::of(vec![planned.place.clone()]).cells(),
            trials: 0,
            branches: 0,
            durable: false,
            seed,
            drain_limit: DRAIN_LIMIT,
            disk_note: None,
        }),
        plan: Plan::once(alpha, gate::QUICK_BLOCKS, 1).map_err(|error| Error::Usage(error.to_string()))?,
        rule: Rule { alpha, limit_ms: None, force: false, seed },
        inconclusive: Inconclusive::Fail,
        stacks: false,
        out,
        work_dir: request.work_dir.clone(),
    })
}

/// The threshold that the proof is about.
const ALPHA: f64 = 0.01;

/// The folder of each run below a proof's own.
fn runs_folder(out: &Path) -> PathBuf {
    out.join("runs")
}
