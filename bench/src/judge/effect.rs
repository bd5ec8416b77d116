//! The effect of one block: how much longer the candidate's pauses are, as a logarithm.

use super::block::Block;
use super::estimate::median;
use super::rules::{FIRST_BRANCHES, SLOW_RATIO};

/// Which arms of a block were in the slow regime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Regime {
    /// The baseline.
    pub a_slow: bool,
    /// The candidate.
    pub b_slow: bool,
}

impl Regime {
    /// The regimes of a block's arms.
    pub fn of(block: &Block) -> Self {
        Self { a_slow: is_slow(&block.a_ms), b_slow: is_slow(&block.b_ms) }
    }

    /// Whether only one arm was slow.
    pub fn differs(self) -> bool {
        self.a_slow != self.b_slow
    }
}

/// Whether a sweep's later BRANCHes are in the slow regime: their median is over twice that of its first two.
pub fn is_slow(pauses_ms: &[f64]) -> bool {
    let (first, later) = pauses_ms.split_at(pauses_ms.len().min(FIRST_BRANCHES));
    match (median(first), median(later)) {
        (Some(first), Some(later)) => later > SLOW_RATIO * first,
        _ => false,
    }
}

/// The median over BRANCH indices k of `ln(b[k] / a[k])`. Where only one arm is in the slow regime only the
/// first BRANCHes count: the jump is another question, which [`Regime`] answers.
pub fn ln_ratio(a_ms: &[f64], b_ms: &[f64], only_first: bool) -> Option<f64> {
    let count = if only_first { FIRST_BRANCHES } else { usize::MAX };
    let ratios: Vec<f64> = a_ms.iter().zip(b_ms).take(count).map(|(a, b)| (b / a).ln()).collect();
    median(&ratios)
}

/// The effect of a block that is not [broken](Block::broken).
pub fn of(block: &Block) -> Option<f64> {
    ln_ratio(&block.a_ms, &block.b_ms, Regime::of(block).differs())
}

#[cfg(test)]
mod tests {
    use super::super::block::Block;
    use super::{is_slow, of};

    fn block(a_ms: &[f64], b_ms: &[f64]) -> Block {
        Block { a_ms: a_ms.to_vec(), b_ms: b_ms.to_vec(), b_first: false, conditions: None }
    }

    #[test]
    fn branches_are_matched_by_index() {
        // Ratios 2, 1 and 8: the ratio of the arms' medians would be 2.5.
        let effect = of(&block(&[10.0, 20.0, 5.0], &[20.0, 20.0, 40.0])).unwrap();
        assert!((effect - 2_f64.ln()).abs() < 1e-12, "{effect}");
    }

    #[test]
    fn a_jump_of_one_arm_is_kept_out_of_the_effect() {
        let slow = block(&[10.0, 10.0, 10.0, 10.0], &[11.0, 11.0, 50.0, 50.0]);
        assert!((of(&slow).unwrap() - 1.1_f64.ln()).abs() < 1e-12);
        let both = block(&[10.0, 10.0, 50.0, 50.0], &[11.0, 11.0, 100.0, 100.0]);
        assert!((of(&both).unwrap() - (1.1_f64.ln() + 2_f64.ln()) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn slow_is_over_twice_the_first_two() {
        assert!(!is_slow(&[10.0, 10.0, 20.0, 20.0]));
        assert!(is_slow(&[10.0, 10.0, 20.1, 20.1]));
        assert!(!is_slow(&[10.0, 90.0]), "two BRANCHes have no later ones");
        assert!(!is_slow(&[]));
    }
}
