//! All that a verdict rests on, for one cell.

use super::checks::Check;
use super::estimate::median;
use super::quantiles::Quantiles;
use super::rules::LIMIT_BREAKS;

/// How the arms were set against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Design {
    /// In blocks of one sweep of each, taken back to back.
    Paired,
    /// Trials of one against trials of the other, whenever they were taken.
    Unpaired,
}

impl Design {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Paired => "paired",
            Self::Unpaired => "unpaired",
        }
    }
}

/// Sweeps in the slow regime.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Regimes {
    /// Of the baseline.
    pub a_slow: usize,
    /// Of the candidate.
    pub b_slow: usize,
    /// How likely so many of the candidate's are by chance: McNemar's exact test on pairs, Fisher's on trials.
    pub p: f64,
}

/// An absolute limit, and how often the candidate was over it.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Limit {
    /// The limit for the median pause of a sweep.
    pub limit_ms: f64,
    /// Sweeps of the candidate above it.
    pub broken: usize,
}

impl Limit {
    /// Counts the candidate's sweeps whose median pause is above `limit_ms`.
    pub fn count<'a>(limit_ms: f64, sweeps: impl IntoIterator<Item = &'a [f64]>) -> Self {
        let medians = sweeps.into_iter().filter_map(median);
        Self { limit_ms, broken: medians.filter(|median_ms| *median_ms > limit_ms).count() }
    }

    /// Whether it was broken often enough to count: one long sweep can be the host's.
    pub fn is_broken(self) -> bool {
        self.broken >= LIMIT_BREAKS
    }
}

/// The evidence for one cell at one look.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Evidence {
    /// How the arms were set against each other.
    pub design: Design,
    /// Blocks, or trials of the arm that has fewer.
    pub blocks: usize,
    /// Those that count: whole, and not spoiled by the host.
    pub valid: usize,
    /// Candidate over baseline, Hodges-Lehmann; absent without a valid block.
    pub ratio: Option<f64>,
    /// One-sided upper bound of the ratio; absent where so few blocks give none.
    pub ratio_upper: Option<f64>,
    /// One-sided p value that the candidate is slower.
    pub p: f64,
    /// Sweeps in the slow regime.
    pub regimes: Regimes,
    /// The absolute limit, where there is one.
    pub limit: Option<Limit>,
    /// Questions about the measurement itself.
    pub checks: Vec<Check>,
    /// Why blocks do not count, one sentence each.
    pub spoiled: Vec<String>,
    /// All pauses of the baseline.
    pub a: Option<Quantiles>,
    /// All pauses of the candidate.
    pub b: Option<Quantiles>,
}
