//! Whether something else than the arms explains what the arms show.

use super::block::{Block, Host, Trial};
use super::effect::ln_ratio;
use super::estimate::median;
use super::exact::fisher;
use super::null::{Null, doubled_ranks};
use super::rules::{CHECK_ALPHA, MAX_CPU_IMBALANCE, MAX_WRITE_IMBALANCE_MIB_S, REGRESS_RATIO};

/// One question about the measurement itself.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Check {
    /// What is asked.
    pub name: &'static str,
    /// How likely what was found is where nothing is wrong; two-sided.
    pub p: f64,
    /// Whether so many blocks or trials can reach [`CHECK_ALPHA`] at all.
    pub can_fire: bool,
    /// Whether the measurement is no good for this reason.
    pub fired: bool,
    /// What was found, as a sentence without an end.
    pub found: String,
}

/// A two-sided p value, and whether so few figures can have a small one.
#[derive(Clone, Copy)]
struct Tested {
    p: f64,
    can_fire: bool,
}

impl Tested {
    fn of_differences(differences: &[f64], seed: u64) -> Self {
        Self { p: paired_two_sided(differences, seed), can_fire: signs_suffice(differences.len()) }
    }

    fn of_two_samples(a: &[f64], b: &[f64], seed: u64) -> Self {
        let can_fire = 2.0 * fisher(0, a.len(), b.len(), b.len()) < CHECK_ALPHA;
        Self { p: two_samples(a, b, seed), can_fire }
    }

    fn is_small(self) -> bool {
        self.p < CHECK_ALPHA
    }
}

/// Whether so many differences of one sign are rare enough.
fn signs_suffice(differences: usize) -> bool {
    2.0 * 0.5_f64.powi(i32::try_from(differences).unwrap_or(i32::MAX)) < CHECK_ALPHA
}

/// Whether the order within blocks explains the difference: where the candidate came first there is one, where
/// the baseline came first there is none, or the other way round.
pub fn order(effects: &[f64], b_first: &[bool], seed: u64) -> Check {
    let of = |first: bool| -> Vec<f64> {
        let chosen = effects.iter().zip(b_first).filter(|(_, b_first)| **b_first == first);
        chosen.map(|(effect, _)| *effect).collect()
    };
    let (after, before) = (of(false), of(true));
    let (Some(b_second), Some(b_before)) = (median(&after), median(&before)) else {
        let found = "the arms were always measured in the same order".to_owned();
        return Check { name: "order", p: 1.0, can_fire: true, fired: true, found };
    };
    let tested = Tested::of_two_samples(&after, &before, seed);
    let margin = REGRESS_RATIO.ln();
    let disagree = b_second.min(b_before) <= margin && b_second.max(b_before) > margin;
    let found = format!(
        "{} where the baseline came first, {} where the candidate did",
        percent(b_second),
        percent(b_before)
    );
    let Tested { p, can_fire } = tested;
    Check { name: "order", p, can_fire, fired: tested.is_small() && disagree, found }
}

/// The null control of blocks: the baseline of every second block against that of the block before it, by the test
/// of the blocks themselves. Where that tells them apart, it would tell a build from itself.
///
/// Few pairs have too few patterns of signs for any to be rare. Their sweeps are compared as two samples instead, which
/// five pairs suffice for, and which a drift of the host, that reaches both alike, can only keep from firing.
pub fn null_control(baseline: &[&[f64]], seed: u64) -> Check {
    let pairs: Vec<(&[f64], &[f64])> = baseline.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    let effects: Vec<f64> = pairs.iter().filter_map(|(one, next)| ln_ratio(one, next, false)).collect();
    let tested = if signs_suffice(effects.len()) {
        Tested::of_differences(&effects, seed)
    } else {
        let (ones, nexts): (Vec<f64>, Vec<f64>) =
            pairs.iter().map(|(one, next)| (level(one), level(next))).unzip();
        Tested::of_two_samples(&ones, &nexts, seed)
    };
    let shift = median(&effects).unwrap_or_default();
    control("the baseline of every second block against the one before", tested, shift)
}

/// The null control of trials without blocks: the baseline's second half against its first. A host that changed
/// between them may have changed between the arms.
pub fn null_control_of_halves(baseline: &[&[f64]], seed: u64) -> Check {
    let (first, second) = baseline.split_at(baseline.len() / 2);
    let levels = |half: &[&[f64]]| half.iter().map(|sweep| level(sweep)).collect::<Vec<f64>>();
    let tested = Tested::of_two_samples(&levels(first), &levels(second), seed);
    let pairs = first.iter().flat_map(|a| second.iter().filter_map(|b| ln_ratio(a, b, false)));
    let shift = median(&pairs.collect::<Vec<f64>>()).unwrap_or_default();
    control("the baseline's second half against its first", tested, shift)
}

/// The logarithm of a sweep's middle pause.
fn level(sweep: &[f64]) -> f64 {
    median(&sweep.iter().map(|pause_ms| pause_ms.ln()).collect::<Vec<f64>>()).unwrap_or_default()
}

fn control(what: &str, tested: Tested, shift: f64) -> Check {
    let fired = tested.is_small() && shift.abs() > REGRESS_RATIO.ln();
    let Tested { p, can_fire } = tested;
    Check { name: "null control", p, can_fire, fired, found: format!("{what}: {}", percent(shift)) }
}

/// A way in which other processes use the host.
struct Usage {
    name: &'static str,
    of: fn(&Host) -> Option<f64>,
    /// By how much it may differ between the arms.
    limit: f64,
    say: fn(f64) -> String,
}

