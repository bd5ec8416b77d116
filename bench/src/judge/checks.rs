//! Whether something else than the arms explains what the arms show.

use super::block::{Block, Host};
use super::effect::ln_ratio;
use super::estimate::median;
use super::null::{Null, doubled_ranks};
use super::rules::{MAX_CPU_IMBALANCE, MAX_WRITE_IMBALANCE_MIB_S, REGRESS_RATIO};

/// One question about the measurement itself.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Check {
    /// What is asked.
    pub name: &'static str,
    /// How likely what was found is where nothing is wrong; two-sided.
    pub p: f64,
    /// Whether the measurement is no good for this reason.
    pub fired: bool,
    /// What was found, as a sentence without an end.
    pub found: String,
}

/// Whether the order within blocks explains the difference: where the candidate came first there is one, where
/// the baseline came first there is none, or the other way round.
pub fn order(effects: &[f64], b_first: &[bool], alpha: f64, seed: u64) -> Check {
    let of = |first: bool| -> Vec<f64> {
        let chosen = effects.iter().zip(b_first).filter(|(_, b_first)| **b_first == first);
        chosen.map(|(effect, _)| *effect).collect()
    };
    let (after, before) = (of(false), of(true));
    let (Some(b_second), Some(b_before)) = (median(&after), median(&before)) else {
        let found = "the arms were always measured in the same order".to_owned();
        return Check { name: "order", p: 1.0, fired: true, found };
    };
    let p = two_samples(&after, &before, seed);
    let margin = REGRESS_RATIO.ln();
    let disagree = b_second.min(b_before) <= margin && b_second.max(b_before) > margin;
    let found = format!(
        "{} where the baseline came first, {} where the candidate did",
        percent(b_second),
        percent(b_before)
    );
    Check { name: "order", p, fired: p < alpha && disagree, found }
}

/// The null control of blocks: the baseline of every second block against that of the block before it, by the test
/// of the blocks themselves. Where that tells them apart, it would tell a build from itself.
pub fn null_control(baseline: &[&[f64]], alpha: f64, seed: u64) -> Check {
    let pairs = baseline.chunks_exact(2).filter_map(|pair| ln_ratio(pair[0], pair[1], false));
    let effects: Vec<f64> = pairs.collect();
    let shift = median(&effects).unwrap_or_default();
    control(
        "the baseline of every second block against the one before",
        paired_two_sided(&effects, seed),
        shift,
        alpha,
    )
}

/// The null control of trials without blocks: the baseline's second half against its first. A host that changed
/// between them may have changed between the arms.
pub fn null_control_of_halves(baseline: &[&[f64]], alpha: f64, seed: u64) -> Check {
    let (first, second) = baseline.split_at(baseline.len() / 2);
    let level = |sweep: &&[f64]| {
        let logs: Vec<f64> = sweep.iter().map(|pause_ms| pause_ms.ln()).collect();
        median(&logs).unwrap_or_default()
    };
    let levels = |half: &[&[f64]]| half.iter().map(level).collect::<Vec<f64>>();
    let p = two_samples(&levels(first), &levels(second), seed);
    let pairs = first.iter().flat_map(|a| second.iter().filter_map(|b| ln_ratio(a, b, false)));
    let shift = median(&pairs.collect::<Vec<f64>>()).unwrap_or_default();
    control("the baseline's second half against its first", p, shift, alpha)
}

fn control(what: &str, p: f64, shift: f64, alpha: f64) -> Check {
    let fired = p < alpha && shift.abs() > REGRESS_RATIO.ln();
    Check { name: "null control", p, fired, found: format!("{what}: {}", percent(shift)) }
}

/// Whether other processes used the host during one arm more than during the other.
pub fn load(blocks: &[&Block], alpha: f64, seed: u64) -> Vec<Check> {
    let differences = |figure: fn(&Host) -> f64| -> Vec<f64> {
        let known = blocks.iter().filter_map(|block| block.conditions);
        known.map(|both| figure(&both.b) - figure(&both.a)).collect()
    };
    let check = |name, figure, limit: f64, say: fn(f64) -> String| {
        let differences = differences(figure);
        let middle = median(&differences)?;
        let p = paired_two_sided(&differences, seed);
        let fired = p < alpha && middle.abs() > limit;
        let more = if middle < 0.0 { "less" } else { "more" };
        let found = format!("{} {more} during the candidate's sweeps", say(middle.abs()));
        Some(Check { name, p, fired, found })
    };
    let cpu = check(
        "load on one arm",
        |host| host.foreign_cpu_share,
        MAX_CPU_IMBALANCE,
        |share| format!("other processes took {:.0} % of the processors' time", share * 100.0),
    );
    let disk = check(
        "writing on one arm",
        |host| host.foreign_written_mib_s,
        MAX_WRITE_IMBALANCE_MIB_S,
        |rate| format!("other processes wrote {rate:.0} MiB/s"),
    );
    cpu.into_iter().chain(disk).collect()
}

