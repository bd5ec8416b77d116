//! What a sweep gathers while it runs. It outlives an interrupted trial, so that nothing measured is lost.

use probes_common::BranchPhase;
use reports::run::{self, Cell};
use reports::stats::Spread;
use reports::sweep::{Sample, Sweep};

use super::Settings;
use crate::progress::Progress;
use crate::trial::unix_ms;

/// The samples so far, and what must be known about them.
#[derive(Debug)]
pub struct Recording {
    /// The samples.
    pub sweep: Sweep,
    /// Version of the daemon.
    pub forkd: Option<String>,
    /// Version of Firecracker.
    pub firecracker: Option<String>,
    /// What a person sees of it.
    pub progress: Progress,
    pub(super) started_unix_ms: u64,
    pub(super) roots: Vec<run::Root>,
    pub(super) warnings: Vec<String>,
}

impl Recording {
    /// An empty one, which begins now.
    pub fn new(settings: &Settings) -> Self {
        let branches =
            settings.cells.len() as u64 * u64::from(settings.trials) * u64::from(settings.branches);
        Self {
            sweep: Sweep::new(BranchPhase::ALL.map(BranchPhase::name)),
            forkd: None,
            firecracker: None,
            progress: Progress::new(branches),
            started_unix_ms: unix_ms(),
            roots: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Adds one BRANCH.
    pub fn add_sample(&mut self, sample: Sample) {
        self.progress.measured(&sample);
        self.sweep.samples.push(sample);
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
