//! Change points in a series of figures, by the energy statistic (E-divisive).
//!
//! Matteson and James, A Nonparametric Approach for Multiple Change Point Analysis of Multivariate Data, Journal
//! of the American Statistical Association 109 (2014).

use super::estimate::median;

/// Figures on each side of a change, at least.
const LEAST: usize = 4;
/// In fewer runs no step shows: of a step in the middle of ten, 1 shuffle in 126 is as good.
pub const MIN_RUNS: usize = 10;
/// Shuffles of a segment that a split is compared with.
const SHUFFLES: usize = 499;
/// A split that shuffles reach more often is none.
const ALPHA: f64 = 0.01;

/// A place where the series changes.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Change {
    /// Index of the first figure after it.
    pub at: usize,
    /// Median from the change before to this one.
    pub before: f64,
    /// Median from this change to the next.
    pub after: f64,
    /// How often a shuffled series splits so well.
    pub p: f64,
}

/// The changes of a series, in its order. `seed` draws the shuffles.
pub fn changes(series: &[f64], seed: u64) -> Vec<Change> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut splits = Vec::new();
    let mut open = vec![(0, series.len())];
    while let Some((begin, end)) = open.pop() {
        if let Some((at, p)) = split(&series[begin..end], &mut random) {
            splits.push((begin + at, p));
            open.extend([(begin, begin + at), (begin + at, end)]);
        }
    }
    splits.sort_by_key(|&(at, _)| at);
    let middle = |begin: usize, end: usize| median(&series[begin..end]).unwrap_or(f64::NAN);
    let change = |index: usize| {
        let (at, p) = splits[index];
        let begin = index.checked_sub(1).map_or(0, |before| splits[before].0);
        let end = splits.get(index + 1).map_or(series.len(), |next| next.0);
        Change { at, before: middle(begin, at), after: middle(at, end), p }
    };
    (0..splits.len()).map(change).collect()
}

/// Where a segment is best split, and the p value of that, unless shuffles are split as well.
fn split(segment: &[f64], random: &mut fastrand::Rng) -> Option<(usize, f64)> {
    let (at, energy) = best_split(segment)?;
    let mut shuffled = segment.to_vec();
    let mut reached = 0;
    for _ in 0..SHUFFLES {
        random.shuffle(&mut shuffled);
        reached += usize::from(best_split(&shuffled).is_some_and(|(_, other)| other >= energy));
    }
    let p = (reached + 1) as f64 / (SHUFFLES + 1) as f64;
    (p < ALPHA).then_some((at, p))
}

/// The split with the most energy between its sides, and that energy.
fn best_split(segment: &[f64]) -> Option<(usize, f64)> {
    let all = segment.len();
    let distance = |i: usize, j: usize| (segment[i] - segment[j]).abs();
    let to = |i: usize, range: std::ops::Range<usize>| range.map(|j| distance(i, j)).sum::<f64>();
    // Sums of distances within the left side, within the right side and between them; the left side is empty.
    let (mut left, mut between) = (0.0, 0.0);
    let mut right: f64 = (0..all).map(|i| to(i, i + 1..all)).sum();
    let mut best: Option<(usize, f64)> = None;
    for moved in 0..all {
        let (to_left, to_right) = (to(moved, 0..moved), to(moved, moved + 1..all));
        left += to_left;
        right -= to_right;
        between += to_right - to_left;
        let (n, m) = (moved + 1, all - moved - 1);
        if n < LEAST || m < LEAST {
            continue;
        }
        let (n_f, m_f) = (n as f64, m as f64);
        let mean = |sum: f64, n: f64| 2.0 * sum / (n * (n - 1.0));
        let apart = 2.0 * between / (n_f * m_f) - mean(left, n_f) - mean(right, m_f);
        let energy = n_f * m_f / (n_f + m_f) * apart;
        if best.is_none_or(|(_, most)| energy > most) {
            best = Some((n, energy));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::changes;

    fn series(levels: &[(usize, f64)], seed: u64) -> Vec<f64> {
        let mut random = fastrand::Rng::with_seed(seed);
        let repeated = levels.iter().flat_map(|&(count, level)| std::iter::repeat_n(level, count));
        repeated.map(|level| level + 0.1 * (random.f64() - 0.5)).collect()
    }

    #[test]
    fn each_step_is_found_where_it_is() {
        let found = changes(&series(&[(12, 2.0), (10, 2.3), (14, 1.9)], 1), 0);
        assert_eq!(found.iter().map(|change| change.at).collect::<Vec<_>>(), [12, 22]);
        assert!((found[0].before - 2.0).abs() < 0.05 && (found[0].after - 2.3).abs() < 0.05, "{found:?}");
    }

    #[test]
    fn a_level_series_has_no_change_and_a_single_outlier_is_none() {
        let mut level = series(&[(30, 2.0)], 2);
        assert_eq!(changes(&level, 0), []);
        level[15] = 9.0;
        assert_eq!(changes(&level, 0), []);
        assert_eq!(changes(&[], 0), []);
        assert_eq!(changes(&[1.0; 7], 0), []);
        assert_eq!(changes(&[1.0; 20], 0), []);
    }
}
