//! Whether the pauses of a sandbox grow from BRANCH to BRANCH.
//!
//! Two robust measures must agree over the last 8 to 12 pauses: the Mann-Kendall test says that they rise by more
//! than chance (Kendall, "Rank Correlation Methods", 1975), and the Theil-Sen line through them (Sen, "Estimates of
//! the regression coefficient based on Kendall's tau", 1968) at least doubles. Single outliers, however high, move
//! neither: the line withstands 29 % of them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::api::{BranchMode, DataPath};

/// Pauses that are looked at, the latest ones.
pub const WINDOW: usize = 12;
/// With fewer, no order of them is rare enough.
pub const AT_LEAST: usize = 8;
/// Standard normal quantile of a one-sided error of 0.05 %: every BRANCH is a test of its own, and a false alarm
/// teaches an operator to overlook the true one.
const SIGNIFICANT_Z: f64 = 3.29;
/// By how much the line must rise.
const GROWTH: f64 = 2.0;

/// A rise of pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trend {
    /// Pauses that it was seen over.
    pub branches: u32,
    /// The fitted line at the first of them; not less than the shortest pause.
    pub from_ns: u64,
    /// The fitted line at the last of them.
    pub to_ns: u64,
}

/// Whether `pauses_ns`, in the order of the BRANCHes, rise. `None` where they do not, or are too few to tell.
pub fn rise(pauses_ns: &[u64]) -> Option<Trend> {
    let n = pauses_ns.len();
    if n < AT_LEAST || mann_kendall_z(pauses_ns) < SIGNIFICANT_Z {
        return None;
    }
    let pauses: Vec<f64> = pauses_ns.iter().map(|ns| *ns as f64).collect();
    let slope = median(pairs(n).map(|(i, j)| (pauses[j] - pauses[i]) / (j - i) as f64).collect());
    let first = median(pauses.iter().enumerate().map(|(i, pause)| pause - slope * i as f64).collect());
    let last = first + slope * (n - 1) as f64;
    if last < GROWTH * first {
        return None;
    }
    // A line through pauses that grow ever faster may begin below all of them.
    let shortest = *pauses_ns.iter().min()?;
    Some(Trend { branches: n as u32, from_ns: (first as u64).max(shortest), to_ns: last as u64 })
}

/// The test's statistic, which is standard normal where there is no trend. Ties are accounted for.
fn mann_kendall_z(values: &[u64]) -> f64 {
    let n = values.len();
    let s: i64 = pairs(n).map(|(i, j)| values[j].cmp(&values[i]) as i64).sum();
    let mut ties: HashMap<u64, f64> = HashMap::new();
    for value in values {
        *ties.entry(*value).or_default() += 1.0;
    }
    let term = |t: f64| t * (t - 1.0) * (2.0 * t + 5.0);
    let variance = (term(n as f64) - ties.values().map(|t| term(*t)).sum::<f64>()) / 18.0;
    if variance <= 0.0 { 0.0 } else { (s - s.signum()) as f64 / variance.sqrt() }
}

fn pairs(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).flat_map(move |i| (i + 1..n).map(move |j| (i, j)))
}

/// Of at least one value, none of which is NaN.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

/// What a pause is compared with: only BRANCHes of one kind have pauses of one kind.
type Key = (BranchMode, DataPath);

/// The latest pauses of each sandbox.
#[derive(Debug, Default)]
pub struct Pauses(Mutex<HashMap<String, HashMap<Key, Window>>>);

#[derive(Debug, Default)]
struct Window {
    pauses_ns: VecDeque<u64>,
    rising: bool,
}

/// What a pause says together with those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rising {
    /// The rise.
    pub trend: Trend,
    /// Whether the pause before this one did not say so.
    pub is_first: bool,
}

impl Pauses {
    /// Notes a pause; says whether it and those before it rise.
    pub fn note(&self, sandbox: &str, key: Key, pause_ns: u64) -> Option<Rising> {
        let mut sandboxes = self.lock();
        let window = sandboxes.entry(sandbox.to_owned()).or_default().entry(key).or_default();
        window.pauses_ns.push_back(pause_ns);
        if window.pauses_ns.len() > WINDOW {
            window.pauses_ns.pop_front();
        }
        let trend = rise(window.pauses_ns.make_contiguous());
        let was_rising = std::mem::replace(&mut window.rising, trend.is_some());
        trend.map(|trend| Rising { trend, is_first: !was_rising })
    }

