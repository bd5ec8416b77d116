//! The result of a gate: `gate.json` is the truth, everything else is drawn from it.

use reports::run::Machine;
use serde::Serialize;

use crate::judge::{Class, Look};

use super::compare::CellVerdict;
use super::stacks::GrownStack;

/// The `schema` of [`Document`]: the number grows with every change that a reader could trip over.
pub const SCHEMA: &str = "forkd.gate/1";

/// What becomes of a comparison that shows nothing either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Inconclusive {
    /// The exit code is 0, and a warning says why.
    Warn,
    /// The exit code is 4.
    Fail,
}

/// One side of the comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Arm {
    /// What was measured: a file, a daemon, a revision.
    pub what: String,
    /// The daemon's version, where it was asked.
    pub version: Option<String>,
    /// Kernel and machine, where they are known.
    pub machine: Option<String>,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Terms {
    /// A smaller p value is a regression.
    pub alpha: f64,
    /// When blocks were looked at, where they were measured.
    pub looks: Vec<Look>,
    /// An absolute limit for the median pause of a sweep.
    pub limit_ms: Option<f64>,
    /// Whether what was taken on different machines was judged.
    pub forced: bool,
    /// What becomes of INCONCLUSIVE.
    pub inconclusive: Inconclusive,
    /// Draws the order of the arms, the contents of pages, and outcomes where there are too many to count.
    pub seed: u64,
}

/// Everything that a gate found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Document {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// One class for all cells.
    pub class: Class,
    /// Begin, in milliseconds since the Unix epoch.
    pub started_unix_ms: u64,
    /// End, in milliseconds since the Unix epoch.
    pub ended_unix_ms: u64,
    /// The host that judged, which is the one that measured where blocks were measured.
    pub machine: Machine,
    /// The side that is compared with.
    pub baseline: Arm,
    /// The side that is judged.
    pub candidate: Arm,
    /// What was asked for.
    pub terms: Terms,
    /// The verdict on each cell.
    pub cells: Vec<CellVerdict>,
    /// Stacks in which the candidate waited longer, where both arms were recorded.
    pub stacks: Vec<GrownStack>,
    /// What did not go as asked, one sentence each.
    pub warnings: Vec<String>,
}

impl Document {
    /// The exit code of the class.
    pub fn exit_code(&self) -> u8 {
        match (self.class, self.terms.inconclusive) {
            (Class::Pass, _) | (Class::Inconclusive, Inconclusive::Warn) => 0,
            (Class::Regress, _) => 3,
            (Class::Inconclusive, Inconclusive::Fail) => 4,
            (Class::Invalid, _) => 5,
        }
    }
}