/// Two-sided signed-rank test of differences within blocks.
fn paired_two_sided(differences: &[f64], seed: u64) -> f64 {
    let greater = signed_rank(differences, seed);
    let negated: Vec<f64> = differences.iter().map(|difference| -difference).collect();
    (2.0 * greater.min(signed_rank(&negated, seed))).min(1.0)
}

/// One-sided p value of the signed-rank test: how likely so large positive `differences` are where each sign is
/// a coin's. A difference of 0 keeps its rank and has no sign (Pratt).
pub fn signed_rank(differences: &[f64], seed: u64) -> f64 {
    let sizes: Vec<f64> = differences.iter().map(|difference| difference.abs()).collect();
    let ranks = doubled_ranks(&sizes);
    let of = |sign: fn(&f64) -> bool| -> Vec<usize> {
        let chosen = differences.iter().zip(&ranks).filter(|(difference, _)| sign(difference));
        chosen.map(|(_, rank)| *rank).collect()
    };
    let observed: usize = of(|difference| *difference > 0.0).iter().sum();
    Null::of_signs(&of(|difference| *difference != 0.0), seed).at_least(observed)
}

/// One-sided p value of the rank-sum test: how likely so large figures of `b` are where the labels are shuffled.
pub fn rank_sum(a: &[f64], b: &[f64], seed: u64) -> f64 {
    let all: Vec<f64> = b.iter().chain(a).copied().collect();
    let ranks = doubled_ranks(&all);
    let observed: usize = ranks[..b.len()].iter().sum();
    Null::of_labels(&ranks, b.len(), seed).at_least(observed)
}

fn two_samples(a: &[f64], b: &[f64], seed: u64) -> f64 {
    (2.0 * rank_sum(a, b, seed).min(rank_sum(b, a, seed))).min(1.0)
}

/// `+12.3 %` of a logarithm of a ratio.
pub fn percent(ln_ratio: f64) -> String {
    format!("{:+.1} %", ln_ratio.exp_m1() * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exact_tests_agree_with_counting_by_hand() {
        // All 8 of the same sign, and one negative of the smallest size.
        assert_eq!(signed_rank(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], 0), 1.0 / 256.0);
        assert_eq!(signed_rank(&[-1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], 0), 2.0 / 256.0);
        assert_eq!(signed_rank(&[0.0, 0.0], 0), 1.0);
        assert!((rank_sum(&[1.0, 2.0], &[3.0, 4.0], 0) - 1.0 / 6.0).abs() < 1e-12);
    }

    #[test]
    fn a_difference_that_goes_with_the_order_fires() {
        let b_first: Vec<bool> = (0..20).map(|block| block % 2 == 0).collect();
        let noise = |block: usize| block as f64 * 1e-3;
        let second_is_slower: Vec<f64> =
            b_first.iter().enumerate().map(|(i, first)| if *first { -0.3 } else { 0.3 } + noise(i)).collect();
        assert!(order(&second_is_slower, &b_first, 0.01, 0).fired);
        let slower: Vec<f64> = (0..20).map(|i| 0.3 + noise(i)).collect();
        assert!(!order(&slower, &b_first, 0.01, 0).fired);
        assert!(order(&slower, &[true; 20], 0.01, 0).fired, "one order alone cannot be told from the arms");
    }

    #[test]
    fn a_baseline_that_differs_from_itself_fires() {
        let sweeps = |level: fn(u32) -> f64| -> Vec<Vec<f64>> {
            (0..20).map(|i| vec![level(i) + f64::from(i) * 1e-3; 6]).collect()
        };
        let fires = |check: fn(&[&[f64]], f64, u64) -> Check, sweeps: &[Vec<f64>]| {
            check(&sweeps.iter().map(Vec::as_slice).collect::<Vec<_>>(), 0.01, 0).fired
        };
        let alternating = sweeps(|i| if i % 2 == 0 { 10.0 } else { 12.0 });
        let half_way = sweeps(|i| if i < 10 { 10.0 } else { 12.0 });
        assert!(fires(null_control, &alternating));
        assert!(!fires(null_control, &half_way), "blocks cancel what changes from one to another");
        assert!(fires(null_control_of_halves, &half_way));
        assert!(!fires(null_control_of_halves, &alternating));
        assert!(!fires(null_control_of_halves, &half_way[..10]), "a change below the margin");
    }
}