const USAGES: [Usage; 2] = [
    Usage {
        name: "load on one arm",
        of: |host| host.foreign_cpu_share,
        limit: MAX_CPU_IMBALANCE,
        say: |share| format!("other processes took {:.0} % of the processors' time", share * 100.0),
    },
    Usage {
        name: "writing on one arm",
        of: |host| host.foreign_written_mib_s,
        limit: MAX_WRITE_IMBALANCE_MIB_S,
        say: |rate| format!("other processes wrote {rate:.0} MiB/s"),
    },
];

impl Usage {
    fn check(&self, tested: Tested, more: f64) -> Check {
        let Self { name, limit, say, .. } = *self;
        let fired = tested.is_small() && more.abs() > limit;
        let word = if more < 0.0 { "less" } else { "more" };
        let found = format!("{} {word} during the candidate's sweeps", say(more.abs()));
        let Tested { p, can_fire } = tested;
        Check { name, p, can_fire, fired, found }
    }
}

/// Whether other processes used the host during one arm of the blocks more than during the other. Nothing of a way of
/// which nothing is known.
pub fn load(blocks: &[&Block], seed: u64) -> Vec<Check> {
    let check = |usage: &Usage| {
        let known = blocks.iter().filter_map(|block| block.conditions);
        let differences: Vec<f64> =
            known.filter_map(|both| Some((usage.of)(&both.b)? - (usage.of)(&both.a)?)).collect();
        let more = median(&differences)?;
        Some(usage.check(Tested::of_differences(&differences, seed), more))
    };
    USAGES.iter().filter_map(check).collect()
}

/// The same of trials without blocks.
pub fn load_of_trials(a: &[&Trial], b: &[&Trial], seed: u64) -> Vec<Check> {
    let check = |usage: &Usage| {
        let of = |trials: &[&Trial]| -> Vec<f64> {
            trials.iter().filter_map(|trial| (usage.of)(&trial.host?)).collect()
        };
        let (a, b) = (of(a), of(b));
        let more = median(&b)? - median(&a)?;
        Some(usage.check(Tested::of_two_samples(&a, &b, seed), more))
    };
    USAGES.iter().filter_map(check).collect()
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
        let ten = order(&second_is_slower[..10], &b_first[..10], 0);
        assert!(ten.fired && ten.can_fire, "{ten:?}");
        let eight = order(&second_is_slower[..8], &b_first[..8], 0);
        assert!(!eight.fired && !eight.can_fire, "{eight:?}");
        let slower: Vec<f64> = (0..20).map(|i| 0.3 + noise(i)).collect();
        assert!(!order(&slower, &b_first, 0).fired);
        assert!(order(&slower, &[true; 20], 0).fired, "one order alone cannot be told from the arms");
    }

    #[test]
    fn a_baseline_that_differs_from_itself_fires_from_ten_sweeps_on() {
        let sweeps = |level: fn(u32) -> f64| -> Vec<Vec<f64>> {
            (0..20).map(|i| vec![level(i) + f64::from(i) * 1e-3; 6]).collect()
        };
        let check = |check: fn(&[&[f64]], u64) -> Check, sweeps: &[Vec<f64>]| {
            check(&sweeps.iter().map(Vec::as_slice).collect::<Vec<_>>(), 0)
        };
        let alternating = sweeps(|i| if i % 2 == 0 { 10.0 } else { 12.0 });
        let half_way = sweeps(|i| if i < 10 { 10.0 } else { 12.0 });
        for count in [10, 12, 16, 20] {
            assert!(check(null_control, &alternating[..count]).fired, "{count} blocks");
        }
        let eight = check(null_control, &alternating[..8]);
        assert!(!eight.fired && !eight.can_fire, "{eight:?}");
        assert!(!check(null_control, &half_way).fired, "blocks cancel what changes from one to another");
        assert!(!check(null_control, &half_way[6..16]).fired, "and so do five pairs of them");
        assert!(check(null_control_of_halves, &half_way).fired);
        assert!(check(null_control_of_halves, &half_way[5..15]).fired);
        assert!(!check(null_control_of_halves, &half_way[6..14]).can_fire);
        assert!(!check(null_control_of_halves, &alternating).fired);
        assert!(!check(null_control_of_halves, &half_way[..10]).fired, "a change below the margin");
    }

    #[test]
    fn load_beside_the_trials_of_one_arm_fires_and_unknown_load_is_not_judged() {
        let trials = |cpu_share: Option<f64>| -> Vec<Trial> {
            let trial = |index: u32| Trial {
                pauses_ms: vec![1.0],
                host: Some(Host {
                    foreign_cpu_share: cpu_share.map(|share| share + f64::from(index) * 1e-4),
                    ..Host::default()
                }),
            };
            (0..8).map(trial).collect()
        };
        let checks = |a: Option<f64>, b: Option<f64>| {
            let (a, b) = (trials(a), trials(b));
            load_of_trials(&a.iter().collect::<Vec<_>>(), &b.iter().collect::<Vec<_>>(), 0)
        };
        let loaded = checks(Some(0.0), Some(0.5));
        assert_eq!(
            loaded.iter().map(|check| (check.name, check.fired)).collect::<Vec<_>>(),
            [("load on one arm", true)]
        );
        assert!(!checks(Some(0.5), Some(0.5))[0].fired);
        assert_eq!(checks(None, Some(0.5)), []);
    }
}
