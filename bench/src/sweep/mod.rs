//! A sweep: every cell, for every trial, in turn; then the files.

use std::path::PathBuf;
use std::time::Duration;

use forkd::http_client::Endpoint;

use crate::cell::{Cell, Root};
use crate::host::{facts, tools};
use crate::interrupt::Interrupt;
use crate::neighbour::Neighbour;
use crate::progress::print;
use crate::site::{Ground, Programs, Site, bytes_needed, throttle};
use crate::trial::{Made, Subject};
use crate::work::Work;
use crate::{Error, summary};

mod offcpu;
mod output;
mod plan;
mod recording;
mod resume;
mod schedule;
#[cfg(test)]
pub(crate) mod testing;
mod watch;

pub use offcpu::Pauses;
pub(crate) use output::render_error;
pub use output::{RUN, SAMPLES};
pub use plan::mode;
pub use recording::Recording;
pub use resume::{Earlier, load};
pub use schedule::Step;
pub use watch::Watch;

/// What is measured, and under which conditions.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The cells, in the order in which they are shown.
    pub cells: Vec<Cell>,
    /// Repetitions of every cell, each with a fresh file system, daemon and sandbox.
    pub trials: u32,
    /// Consecutive BRANCHes of each trial.
    pub branches: u32,
    /// Whether each BRANCH's answer waits until its snapshot is on disk.
    pub durable: bool,
    /// Draws the order of the cells in each trial; added to the BRANCH index, keys the contents of the dirtied pages.
    pub seed: u64,
    /// How long a trial waits for idle disks before it begins all the same, and says so.
    pub drain_limit: Duration,
    /// What the user says of the disk below.
    pub disk_note: Option<String>,
}

/// How long trials wait for idle disks unless told otherwise.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(120);

/// Whose daemon is measured.
#[derive(Clone, Debug)]
pub enum Target {
    /// One of our own for each trial, on a fresh file system.
    Own(Programs),
    /// One that runs already, on whatever it uses.
    Running(Endpoint),
}

/// Everything a sweep is told.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to measure.
    pub settings: Settings,
    /// Whose daemon.
    pub target: Target,
    /// Where the files go.
    pub out: PathBuf,
    /// Where mounts, images and sockets live meanwhile.
    pub work_dir: PathBuf,
    /// Whether to run the slowest cell once more, and record where its Firecracker waits in the pauses.
    pub offcpu_slowest: bool,
    /// What is there already of the sweep in `out`, where one is gone on with.
    pub earlier: Option<Earlier>,
}

/// Measures every cell and writes `sweep.csv`, `run.json` and `sweep.png`, also where it ends early; prints
/// the table of pauses and where the time went. The error, if any, is what ended it early; where that was before
/// the first BRANCH, there is `run.json` alone. Both files are also written after each trial, so that a sweep
/// that was killed can be gone on with.
///
/// With [`Request::offcpu_slowest`] the slowest cell is then run once more under the off-CPU probe, into
/// `offcpu.svg`, `.folded`, `.txt`, `.json`, and `offcpu-sweep.csv`: a probed BRANCH is no sample of the sweep.
pub async fn run(request: &Request, interrupt: &mut Interrupt) -> Result<(), Error> {
    check(request)?;
    output::prepare(request)?;
    let (work, cleared) = Work::take(&request.work_dir)?;
    check_space(request, &work)?;
    let mut recording = match &request.earlier {
        None => Recording::new(&request.settings),
        Some(earlier) => Recording::going_on(&request.settings, earlier),
    };
    for line in cleared {
        recording.progress.note(&line);
    }
    let mut extra = Vec::new();
    let mut measured = measure_all(request, &work, interrupt, &mut recording).await;
    recording.stop();
    let written = output::write(request, &recording, output::Ended::of(&measured));
    if measured.is_ok() && request.offcpu_slowest {
        measured = offcpu::slowest(request, &work, interrupt, &recording, &mut extra).await;
    }
    if !recording.sweep.samples.is_empty() {
        let names: Vec<&str> = request.settings.cells.iter().map(|cell| cell.name.as_str()).collect();
        print(summary::table(&recording.sweep.clone().in_order_of(&names)));
        print(recording.spent().map_or_else(String::new, summary::spent));
    }
    for path in written?.into_iter().chain(extra) {
        print(format_args!("{}\n", path.display()));
    }
    measured
}

