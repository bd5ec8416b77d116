//! A sweep: every cell, for every trial, in turn; then the files.

use std::path::PathBuf;

use forkd::http_client::Endpoint;

use crate::cell::{Cell, Root};
use crate::host::{facts, tools};
use crate::interrupt::Interrupt;
use crate::progress::print;
use crate::site::{Programs, Site, bytes_needed};
use crate::trial::{Made, Subject};
use crate::work::Work;
use crate::{Error, summary};

mod offcpu;
mod output;
mod recording;
mod watch;

pub use offcpu::Pauses;
pub use recording::Recording;
pub use watch::Watch;

/// What is measured, and under which conditions.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cells, in the order in which each trial runs them.
    pub cells: Vec<Cell>,
    /// Repetitions of every cell, each with a fresh file system, daemon and sandbox.
    pub trials: u32,
    /// Consecutive BRANCHes of each trial.
    pub branches: u32,
    /// Pages (4 KiB) that the guest dirties before each BRANCH.
    pub dirty_pages: u64,
    /// Time between dirtying the pages and the BRANCH.
    pub gap_ms: u64,
    /// Guest memory in MiB.
    pub mem_mib: u32,
    /// Whether each BRANCH's answer waits until its snapshot is on disk.
    pub durable: bool,
    /// Added to the BRANCH index, keys the contents of the dirtied pages.
    pub seed: u64,
}

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
}

/// Measures every cell and writes `sweep.csv`, `run.json` and `sweep.png`, also where it ends early; prints
/// the table of pauses. The error, if any, is what ended it early; where that was before the first BRANCH,
/// there is `run.json` alone.
///
/// With [`Request::offcpu_slowest`] the slowest cell is then run once more under the off-CPU probe, into
/// `offcpu.svg`, `.folded`, `.txt`, `.json`, and `offcpu-sweep.csv`: a probed BRANCH is no sample of the sweep.
pub async fn run(request: &Request, interrupt: &mut Interrupt) -> Result<(), Error> {
    output::prepare(&request.out)?;
    let (work, cleared) = Work::take(&request.work_dir)?;
    check_space(request, &work)?;
    let mut recording = Recording::new(&request.settings);
    for line in cleared {
        recording.progress.note(&line);
    }
    let mut extra = Vec::new();
    let mut measured = measure_all(request, &work, interrupt, &mut recording).await;
    recording.progress.finish();
    if measured.is_ok() && request.offcpu_slowest {
        measured = offcpu::slowest(request, &work, interrupt, &recording, &mut extra).await;
    }
    let written = output::write(request, &recording, measured.as_ref().err());
    if !recording.sweep.samples.is_empty() {
        print(summary::table(&recording.sweep));
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
        recording.firecracker = tools::version(&programs.firecracker);
    }
    // Trials outside, cells inside: a drift of the host touches all cells alike.
    for trial in 1..=request.settings.trials {
        for &cell in &request.settings.cells {
            measure(request, work, (cell, trial), interrupt, recording, &mut ()).await?;
            output::write_samples(request, recording)?;
        }
    }
    Ok(())
}

/// One trial of one cell, from the file system to its end.
async fn measure(
    request: &Request,
    work: &Work,
    (cell, trial): (Cell, u32),
    interrupt: &mut Interrupt,
    recording: &mut Recording,
    watch: &mut impl Watch,
) -> Result<(), Error> {
    let settings = &request.settings;
    recording.progress.step(&format!("{cell}, trial {trial}: file system and daemon"));
    let mut site = interrupt.or(open_site(request, work, cell.root)).await?;
    recording.forkd = Some(interrupt.or(site.api.version()).await?);
    let mut made = Made::default();
    let measured = interrupt
        .or(async {
            let subject = Subject::prepare(&mut site, settings, (cell, trial), &mut made, recording).await?;
            if matches!(request.target, Target::Own(_)) {
                work.record(subject.sandbox.pid)?;
            }
            watch.begin(&subject.sandbox)?;
            subject.branch_all(&site.api, settings, &mut made, recording, watch).await
        })
        .await;
    if matches!(request.target, Target::Running(_)) {
        made.remove(&site.api).await;
    }
    measured
}

async fn open_site(request: &Request, work: &Work, root: Root) -> Result<Site, Error> {
    match &request.target {
        Target::Own(programs) => Site::build(work, programs, root, site_bytes(&request.settings)).await,
        Target::Running(endpoint) => Site::external(endpoint.clone()).await,
    }
}

fn site_bytes(settings: &Settings) -> u64 {
    bytes_needed(settings.branches, settings.mem_mib, settings.dirty_pages)
}

/// Refuses a sweep that would fill the disk or the memory half-way.
fn check_space(request: &Request, work: &Work) -> Result<(), Error> {
    const MIB: u64 = 1 << 20;
    let bytes = site_bytes(&request.settings);
    let uses = |root| request.settings.cells.iter().any(|cell| cell.root == root);
    let refuse = |what: String, free: u64| {
        let (needed, free) = (bytes.div_ceil(MIB), free / MIB);
        let less = "fewer --branches or less --mem-mib";
        Err(Error::Missing(format!("needs {needed} MiB {what}, {free} MiB are free: use {less}")))
    };
    let disk = tools::free_bytes(work.folder())?;
    if uses(Root::Ext4Loop) && disk < bytes {
        return refuse(format!("in {}", work.folder().display()), disk);
    }
    let memory = facts::meminfo_kib("MemAvailable").unwrap_or(u64::MAX / 1024) * 1024;
    if uses(Root::Tmpfs) && memory < bytes {
        return refuse("of memory for tmpfs".to_owned(), memory);
    }
    Ok(())
}
