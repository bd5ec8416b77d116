//! What a BRANCH costs above the least that it can cost.
//!
//! Two arms take turns on the same guest: the daemon's `stage`, and a bare client that knows beforehand which
//! pages will be written. What they have in common, the host, its load and Firecracker's own work, is in both;
//! the ratio of the two is the daemon's. Blocks of another data path, in a sandbox of their own, come in between.

use std::path::PathBuf;

use forkd::api::DataPath;

use crate::Error;
use crate::cell::{FileSystem, Root};
use crate::host::{facts, tools};
use crate::interrupt::Interrupt;
use crate::progress::{Progress, print};
use crate::site::{Ground, Programs, Site};
use crate::work::Work;

mod accounts;
mod blocks;
mod client;
mod extras;
mod guest;
mod output;
mod pairs;
mod rows;
pub mod stats;
mod table;

pub use extras::Extras;
pub use rows::{Arm, PhasesNs, Row, Set};

/// What is measured, and under which conditions.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Settings {
    /// Pairs of a floor and a stage BRANCH, for each dirty set.
    pub pairs: u32,
    /// Guest memory in MiB.
    pub mem_mib: u32,
    /// Pages (4 KiB) that the guest dirties before each BRANCH.
    pub dirty_pages: u64,
    /// Time between dirtying the pages and the BRANCH, in the pairs.
    pub gap_ms: u64,
    /// Data paths that are compared, in blocks of BRANCHes that are not waited for on disk.
    #[serde(serialize_with = "names")]
    pub compared: Vec<DataPath>,
    /// Blocks of each compared data path, spread over the run.
    pub blocks: u32,
    /// Consecutive BRANCHes of each block.
    pub block_branches: u32,
    /// Time between dirtying the pages and the BRANCH, in the blocks.
    pub block_gap_ms: u64,
    /// Children that are forked at once, at the end.
    pub children: u32,
    /// Draws the order within pairs, the places of the moving set, the contents, and the bootstrap.
    pub seed: u64,
}

fn names<S: serde::Serializer>(data_paths: &[DataPath], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(data_paths.iter().map(|data_path| data_path.name()))
}

/// Everything that a run is told.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to measure.
    pub settings: Settings,
    /// What to run.
    pub programs: Programs,
    /// Where the files go.
    pub out: PathBuf,
    /// Where mounts, images and sockets live meanwhile.
    pub work_dir: PathBuf,
}

/// What a run has gathered so far.
#[derive(Debug)]
pub struct Gathered {
    rows: Vec<Row>,
    extras: Extras,
    root: Option<reports::run::Root>,
    forkd: Option<String>,
    firecracker: Option<String>,
    warnings: Vec<String>,
    started_unix_ms: u64,
    progress: Progress,
}

impl Gathered {
    fn new(settings: &Settings) -> Self {
        let blocks = settings.compared.len() as u32 * settings.blocks * settings.block_branches;
        Self {
            rows: Vec::new(),
            extras: Extras::default(),
            root: None,
            forkd: None,
            firecracker: None,
            warnings: Vec::new(),
            started_unix_ms: crate::trial::unix_ms(),
            progress: Progress::new(u64::from(settings.pairs * 4 + blocks)),
        }
    }

    fn add(&mut self, row: Row) {
        self.progress.advance();
        self.rows.push(row);
    }

    fn warn(&mut self, sentence: String) {
        self.progress.note(&format!("warning: {sentence}"));
        self.warnings.push(sentence);
    }
}

/// Measures, writes `floor.csv`, `floor.json`, `floor.md` and `floor.png`, and prints the table; also where it
/// ends early, with what was measured until then. The error, if any, is what ended it early.
pub async fn run(request: &Request, interrupt: &mut Interrupt) -> Result<(), Error> {
    output::prepare(&request.out)?;
    let (work, cleared) = Work::take(&request.work_dir)?;
    let bytes = bytes_needed(&request.settings);
    let free = tools::free_bytes(work.folder())?;
    if free < bytes {
        let (bytes, free) = (bytes >> 20, free >> 20);
        return Err(Error::Missing(format!(
            "needs {bytes} MiB in {}, {free} MiB are free: use fewer --pairs or less --mem-mib",
            work.folder().display()
        )));
    }
    let mut gathered = Gathered::new(&request.settings);
    for line in cleared {
        gathered.progress.note(&line);
    }
    let measured = measure(request, &work, bytes, interrupt, &mut gathered).await;
    gathered.progress.finish();
    let written = output::write(request, &gathered, measured.as_ref().err());
    if !gathered.rows.is_empty() {
        print(table::text(&request.settings, &gathered));
    }
    for path in written? {
        print(format_args!("{}\n", path.display()));
    }
    measured
}

async fn measure(
    request: &Request,
    work: &Work,
    bytes: u64,
    interrupt: &mut Interrupt,
    gathered: &mut Gathered,
) -> Result<(), Error> {
    gathered.firecracker = tools::version(&request.programs.firecracker);
    let ground = Ground::of(Root::Loop(FileSystem::Ext4), bytes);
    let site = interrupt.or(Site::build(work, &request.programs, &ground)).await?;
    gathered.forkd = Some(interrupt.or(site.api.version()).await?);
    gathered.root.clone_from(&site.facts);
    let newest = interrupt.or(pairs::take(&site, work, &request.settings, gathered)).await?;
    interrupt.or(extras::take(&site, work, &request.settings, &newest, gathered)).await
}

/// Disk space that a run takes: every stage BRANCH's layer, one block's images at a time, two base snapshots,
/// and an image for the children, with room to spare.
fn bytes_needed(settings: &Settings) -> u64 {
    const MIB: u64 = 1 << 20;
    let memory = u64::from(settings.mem_mib) * MIB;
    let layer = settings.dirty_pages * 4096 + MIB;
    let layers = (u64::from(settings.pairs) * 2 + 32) * layer;
    let images = (u64::from(settings.block_branches) + 5) * memory;
    let sum = layers + images + 256 * MIB;
    sum + sum / 8
}

/// The host, for the output.
fn machine() -> reports::run::Machine {
    facts::machine()
}
