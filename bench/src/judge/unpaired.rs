//! The evidence of trials that were not taken in blocks. A host that changed between the arms cannot be told from
//! the arms: the verdict says `unpaired`.

use super::block::Trial;
use super::checks::{load_of_trials, null_control_of_halves, rank_sum};
use super::effect::{is_slow, ln_ratio};
use super::estimate::{median, with_upper_bound};
use super::evidence::{Design, Evidence, Limit, Regimes};
use super::exact::fisher;
use super::null::critical_mann_whitney;
use super::plan::Look;
use super::quantiles::Quantiles;
use super::rules::FIRST_BRANCHES;

/// Weighs the trials of one cell. `seed` draws outcomes where there are too many to count.
pub fn weigh(a: &[Trial], b: &[Trial], look: &Look, limit_ms: Option<f64>, seed: u64) -> Evidence {
    let (a, a_spoiled) = sift("baseline", a);
    let (b, b_spoiled) = sift("candidate", b);
    let mut checks = vec![null_control_of_halves(&pauses(&a), seed)];
    checks.extend(load_of_trials(&a, &b, seed));
    let (a, b) = (pauses(&a), pauses(&b));
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
        blocks: (a.len() + a_spoiled.len()).min(b.len() + b_spoiled.len()),
        valid: a.len().min(b.len()),
        ratio: estimate.map(|(ln_ratio, _)| ln_ratio.exp()),
        ratio_upper: estimate.map(|(_, upper)| upper.exp()).filter(|upper| upper.is_finite()),
        p: rank_sum(&levels(&a, mixed), &levels(&b, mixed), seed),
        regimes: Regimes { a_slow, b_slow, p: fisher(a_slow, a.len(), b_slow, b.len()) },
        limit: limit_ms.map(|limit_ms| Limit::count(limit_ms, b.iter().copied())),
        checks,
        spoiled: a_spoiled.into_iter().chain(b_spoiled).collect(),
        a: quantiles(&a),
        b: quantiles(&b),
    }
}

/// The trials that count, and why the others do not. What a pause was is no reason: no long one is left out.
fn sift<'a>(arm: &str, trials: &'a [Trial]) -> (Vec<&'a Trial>, Vec<String>) {
    let branches = trials.iter().map(|trial| trial.pauses_ms.len()).max().unwrap_or(0);
    let (mut valid, mut spoiled) = (Vec::new(), Vec::new());
    for (index, trial) in trials.iter().enumerate() {
        match trial.unfit(branches) {
            Some(why) => spoiled.push(format!("trial {} of the {arm}: {why}", index + 1)),
            None => valid.push(trial),
        }
    }
    (valid, spoiled)
}

fn pauses<'a>(trials: &[&'a Trial]) -> Vec<&'a [f64]> {
    trials.iter().map(|trial| trial.pauses_ms.as_slice()).collect()
}

fn slow(trials: &[&[f64]]) -> usize {
    trials.iter().filter(|trial| is_slow(trial)).count()
}

fn levels(trials: &[&[f64]], only_first: bool) -> Vec<f64> {
    let count = if only_first { FIRST_BRANCHES } else { usize::MAX };
    let logs = |trial: &&[f64]| trial.iter().take(count).map(|pause_ms| pause_ms.ln()).collect::<Vec<f64>>();
    trials.iter().filter_map(|trial| median(&logs(trial))).collect()
}
