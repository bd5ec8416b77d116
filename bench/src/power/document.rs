//! The result of a proof.

use serde::Serialize;

use crate::Error;
use crate::gate::QUICK_BLOCKS;
use crate::judge::{Block, Bounds, Class, Plan, clopper_pearson};

use super::recorded::{Recorded, Run, RunsOn};
use super::resample::{Counts, Injected, paired, unpaired};
use super::runs::NULL;
use super::{ALPHA, Request};

/// The `schema` of [`Document`]: the number grows with every change that a reader could trip over.
pub const SCHEMA: &str = "forkd.power/2";
/// Error on each side of an interval: 95 % are inside.
const ERROR: f64 = 0.025;
/// Error above a one-sided upper bound.
const UPPER_ERROR: f64 = 0.05;

/// A rate among resamples.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// How blocks were taken and looked at.
    pub plan: String,
    /// How the candidate's pauses were made longer.
    pub injected: Injected,
    /// By how much, in percent.
    pub percent: u32,
    /// What came of it.
    pub counts: Counts,
    /// Interval of the share that ends REGRESS, of the resamples: it does not count that the recorded blocks are few.
    pub regress: Bounds,
}

/// A run of the whole tool.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunRow {
    /// Its name.
    pub name: String,
    /// The candidate, with what was done to it.
    pub candidate: String,
    /// The cell, or both where they differ.
    pub cell: String,
    /// Its verdict.
    pub class: Class,
    /// Candidate over baseline.
    pub ratio: Option<f64>,
    /// p value of the effect.
    pub p: f64,
    /// Why.
    pub reasons: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

/// Everything that a proof found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Document {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Where the runs were measured, each machine once.
    pub machines: Vec<RunsOn>,
    /// What drew the resamples.
    pub seed: u64,
    /// The gate's threshold.
    pub alpha: f64,
    /// Recorded blocks of a build against itself.
    pub blocks: usize,
    /// Their median pause.
    pub median_ms: f64,
    /// Rates among resamples of these blocks.
    pub rates: Vec<Rate>,
    /// Whole runs of a build against itself that ended REGRESS, of how many.
    pub false_alarms: (usize, usize),
    /// Upper bound of the rate of false alarms from these runs alone, with 95 % confidence.
    pub false_alarm_bound: f64,
    /// Every run of the whole tool.
    pub runs: Vec<RunRow>,
}

impl Document {
    /// Resamples what was recorded, and puts the runs beside it.
    pub fn of(recorded: &Recorded, request: &Request) -> Result<Self, Error> {
        let blocks: Vec<Block> = recorded.blocks.iter().flatten().cloned().collect();
        let median_ms = recorded.median_pause_ms().unwrap_or_default();
        let same = || recorded.runs.iter().filter(|run| run.name.starts_with(NULL));
        let alarms = same().filter(|run| run.class == Class::Regress).count();
        Ok(Self {
            schema: SCHEMA,
            machines: recorded.machines(),
            seed: request.seed,
            alpha: ALPHA,
            blocks: blocks.len(),
            median_ms,
            rates: rates(recorded, &blocks, median_ms, request)?,
            false_alarms: (alarms, same().count()),
            false_alarm_bound: clopper_pearson(alarms, same().count(), UPPER_ERROR).high,
            runs: recorded.runs.iter().map(row).collect(),
        })
    }
}

fn rates(
    recorded: &Recorded,
    blocks: &[Block],
    median_ms: f64,
    request: &Request,
) -> Result<Vec<Rate>, Error> {
    let refused = |error: crate::judge::PlanError| Error::Usage(error.to_string());
    let plans = [
        (format!("{QUICK_BLOCKS} blocks"), Plan::once(ALPHA, QUICK_BLOCKS, 1).map_err(refused)?),
        ("20 blocks".to_owned(), Plan::once(ALPHA, 20, 1).map_err(refused)?),
        ("looks at 10, 20, 30".to_owned(), Plan::new(ALPHA, vec![10, 20, 30], 20, 1).map_err(refused)?),
    ];
    let changes = [
        (Injected::Multiplied, 0),
        (Injected::Multiplied, 10),
        (Injected::Multiplied, 20),
        (Injected::Multiplied, 50),
        (Injected::Added, 10),
        (Injected::Added, 20),
        (Injected::Added, 50),
    ];
    let mut random = fastrand::Rng::with_seed(request.seed);
    let mut rates = Vec::new();
    for (name, plan) in &plans {
        for (injected, percent) in changes {
            let change = (injected, percent, median_ms);
            let counts = paired(blocks, plan, change, request.resamples, &mut random);
            rates.push(rate(name.clone(), change, counts));
        }
    }
    for percent in [0, 20] {
        let change = (Injected::Multiplied, percent, median_ms);
        let counts = unpaired(&recorded.blocks, QUICK_BLOCKS, change, request.resamples, &mut random);
        if counts.all > 0 {
            rates.push(rate(format!("unpaired, {QUICK_BLOCKS} trials an arm, of two runs"), change, counts));
        }
    }
    Ok(rates)
}

fn rate(plan: String, (injected, percent, _): (Injected, u32, f64), counts: Counts) -> Rate {
    let regress = clopper_pearson(counts.regress, counts.all, ERROR);
    Rate { plan, injected, percent, counts, regress }
}

fn row(run: &Run) -> RunRow {
    let cell = run.cells.first();
    RunRow {
        name: run.name.clone(),
        candidate: without_path(&run.candidate.what),
        cell: cell.map_or_else(String::new, |cell| cell.cell.clone()),
        class: run.class,
        ratio: cell.and_then(|cell| cell.evidence.ratio),
        p: cell.map_or(1.0, |cell| cell.evidence.p),
        reasons: cell.map_or_else(Vec::new, |cell| cell.reasons.clone()),
        seconds: run.ended_unix_ms.saturating_sub(run.started_unix_ms) as f64 / 1e3,
    }
}

/// What an arm was, without the folder of its program.
fn without_path(what: &str) -> String {
    let (path, rest) = what.split_once(", ").unwrap_or((what, ""));
    let program = path.rsplit('/').next().unwrap_or(path);
    if rest.is_empty() { program.to_owned() } else { format!("{program}, {rest}") }
}
