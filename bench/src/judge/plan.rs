//! When the blocks are looked at, and how much error each look may spend.

use std::fmt;

use super::decide::figure;
use super::rules::{MIN_BLOCKS, PASS_ERROR};

/// A plan that could not decide anything.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// So few blocks cannot reach the threshold.
    #[error("{0}")]
    TooFew(TooFew),
    /// Looks must grow.
    #[error("looks at {0:?} blocks are not in ascending order")]
    Order(Vec<usize>),
    /// No threshold.
    #[error("--alpha {0} is not between 0 and 0.5")]
    Alpha(f64),
}

/// Fewer than could reach the threshold.
#[derive(Debug, PartialEq)]
pub struct TooFew {
    /// What there would be.
    pub blocks: usize,
    /// What they are: blocks, or trials of each arm.
    pub what: &'static str,
    /// The threshold of all looks at all cells together.
    pub alpha: f64,
    /// The looks that it is split over.
    pub looks: usize,
    /// The cells that it is split over.
    pub cells: usize,
    /// The least number that can, at one look.
    pub least: usize,
}

impl fmt::Display for TooFew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { blocks, what, alpha, looks, cells, least } = self;
        let each = short(alpha / (looks * cells) as f64);
        write!(f, "{blocks} {what} cannot reach p < {each}")?;
        let looks = (*looks > 1).then(|| format!("{looks} looks"));
        let cells = (*cells > 1).then(|| format!("{cells} cells"));
        let over: Vec<String> = looks.iter().chain(&cells).cloned().collect();
        if !over.is_empty() {
            write!(f, ", which is {} split over {}", short(*alpha), over.join(" and "))?;
        }
        let once = if looks.is_some() { " at one look" } else { "" };
        write!(f, ": take {least} or more{once}")
    }
}

/// Two significant digits, and no zeros after them.
fn short(value: f64) -> String {
    let text = figure(value);
    if text.contains('e') { text } else { text.trim_end_matches('0').to_owned() }
}

/// Fixed before the first block: when it is judged, and at which error.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    alpha: f64,
    looks: Vec<usize>,
    pass_from: usize,
}

/// One look at the blocks so far.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Look {
    /// Blocks that were taken.
    pub blocks: usize,
    /// A smaller p value is a regression.
    pub alpha: f64,
    /// Error of the upper bound behind a pass.
    pub pass_error: f64,
    /// Whether the blocks are enough to pass: an early look can only find a regression.
    pub may_pass: bool,
    /// Whether no block follows.
    pub last: bool,
}

impl Plan {
    /// Looks after so many blocks each of each of `cells`, where none before `pass_from` blocks may pass. The error is
    /// split evenly: whoever looks often must see more.
    pub fn new(alpha: f64, looks: Vec<usize>, pass_from: usize, cells: usize) -> Result<Self, PlanError> {
        check_alpha(alpha)?;
        if looks.is_empty() || !looks.is_sorted_by(|one, next| one < next) {
            return Err(PlanError::Order(looks));
        }
        let what = if looks.len() > 1 { "blocks at the first look" } else { "blocks" };
        check_number((looks[0], what), alpha, (looks.len(), cells), least_blocks)?;
        Ok(Self { alpha, looks, pass_from })
    }

    /// One look at `blocks` blocks of each of `cells`.
    pub fn once(alpha: f64, blocks: usize, cells: usize) -> Result<Self, PlanError> {
        Self::new(alpha, vec![blocks], blocks, cells)
    }

    /// One look at unpaired trials, so many of each arm of each of `cells`.
    pub fn unpaired(alpha: f64, (a, b): (usize, usize), cells: usize) -> Result<Self, PlanError> {
        check_alpha(alpha)?;
        let trials = a.min(b);
        check_number((trials, "trials of an arm"), alpha, (1, cells), least_trials)?;
        Ok(Self { alpha, looks: vec![trials], pass_from: trials })
    }

    /// The threshold of all looks together.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// The looks, in their order.
    pub fn looks(&self) -> impl Iterator<Item = Look> {
        let passing = self.looks.iter().filter(|blocks| **blocks >= self.pass_from).count().max(1);
        let last = self.looks.last().copied();
        self.looks.iter().map(move |&blocks| Look {
            blocks,
            alpha: self.alpha / self.looks.len() as f64,
            pass_error: PASS_ERROR / passing as f64,
            may_pass: blocks >= self.pass_from,
            last: Some(blocks) == last,
        })
    }
}

