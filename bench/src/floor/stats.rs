//! Estimators that make no assumption about the shape of a distribution.

use reports::stats::Spread;

/// Resamples of a bootstrap.
const RESAMPLES: usize = 2000;
/// Two-sided 95 % of the standard normal distribution.
const Z_95: f64 = 1.959_964;

/// An estimate and its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The estimate.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// The smallest of `values` that at least the share `share` of them does not exceed (nearest rank): a figure
/// that occurred, not one in between. `None` of nothing.
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank.min(sorted.len()).checked_sub(1)?).copied()
}

/// The middle value.
pub fn median(values: &[f64]) -> Option<f64> {
    Spread::of(values.iter().copied()).map(|spread| spread.median)
}

/// Median of the second figures over median of the first, with a percentile bootstrap over the pairs: a pair is
/// drawn as a whole, so that what moved both of its figures widens nothing. `None` of nothing.
///
/// Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.
pub fn ratio_of_medians(pairs: &[(f64, f64)], seed: u64) -> Option<Estimate> {
    of_medians(pairs, seed, |first, second| second / first)
}

/// As [`ratio_of_medians`], the second median less the first.
pub fn difference_of_medians(pairs: &[(f64, f64)], seed: u64) -> Option<Estimate> {
    of_medians(pairs, seed, |first, second| second - first)
}

fn of_medians(pairs: &[(f64, f64)], seed: u64, compare: fn(f64, f64) -> f64) -> Option<Estimate> {
    let of = |pairs: &[(f64, f64)]| {
        let (first, second): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
        Some(compare(median(&first)?, median(&second)?))
    };
    let value = of(pairs)?;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut resampled = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        let drawn: Vec<_> = (0..pairs.len()).map(|_| pairs[random.usize(..pairs.len())]).collect();
        resampled.push(of(&drawn)?);
    }
    Some(Estimate { value, low: quantile(&resampled, 0.025)?, high: quantile(&resampled, 0.975)? })
}

/// The median of the slopes between any two of `values`, by their distance in the series (Theil and Sen), with
/// Sen's interval from the variance of Kendall's S. `None` of fewer than three values.
///
/// Sen, Estimates of the Regression Coefficient Based on Kendall's Tau, JASA 63 (1968).
pub fn trend(values: &[f64]) -> Option<Estimate> {
    let n = values.len();
    if n < 3 {
        return None;
    }
    let mut slopes = Vec::with_capacity(n * (n - 1) / 2);
    for (at, earlier) in values.iter().enumerate() {
        let later = values[at + 1..].iter().enumerate();
        slopes.extend(later.map(|(distance, later)| (later - earlier) / (distance + 1) as f64));
    }
    slopes.sort_by(f64::total_cmp);
    let (count, n) = (slopes.len() as f64, n as f64);
    let width = Z_95 * (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt();
    let at = |rank: f64| slopes[(rank.round().max(0.0) as usize).min(slopes.len() - 1)];
    let (low, high) = (at((count - width) / 2.0 - 1.0), at((count + width) / 2.0));
    Some(Estimate { value: median(&slopes)?, low, high })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{difference_of_medians, median, quantile, ratio_of_medians, trend};

    #[test]
    fn quantiles_are_figures_that_occurred() {
        let values: Vec<f64> = (1..=300).map(f64::from).collect();
        assert_eq!(quantile(&values, 0.99), Some(297.0));
        assert_eq!(quantile(&values, 1.0), Some(300.0));
        assert_eq!(quantile(&values, 0.0), Some(1.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn a_common_disturbance_of_both_figures_of_a_pair_does_not_widen_the_ratio() {
        // The host grows slower by a factor of three; each second figure is half as much again.
        let pairs: Vec<_> = (0..200).map(|n| 5.0 + f64::from(n) / 20.0).map(|ms| (ms, ms * 1.5)).collect();
        let ratio = ratio_of_medians(&pairs, 1).unwrap();
        assert!((ratio.value - 1.5).abs() < 1e-9 && (ratio.high - ratio.low) < 1e-9, "{ratio:?}");
        assert_eq!(ratio_of_medians(&pairs, 1), ratio_of_medians(&pairs, 1));
        let shifted: Vec<_> = pairs.iter().map(|(ms, _)| (*ms, ms + 0.2)).collect();
        let difference = difference_of_medians(&shifted, 1).unwrap();
        assert!((difference.value - 0.2).abs() < 1e-9 && difference.high < 0.2 + 1e-9, "{difference:?}");
        assert_eq!(ratio_of_medians(&[], 1), None);
    }

    #[test]
    fn a_line_has_its_slope_and_outliers_do_not_tilt_it() {
        let mut values: Vec<f64> = (0..101).map(|n| 3.0 + 0.25 * f64::from(n)).collect();
        assert_eq!(trend(&values).unwrap().value, 0.25);
        for at in [3, 40, 90] {
            values[at] = 500.0;
        }
        let tilted = trend(&values).unwrap();
        assert!((tilted.value - 0.25).abs() < 0.01 && tilted.low > 0.2, "{tilted:?}");
        assert_eq!(trend(&[1.0, 2.0]), None);
    }

    #[test]
    fn noise_alone_has_no_trend_in_about_nineteen_of_twenty_series() {
        let covered = (0..200).filter(|seed| {
            let mut random = fastrand::Rng::with_seed(*seed);
            let values: Vec<f64> = (0..60).map(|_| random.f64()).collect();
            let trend = trend(&values).unwrap();
            trend.low <= 0.0 && trend.high >= 0.0
        });
        assert!((180..=199).contains(&covered.count()));
    }

    #[test]
    fn the_interval_of_a_ratio_covers_it_in_about_nineteen_of_twenty_runs() {
        let covered = (0..100).filter(|seed| {
            let mut random = fastrand::Rng::with_seed(*seed);
            let mut figure = |scale: f64| scale * (1.0 + random.f64());
            let pairs: Vec<_> = (0..80).map(|_| (figure(2.0), figure(3.0))).collect();
            let ratio = ratio_of_medians(&pairs, *seed).unwrap();
            ratio.low <= 1.5 && ratio.high >= 1.5
        });
        assert!((88..=100).contains(&covered.count()));
    }

    proptest! {
        #[test]
        fn estimates_scale_with_their_figures_and_lie_in_their_intervals(
            values in prop::collection::vec(0.1..100.0_f64, 3..40), factor in 0.5..4.0_f64,
        ) {
            let scaled: Vec<f64> = values.iter().map(|value| value * factor).collect();
            let (plain, scaled_trend) = (trend(&values).unwrap(), trend(&scaled).unwrap());
            prop_assert!((plain.value * factor - scaled_trend.value).abs() < 1e-6);
            prop_assert!(plain.low <= plain.value && plain.value <= plain.high);
            prop_assert!(quantile(&values, 0.5).unwrap() <= quantile(&values, 0.99).unwrap());
            let pairs: Vec<_> = values.iter().copied().zip(scaled).collect();
            let ratio = ratio_of_medians(&pairs, 7).unwrap();
            prop_assert!((ratio.value - factor).abs() < 1e-6);
            prop_assert!(median(&values).unwrap() > 0.0);
        }
    }
}
