//! What a sweep gathers while it runs. It outlives an interrupted trial, so that nothing measured is lost.

use std::time::{Duration, Instant};

use probes_common::BranchPhase;
use reports::run::{self, Cell, Spent};
use reports::stats::Spread;
use reports::sweep::{Sample, Sweep};
use uuid::Uuid;

use super::{Earlier, Settings};
use crate::progress::Progress;
use crate::trial::unix_ms;

/// The samples so far, and what must be known about them.
#[derive(Debug)]
pub struct Recording {
    /// The run's id, the same in every row.
    pub run_id: String,
    /// The samples.
    pub sweep: Sweep,
    /// Version of the daemon.
    pub forkd: Option<String>,
    /// Version of Firecracker.
    pub firecracker: Option<String>,
    /// What a person sees of it.
    pub progress: Progress,
    pub(super) started_unix_ms: u64,
    pub(super) resumed_unix_ms: Vec<u64>,
    pub(super) roots: Vec<run::Root>,
    pub(super) warnings: Vec<String>,
    spent: Spent,
    /// When the part that is not yet in `spent` began; `None` once the run has stopped.
    begun: Option<Instant>,
}

impl Recording {
    /// An empty one, which begins now.
    pub fn new(settings: &Settings) -> Self {
        let branches =
            settings.cells.len() as u64 * u64::from(settings.trials) * u64::from(settings.branches);
        Self {
            run_id: Uuid::now_v7().to_string(),
            sweep: Sweep::new(BranchPhase::ALL.map(BranchPhase::name)),
            forkd: None,
            firecracker: None,
            progress: Progress::new(branches),
            started_unix_ms: unix_ms(),
            resumed_unix_ms: Vec::new(),
            roots: Vec::new(),
            warnings: Vec::new(),
            spent: Spent::default(),
            begun: Some(Instant::now()),
        }
    }

    /// One that goes on with `earlier` now.
    pub fn going_on(settings: &Settings, earlier: &Earlier) -> Self {
        let (new, run) = (Self::new(settings), &earlier.run);
        new.progress.skip(earlier.whole.samples.len() as u64);
        let mut sweep = new.sweep;
        sweep.samples.clone_from(&earlier.whole.samples);
        let mut resumed_unix_ms = run.resumed_unix_ms.clone();
        resumed_unix_ms.push(new.started_unix_ms);
        Self {
            run_id: run.run_id.clone(),
            sweep,
            forkd: run.versions.forkd.clone(),
            firecracker: run.versions.firecracker.clone(),
            started_unix_ms: run.started_unix_ms,
            resumed_unix_ms,
            roots: run.roots.clone(),
            warnings: run.warnings.clone(),
            spent: run.spent.unwrap_or_default(),
            ..new
        }
    }

    /// Adds one BRANCH.
    pub fn add_sample(&mut self, sample: Sample) {
        self.spent.branches_ns += sample.circumstances.call_ns;
        self.progress.measured(&sample);
        self.sweep.samples.push(sample);
    }

    /// Adds time that went into a gap between dirtying the pages and the BRANCH.
    pub fn add_gap(&mut self, gap: Duration) {
        self.spent.gaps_ns += nanoseconds(gap);
    }

    /// Adds time that went into waiting for idle disks.
    pub fn add_drain(&mut self, drain: Duration) {
        self.spent.drain_ns += nanoseconds(drain);
    }

    /// Ends the progress, and the account of the time.
    pub fn stop(&mut self) {
        self.progress.finish();
        self.spent.wall_ns += self.begun.take().map_or(0, |begun| nanoseconds(begun.elapsed()));
    }

    /// Where the time went until now; `None` before the first BRANCH.
    pub fn spent(&self) -> Option<Spent> {
        let since = self.begun.map_or(0, |begun| nanoseconds(begun.elapsed()));
        let wall_ns = self.spent.wall_ns + since;
        (!self.sweep.samples.is_empty()).then_some(Spent { wall_ns, ..self.spent })
    }

    /// Adds what a trial's snapshots lay on; the first trial on a root stands for all.
    pub fn add_root(&mut self, root: &run::Root) {
        if self.roots.iter().all(|known| known.root != root.root) {
            self.roots.push(root.clone());
        }
    }

    /// Adds a sentence that the reader of the samples must know, and shows it.
    pub fn warn(&mut self, sentence: String) {
        self.progress.note(&format!("warning: {sentence}"));
        self.warnings.push(sentence);
    }

    /// The sentences so far.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The summary of each cell.
    pub fn cells(&self) -> Vec<Cell> {
        self.sweep.cells().into_iter().filter_map(|cell| summary(&self.sweep, cell)).collect()
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn summary(sweep: &Sweep, cell: &str) -> Option<Cell> {
    let mut pauses_ms: Vec<Vec<f64>> = Vec::new();
    for sample in sweep.of_cell(cell) {
        // BRANCHes of a trial come one after another, and begin at 1.
        if sample.branch_idx == 1 {
            pauses_ms.push(Vec::new());
        }
        pauses_ms.last_mut()?.push(sample.pause_ms);
    }
    let samples = pauses_ms.iter().map(|trial| trial.len() as u64).sum();
    let pause_ms = Spread::of(pauses_ms.iter().flatten().copied())?;
    Some(Cell { cell: cell.to_owned(), samples, pause_ms, pauses_ms })
}
