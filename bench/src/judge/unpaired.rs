//! The evidence of trials that were not taken in blocks. A host that changed between the arms cannot be told from
//! the arms: the verdict says `unpaired`.

use super::checks::{null_control_of_halves, rank_sum};
use super::effect::{is_slow, ln_ratio};
use super::estimate::{median, with_upper_bound};
use super::evidence::{Design, Evidence, Limit, Regimes};
use super::exact::fisher;
use super::null::critical_mann_whitney;
use super::plan::Look;
use super::quantiles::Quantiles;
use super::rules::FIRST_BRANCHES;

/// Weighs the trials of one cell, each with its pauses by BRANCH index.
pub fn weigh(
    a: &[Vec<f64>],
    b: &[Vec<f64>],
    look: &Look,
    alpha: f64,
    limit_ms: Option<f64>,
    seed: u64,
) -> Evidence {
    let (a, a_broken) = sift("baseline", a);
    let (b, b_broken) = sift("candidate", b);
    let (a_slow, b_slow) = (slow(&a), slow(&b));
    // As in a block: where regimes differ, the jump is kept out of the effect.
    let mixed = ![0, a.len() + b.len()].contains(&(a_slow + b_slow));
    let mut ratios: Vec<f64> =
        b.iter().flat_map(|b| a.iter().filter_map(move |a| ln_ratio(a, b, mixed))).collect();
    ratios.sort_by(|x, y| y.total_cmp(x));
    let critical = critical_mann_whitney(b.len(), a.len(), look.pass_error, seed);
    let estimate = with_upper_bound(&ratios, critical);
    let quantiles = |sweeps: &[&[f64]]| Quantiles::of(sweeps.iter().flat_map(|sweep| sweep.iter().copied()));
    Evidence {
        design: Design::Unpaired,
        blocks: (a.len() + a_broken.len()).min(b.len() + b_broken.len()),
        valid: a.len().min(b.len()),
        ratio: estimate.map(|(ln_ratio, _)| ln_ratio.exp()),
        ratio_upper: estimate.map(|(_, upper)| upper.exp()).filter(|upper| upper.is_finite()),
        p: rank_sum(&levels(&a, mixed), &levels(&b, mixed), seed),
        regimes: Regimes { a_slow, b_slow, p: fisher(a_slow, a.len(), b_slow, b.len()) },
        limit: limit_ms.map(|limit_ms| Limit::count(limit_ms, b.iter().copied())),
        checks: vec![null_control_of_halves(&a, alpha, seed)],
        spoiled: a_broken.into_iter().chain(b_broken).collect(),
        a: quantiles(&a),
        b: quantiles(&b),
    }
}

fn sift<'a>(arm: &str, trials: &'a [Vec<f64>]) -> (Vec<&'a [f64]>, Vec<String>) {
    let length = trials.iter().map(Vec::len).max().unwrap_or(0);
    let fits = |pause_ms: &f64| pause_ms.is_finite() && *pause_ms > 0.0;
    let (mut valid, mut broken) = (Vec::new(), Vec::new());
    for (index, trial) in trials.iter().enumerate() {
        if trial.len() == length && trial.iter().all(fits) {
            valid.push(trial.as_slice());
        } else {
            broken
                .push(format!("trial {} of the {arm} is not whole, or has a pause that is none", index + 1));
        }
    }
    (valid, broken)
}

fn slow(trials: &[&[f64]]) -> usize {
    trials.iter().filter(|trial| is_slow(trial)).count()
}

fn levels(trials: &[&[f64]], only_first: bool) -> Vec<f64> {
    let count = if only_first { FIRST_BRANCHES } else { usize::MAX };
    let logs = |trial: &&[f64]| trial.iter().take(count).map(|pause_ms| pause_ms.ln()).collect::<Vec<f64>>();
    trials.iter().filter_map(|trial| median(&logs(trial))).collect()
}