    /// Forgets a sandbox that is no more.
    pub fn forget(&self, sandbox: &str) {
        self.lock().remove(sandbox);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, HashMap<Key, Window>>> {
        // Nothing that holds the lock can leave a window half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{AT_LEAST, Pauses, WINDOW, mann_kendall_z, rise};
    use crate::api::{BranchMode, DataPath};

    const MS: u64 = 1_000_000;

    #[test]
    fn the_fields_own_numbers_are_told_apart() {
        let check = |pauses_ms: &[u64], expected: bool| {
            let pauses: Vec<u64> = pauses_ms.iter().map(|ms| ms * MS).collect();
            assert_eq!(rise(&pauses).is_some(), expected, "{pauses_ms:?}");
        };
        check(&[110, 135, 150, 190, 210, 235, 260, 300, 310, 335], true);
        check(&[8, 7, 6, 6, 6, 6, 8, 7, 6, 54, 6, 7], false);
        // Rises by less than double.
        check(&[10, 11, 12, 13, 14, 15, 16, 17, 18, 19], false);
        // Too few to tell.
        check(&[1, 2, 4, 8, 16, 32, 64], false);
        check(&[1, 2, 4, 8, 16, 32, 64, 128], true);
        check(&[0, 0, 0, 0, 0, 0, 0, 0], false);
    }

    #[test]
    fn the_statistic_is_that_of_a_worked_example() {
        // 8 values in order: S = 28, variance 8 * 7 * 21 / 18.
        let expected = 27.0 / (8.0 * 7.0 * 21.0_f64 / 18.0).sqrt();
        assert!((mann_kendall_z(&[1, 2, 3, 4, 5, 6, 7, 8]) - expected).abs() < 1e-12);
        // Two ties: of the six pairs two are level and four rise.
        let tied = (4.0 * 3.0 * 13.0 - 2.0 * (2.0 * 1.0 * 9.0_f64)) / 18.0;
        assert!((mann_kendall_z(&[1, 1, 2, 2]) - 3.0 / tied.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn noise_with_outliers_raises_no_alarm() {
        // A fixed generator (Knuth's MMIX constants): the count below is a property of it, not of chance.
        let mut state = 7_u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut alarms_of = |spread_ms: u64| {
            let mut alarms = 0;
            for _ in 0..20_000 {
                let mut window: Vec<u64> = (0..WINDOW).map(|_| 6 * MS + random(spread_ms * MS)).collect();
                for _ in 0..random(4) {
                    window[random(WINDOW as u64) as usize] *= 1 + random(50);
                }
                alarms += u32::from(rise(&window).is_some());
            }
            alarms
        };
        assert_eq!(alarms_of(4), 0, "pauses of 6 to 10 ms");
        // Where noise alone doubles a pause, hardly ever.
        assert!(alarms_of(6) <= 2, "pauses of 6 to 12 ms");
    }

    #[test]
    fn the_begin_of_a_rise_is_told_once_and_kinds_are_not_mixed() {
        let pauses = Pauses::default();
        let diff = (BranchMode::Diff, DataPath::Stage);
        let mut firsts = 0;
        for k in 1..=12 {
            let full = pauses.note("sb", (BranchMode::Full, DataPath::Stage), 900 * MS);
            assert_eq!(full, None);
            firsts += usize::from(pauses.note("sb", diff, k * MS).is_some_and(|rising| rising.is_first));
        }
        assert_eq!(firsts, 1);
        pauses.forget("sb");
        assert_eq!(pauses.note("sb", diff, 100 * MS), None);
    }

    proptest! {
        #[test]
        fn what_rises_does_not_rise_backwards(pauses in proptest::collection::vec(1..1_000_000_000_u64, 0..16)) {
            let mut backwards = pauses.clone();
            backwards.reverse();
            prop_assert!(rise(&pauses).is_none() || rise(&backwards).is_none());
        }

        #[test]
        fn the_unit_does_not_matter(
            pauses in proptest::collection::vec(1..1_000_u64, AT_LEAST..=WINDOW), doublings in 0..20_u32,
        ) {
            // By powers of two, which floating point does exactly.
            let scaled: Vec<u64> = pauses.iter().map(|pause| pause << doublings).collect();
            prop_assert_eq!(rise(&pauses).is_some(), rise(&scaled).is_some());
        }

        #[test]
        fn a_level_pause_with_two_outliers_does_not_rise(
            level in 1..1_000_000_u64, n in AT_LEAST..=WINDOW,
            outliers in proptest::collection::vec((0..WINDOW, any::<u32>()), 0..=2),
        ) {
            let mut pauses = vec![level; n];
            for (index, height) in outliers {
                pauses[index % n] = u64::from(height);
            }
            prop_assert!(rise(&pauses).is_none());
        }

        #[test]
        fn a_steady_rise_to_double_is_found_through_noise_and_an_outlier(
            n in AT_LEAST..=WINDOW, factor in 250..1_000_u64, outlier in 3..WINDOW,
        ) {
            // To `factor` % of the first, each pause at most 1 % off the line.
            let at = |i: usize| 10_000 + 100 * (factor - 100) * i as u64 / (n as u64 - 1);
            let mut pauses: Vec<u64> = (0..n).map(|i| at(i) + (i as u64 * 37) % (at(i) / 100)).collect();
            prop_assert!(rise(&pauses).is_some());
            // In a full window one pause that is not among the first three may be anything.
            if n == WINDOW {
                pauses[outlier] *= 20;
                prop_assert!(rise(&pauses).is_some());
            }
        }
    }
}
