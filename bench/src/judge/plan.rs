//! When the blocks are looked at, and how much error each look may spend.

use super::rules::{MIN_BLOCKS, PASS_ERROR};

/// A plan that could not decide anything.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// So few blocks cannot reach the threshold.
    #[error("{blocks} {what} cannot reach p < {alpha}: take {least} or more")]
    TooFew {
        /// What there would be.
        blocks: usize,
        /// What they are: blocks, or trials of each arm.
        what: &'static str,
        /// The threshold.
        alpha: f64,
        /// The least number that can.
        least: usize,
    },
    /// Looks must grow.
    #[error("looks at {0:?} blocks are not in ascending order")]
    Order(Vec<usize>),
    /// No threshold.
    #[error("--alpha {0} is not between 0 and 0.5")]
    Alpha(f64),
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
    /// Looks after so many blocks each, where none before `pass_from` blocks may pass. The error is split
    /// evenly: whoever looks often must see more.
    pub fn new(alpha: f64, looks: Vec<usize>, pass_from: usize) -> Result<Self, PlanError> {
        check_alpha(alpha)?;
        if looks.is_empty() || !looks.is_sorted_by(|one, next| one < next) {
            return Err(PlanError::Order(looks));
        }
        let (blocks, each) = (looks[0], alpha / looks.len() as f64);
        let least = least_blocks(each);
        if blocks < least {
            return Err(PlanError::TooFew { blocks, what: "blocks at the first look", alpha: each, least });
        }
        Ok(Self { alpha, looks, pass_from })
    }

    /// One look at `blocks` blocks.
    pub fn once(alpha: f64, blocks: usize) -> Result<Self, PlanError> {
        check_alpha(alpha)?;
        let least = least_blocks(alpha);
        if blocks < least {
            return Err(PlanError::TooFew { blocks, what: "blocks", alpha, least });
        }
        Ok(Self { alpha, looks: vec![blocks], pass_from: blocks })
    }

    /// One look at unpaired trials, so many of each arm.
    pub fn unpaired(alpha: f64, a: usize, b: usize) -> Result<Self, PlanError> {
        check_alpha(alpha)?;
        let least = least_trials(alpha);
        let trials = a.min(b);
        if trials < least {
            return Err(PlanError::TooFew { blocks: trials, what: "trials of an arm", alpha, least });
        }
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
        let plan = Plan::new(0.03, vec![10, 20, 30], 20).unwrap();
        let looks: Vec<_> = plan.looks().collect();
        assert!(looks.iter().all(|look| (look.alpha - 0.01).abs() < 1e-12));
        assert!(looks.iter().all(|look| (look.pass_error - 0.025).abs() < 1e-12));
        assert_eq!(looks.iter().map(|look| look.may_pass).collect::<Vec<_>>(), [false, true, true]);
        assert_eq!(looks.iter().map(|look| look.last).collect::<Vec<_>>(), [false, false, true]);
    }

    #[test]
    fn too_few_blocks_are_refused_with_the_least_number_that_can() {
        let least = |error| match error {
            Err(PlanError::TooFew { least, .. }) => least,
            other => panic!("{other:?}"),
        };
        assert_eq!(least(Plan::once(0.01, 6)), 8);
        assert_eq!(least(Plan::once(0.001, 9)), 10);
        assert_eq!(least(Plan::new(0.01, vec![8, 16, 24, 32], 16)), 9);
        assert_eq!(least(Plan::unpaired(0.01, 20, 7)), 8);
        assert!(Plan::once(0.001, 10).is_ok());
    }

    #[test]
    fn looks_that_do_not_grow_and_thresholds_that_are_none_are_refused() {
        assert!(matches!(Plan::new(0.01, vec![20, 20], 20), Err(PlanError::Order(_))));
        assert!(matches!(Plan::new(0.01, vec![], 20), Err(PlanError::Order(_))));
        for alpha in [0.0, -1.0, 0.5, f64::NAN] {
            assert!(matches!(Plan::once(alpha, 20), Err(PlanError::Alpha(_))), "{alpha}");
        }
    }
}
