//! The evidence of blocks.

use super::block::Block;
use super::checks::{load, null_control, order, signed_rank};
use super::effect::{self, Regime};
use super::estimate::{walsh_averages, with_upper_bound};
use super::evidence::{Design, Evidence, Limit, Regimes};
use super::exact::mcnemar;
use super::null::critical_signed_rank;
use super::plan::Look;
use super::quantiles::Quantiles;

/// Weighs the blocks of one cell. `seed` draws outcomes where there are too many to count.
pub fn weigh(blocks: &[Block], look: &Look, limit_ms: Option<f64>, seed: u64) -> Evidence {
    let (valid, spoiled) = sift(blocks);
    let effects: Vec<f64> = valid.iter().filter_map(|block| effect::of(block)).collect();
    let critical = critical_signed_rank(effects.len(), look.pass_error, seed);
    let estimate = with_upper_bound(&walsh_averages(&effects), critical);
    let baseline: Vec<&[f64]> = valid.iter().map(|block| block.a_ms.as_slice()).collect();
    let b_first: Vec<bool> = valid.iter().map(|block| block.b_first).collect();
    let mut checks = vec![order(&effects, &b_first, seed), null_control(&baseline, seed)];
    checks.extend(load(&valid, seed));
    let candidate = || valid.iter().map(|block| block.b_ms.as_slice());
    Evidence {
        design: Design::Paired,
        blocks: blocks.len(),
        valid: valid.len(),
        ratio: estimate.map(|(ln_ratio, _)| ln_ratio.exp()),
        ratio_upper: estimate.map(|(_, upper)| upper.exp()).filter(|upper| upper.is_finite()),
        p: signed_rank(&effects, seed),
        regimes: regimes(&valid),
        limit: limit_ms.map(|limit_ms| Limit::count(limit_ms, candidate())),
        checks,
        spoiled,
        a: Quantiles::of(baseline.iter().flat_map(|sweep| sweep.iter().copied())),
        b: Quantiles::of(candidate().flat_map(|sweep| sweep.iter().copied())),
    }
}

/// The blocks that count, and why the others do not. What a pause was is no reason: no long one is left out.
fn sift(blocks: &[Block]) -> (Vec<&Block>, Vec<String>) {
    let (mut valid, mut spoiled) = (Vec::new(), Vec::new());
    for (index, block) in blocks.iter().enumerate() {
        match block.broken().or_else(|| block.spoiled()) {
            Some(why) => spoiled.push(format!("block {}: {why}", index + 1)),
            None => valid.push(block),
        }
    }
    (valid, spoiled)
}

fn regimes(blocks: &[&Block]) -> Regimes {
    let all: Vec<Regime> = blocks.iter().map(|block| Regime::of(block)).collect();
    let count = |of: fn(&Regime) -> bool| all.iter().filter(|regime| of(regime)).count();
    let (a_only, b_only) = (count(|r| r.a_slow && !r.b_slow), count(|r| r.b_slow && !r.a_slow));
    Regimes { a_slow: count(|r| r.a_slow), b_slow: count(|r| r.b_slow), p: mcnemar(a_only, b_only) }
}