fn check_alpha(alpha: f64) -> Result<(), PlanError> {
    if alpha > 0.0 && alpha < 0.5 { Ok(()) } else { Err(PlanError::Alpha(alpha)) }
}

/// Refuses so few that not even the clearest of several cells could be told: Holm's correction multiplies the smallest
/// p value by their number.
fn check_number(
    (blocks, what): (usize, &'static str),
    alpha: f64,
    (looks, cells): (usize, usize),
    least_for: fn(f64) -> usize,
) -> Result<(), PlanError> {
    if blocks >= least_for(alpha / (looks * cells.max(1)) as f64) {
        return Ok(());
    }
    let least = least_for(alpha / cells.max(1) as f64);
    Err(PlanError::TooFew(TooFew { blocks, what, alpha, looks, cells, least }))
}

/// The least number of blocks whose signs can all agree with a chance below `alpha`.
fn least_blocks(alpha: f64) -> usize {
    (MIN_BLOCKS..).find(|&blocks| 0.5_f64.powi(blocks as i32) < alpha).unwrap_or(usize::MAX)
}

/// The least number of trials of each arm that can all lie apart with a chance below `alpha`.
fn least_trials(alpha: f64) -> usize {
    let apart = |trials: usize| super::exact::fisher(0, trials, trials, trials);
    (MIN_BLOCKS..).find(|&trials| apart(trials) < alpha).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Plan, PlanError};

    #[test]
    fn the_error_is_split_over_the_looks_and_over_those_that_may_pass() {
        let plan = Plan::new(0.03, vec![10, 20, 30], 20, 1).unwrap();
        let looks: Vec<_> = plan.looks().collect();
        assert!(looks.iter().all(|look| (look.alpha - 0.01).abs() < 1e-12));
        assert!(looks.iter().all(|look| (look.pass_error - 0.025).abs() < 1e-12));
        assert_eq!(looks.iter().map(|look| look.may_pass).collect::<Vec<_>>(), [false, true, true]);
        assert_eq!(looks.iter().map(|look| look.last).collect::<Vec<_>>(), [false, false, true]);
    }

    #[test]
    fn too_few_blocks_are_refused_with_the_least_number_that_can() {
        let refused = |plan: Result<Plan, PlanError>| plan.unwrap_err().to_string();
        assert_eq!(refused(Plan::once(0.01, 6, 1)), "6 blocks cannot reach p < 0.01: take 8 or more");
        assert_eq!(refused(Plan::once(0.001, 9, 1)), "9 blocks cannot reach p < 0.001: take 10 or more");
        assert_eq!(
            refused(Plan::new(0.001, vec![10, 20, 30], 20, 1)),
            "10 blocks at the first look cannot reach p < 0.00033, which is 0.001 split over 3 looks: take 10 or more at \
             one look"
        );
        assert_eq!(
            refused(Plan::unpaired(0.01, (20, 7), 1)),
            "7 trials of an arm cannot reach p < 0.01: take 8 or more"
        );
        assert!(Plan::once(0.001, 10, 1).is_ok());
    }

    #[test]
    fn several_cells_need_more_blocks() {
        let refused = |plan: Result<Plan, PlanError>| plan.unwrap_err().to_string();
        assert_eq!(
            refused(Plan::once(0.01, 8, 4)),
            "8 blocks cannot reach p < 0.0025, which is 0.01 split over 4 cells: take 9 or more"
        );
        assert!(Plan::once(0.01, 9, 4).is_ok());
        assert!(Plan::new(0.01, vec![10, 20, 30], 20, 3).is_ok());
        assert!(Plan::new(0.01, vec![10, 20, 30], 20, 4).is_err());
        assert!(Plan::unpaired(0.00001, (12, 12), 1).is_ok());
        assert!(Plan::unpaired(0.00001, (12, 12), 40).is_err());
    }

    #[test]
    fn looks_that_do_not_grow_and_thresholds_that_are_none_are_refused() {
        assert!(matches!(Plan::new(0.01, vec![20, 20], 20, 1), Err(PlanError::Order(_))));
        assert!(matches!(Plan::new(0.01, vec![], 20, 1), Err(PlanError::Order(_))));
        for alpha in [0.0, -1.0, 0.5, f64::NAN] {
            assert!(matches!(Plan::once(alpha, 20, 1), Err(PlanError::Alpha(_))), "{alpha}");
        }
    }
}