async fn measure_all(
    request: &Request,
    work: &Work,
    interrupt: &mut Interrupt,
    recording: &mut Recording,
) -> Result<(), Error> {
    if let Target::Own(programs) = &request.target {
        let firecracker = tools::version(&programs.firecracker);
        same(recording.firecracker.as_deref(), firecracker.as_deref())?;
        recording.firecracker = firecracker;
    }
    output::write(request, recording, output::Ended::NotYet)?;
    for step in schedule::remaining(&request.settings, &recording.sweep.clone()) {
        measure(request, work, step, interrupt, recording, &mut ()).await?;
        output::write_data(request, recording, output::Ended::NotYet)?;
    }
    Ok(())
}

/// One trial of one cell, from the file system to its end.
async fn measure(
    request: &Request,
    work: &Work,
    step: Step<'_>,
    interrupt: &mut Interrupt,
    recording: &mut Recording,
    watch: &mut impl Watch,
) -> Result<(), Error> {
    let settings = &request.settings;
    recording.progress.step(&format!("{}, trial {}: file system and daemon", step.cell.name, step.trial));
    let mut site = interrupt.or(open_site(request, work, step.cell)).await?;
    let forkd = interrupt.or(site.api.version()).await?;
    same(recording.forkd.as_deref(), Some(&forkd))?;
    recording.forkd = Some(forkd);
    let mut made = Made::default();
    let measured = interrupt
        .or(async {
            let subject = Subject::prepare(&mut site, settings, step, &mut made, recording).await?;
            if matches!(request.target, Target::Own(_)) {
                work.record(subject.sandbox.pid)?;
                site.accompany(work, step.cell.neighbour)?;
            }
            watch.begin(&subject.sandbox)?;
            subject.branch_all(&site, settings, &mut made, recording, watch).await
        })
        .await;
    if matches!(request.target, Target::Running(_)) {
        made.remove(&site.api).await;
    }
    measured
}

async fn open_site(request: &Request, work: &Work, cell: &Cell) -> Result<Site, Error> {
    match &request.target {
        Target::Own(programs) => {
            let bytes = site_bytes(&request.settings, cell);
            let ground = Ground { root: cell.root.clone(), bytes, disk_bps: cell.disk_bps };
            Site::build(work, programs, &ground).await
        }
        Target::Running(endpoint) => Site::external(endpoint.clone()).await,
    }
}

/// One run has one version of everything: rows of two would be compared as if they were of one.
fn same(earlier: Option<&str>, now: Option<&str>) -> Result<(), Error> {
    match (earlier, now) {
        (Some(earlier), Some(now)) if earlier != now => Err(Error::Usage(format!(
            "the sweep began with {earlier}, and this is {now}: begin a new one with --out, or use the same build"
        ))),
        _ => Ok(()),
    }
}

/// Refuses what no trial could be run with, before the first.
fn check(request: &Request) -> Result<(), Error> {
    let cells = &request.settings.cells;
    let running = matches!(request.target, Target::Running(_));
    if running && cells.iter().any(|cell| cell.neighbour != Neighbour::None || cell.disk_bps.is_some()) {
        let why = "--neighbour and --disk-bps need a daemon of our own: leave them out, or leave --url out";
        return Err(Error::Usage(why.to_owned()));
    }
    if cells.iter().any(|cell| cell.disk_bps.is_some()) {
        throttle::check()?;
    }
    if let Some(earlier) = &request.earlier {
        earlier.check_machine(&facts::machine())?;
    }
    Ok(())
}

fn site_bytes(settings: &Settings, cell: &Cell) -> u64 {
    bytes_needed(settings.branches, cell.mem_mib, cell.dirty_pages)
}

/// Refuses a sweep that would fill the disk or the memory half-way.
fn check_space(request: &Request, work: &Work) -> Result<(), Error> {
    const MIB: u64 = 1 << 20;
    for cell in &request.settings.cells {
        let bytes = site_bytes(&request.settings, cell);
        let (free, place) = match &cell.root {
            Root::Loop(_) => (tools::free_bytes(work.folder())?, format!("in {}", work.folder().display())),
            Root::Folder(folder) => (tools::free_bytes(folder)?, format!("in {}", folder.display())),
            Root::Tmpfs => {
                let available_kib = facts::meminfo_kib("MemAvailable").unwrap_or(u64::MAX / 1024);
                (available_kib * 1024, "of memory for tmpfs".to_owned())
            }
            Root::Daemon => continue,
        };
        if free < bytes {
            let (needed, free) = (bytes.div_ceil(MIB), free / MIB);
            let less = "fewer --branches or less --mem-mib";
            return Err(Error::Missing(format!(
                "needs {needed} MiB {place}, {free} MiB are free: use {less}"
            )));
        }
    }
    Ok(())
}
