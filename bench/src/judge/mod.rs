//! Judges whether one arm of a measurement is slower than the other.
//!
//! The only part of this crate that judges. It has no I/O and no clock, and all its randomness comes from a seed
//! that it is given: the same pauses always get the same verdict. How it decides, and what may not be concluded
//! from it, is in `docs/GATE.md`.
//!
//! ```text
//! blocks of paired sweeps -> effect of each -> evidence (estimate, bound, p values, checks) -> verdict
//! ```

mod block;
mod change;
mod checks;
mod decide;
mod effect;
mod estimate;
mod evidence;
mod exact;
mod holm;
mod null;
mod paired;
mod plan;
mod quantiles;
mod rules;
mod unpaired;

#[cfg(test)]
mod simulation;

pub use block::{Block, Conditions, Host, Trial};
pub use change::{Change, MIN_RUNS, changes};
pub use checks::Check;
pub use decide::{Class, Verdict, decide, figure, overall};
pub use effect::{Regime, is_slow};
pub use estimate::median;
pub use evidence::{Design, Evidence, Limit, Regimes};
pub use exact::{Bounds, clopper_pearson};
pub use holm::adjust;
pub use paired::weigh as weigh_blocks;
pub use plan::{Look, Plan, PlanError, TooFew};
pub use quantiles::Quantiles;
pub use rules::{CHECK_ALPHA, MIN_BLOCKS, PASS_RATIO, REGRESS_RATIO};
pub use unpaired::weigh as weigh_trials;
