//! What rank statistics do where there is no difference: by counting every outcome where that is feasible, else
//! by drawing outcomes with a seed.

/// Blocks up to which every pattern of signs is counted.
const EXACT_SIGNS: usize = 200;
/// Trials of both arms together up to which every assignment to the arms is counted.
const EXACT_LABELS: usize = 60;
/// Outcomes that are drawn above that.
const DRAWS: u32 = 20_000;

/// Ranks times two, so that ties, which share the mean of their ranks, stay whole numbers.
pub fn doubled_ranks(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0; values.len()];
    let mut at = 0;
    while at < order.len() {
        let tied = order[at..].iter().take_while(|&&i| values[i] == values[order[at]]).count().max(1);
        for &i in &order[at..at + tied] {
            // First rank of the tie plus its last: at + 1 + at + tied.
            ranks[i] = 2 * at + tied + 1;
        }
        at += tied;
    }
    ranks
}

/// The distribution of a sum of doubled ranks under the null hypothesis.
#[derive(Debug)]
pub struct Null {
    /// Probability, or number of draws, of each sum.
    weight: Vec<f64>,
    draws: Option<u32>,
}

impl Null {
    /// Each rank counts or does not with the same chance: signs of paired differences flipped.
    pub fn of_signs(ranks: &[usize], seed: u64) -> Self {
        let mut weight = vec![0.0; ranks.iter().sum::<usize>() + 1];
        if ranks.len() > EXACT_SIGNS {
            let mut random = fastrand::Rng::with_seed(seed);
            for _ in 0..DRAWS {
                weight[ranks.iter().filter(|_| random.bool()).sum::<usize>()] += 1.0;
            }
            return Self { weight, draws: Some(DRAWS) };
        }
        weight[0] = 1.0;
        let mut highest = 0;
        for &rank in ranks {
            for sum in (0..=highest).rev() {
                let half = weight[sum] / 2.0;
                weight[sum] = half;
                weight[sum + rank] += half;
            }
            highest += rank;
        }
        Self { weight, draws: None }
    }

    /// Any `chosen` of the ranks with the same chance: labels of unpaired trials shuffled.
    pub fn of_labels(ranks: &[usize], chosen: usize, seed: u64) -> Self {
        let total: usize = ranks.iter().sum();
        if ranks.len() > EXACT_LABELS {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut weight, mut shuffled) = (vec![0.0; total + 1], ranks.to_vec());
            for _ in 0..DRAWS {
                random.shuffle(&mut shuffled);
                weight[shuffled[..chosen].iter().sum::<usize>()] += 1.0;
            }
            return Self { weight, draws: Some(DRAWS) };
        }
        let subsets = count_subsets(ranks, chosen, total);
        let all: f64 = subsets.iter().sum();
        Self { weight: subsets.iter().map(|count| count / all).collect(), draws: None }
    }

    /// How likely a sum of at least `sum` is.
    pub fn at_least(&self, sum: usize) -> f64 {
        let tail: f64 = self.weight.iter().skip(sum).sum();
        match self.draws {
            // What was observed is one of the outcomes.
            Some(draws) => (tail + 1.0) / (f64::from(draws) + 1.0),
            None => tail.min(1.0),
        }
    }

    /// The largest sum (doubled) that stays within `error`: sums up to it are together at most so likely.
    /// `None` where even the smallest sum is likelier.
    pub fn critical(&self, error: f64) -> Option<usize> {
        let scale = self.draws.map_or(1.0, f64::from);
        let (mut tail, mut critical) = (0.0, None);
        for (sum, weight) in self.weight.iter().enumerate() {
            tail += weight / scale;
            if tail > error {
                break;
            }
            critical = Some(sum);
        }
        critical
    }
}

/// Number of subsets of `chosen` ranks, by their sum.
fn count_subsets(ranks: &[usize], chosen: usize, total: usize) -> Vec<f64> {
    let mut by_size = vec![vec![0.0; total + 1]; chosen + 1];
    by_size[0][0] = 1.0;
    for &rank in ranks {
        for size in (1..=chosen).rev() {
            let (smaller, larger) = by_size.split_at_mut(size);
            for sum in rank..=total {
                larger[0][sum] += smaller[size - 1][sum - rank];
            }
        }
    }
    by_size.swap_remove(chosen)
}

/// The critical value of the signed-rank statistic of `n` differences without ties, in whole ranks.
pub fn critical_signed_rank(n: usize, error: f64, seed: u64) -> Option<usize> {
    let ranks: Vec<usize> = (1..=n).map(|rank| 2 * rank).collect();
    Null::of_signs(&ranks, seed).critical(error).map(|doubled| doubled / 2)
}

/// The critical value of the Mann-Whitney statistic of `m` against `n` figures without ties.
pub fn critical_mann_whitney(m: usize, n: usize, error: f64, seed: u64) -> Option<usize> {
    let ranks: Vec<usize> = (1..=m + n).map(|rank| 2 * rank).collect();
    let smallest = m * (m + 1) / 2;
    let critical = Null::of_labels(&ranks, m, seed).critical(error)? / 2;
    critical.checked_sub(smallest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_share_the_mean_of_their_ranks() {
        assert_eq!(doubled_ranks(&[5.0, 1.0, 5.0, 0.5]), [7, 4, 7, 2]);
        assert_eq!(doubled_ranks(&[]), [0; 0]);
    }

    #[test]
    fn signs_of_three_ranks_are_eight_outcomes() {
        let null = Null::of_signs(&[2, 4, 6], 0);
        // Sums 0 1 2 3 3 4 5 6 of the ranks 1 2 3.
        assert_eq!(null.at_least(12), 1.0 / 8.0);
        assert_eq!(null.at_least(6), 5.0 / 8.0);
        assert_eq!(null.critical(0.25), Some(3));
        assert_eq!(null.critical(0.1), None);
    }

    #[test]
    fn critical_values_are_those_of_the_printed_tables() {
        // Hollander, Wolfe and Chicken, tables A.4 and A.6, one-sided: T+ of 10 and 20 pairs, U of 5 against 5
        // and 8 against 8.
        assert_eq!(critical_signed_rank(10, 0.05, 0), Some(10));
        assert_eq!(critical_signed_rank(20, 0.05, 0), Some(60));
        assert_eq!(critical_signed_rank(8, 0.01, 0), Some(1));
        assert_eq!(critical_mann_whitney(5, 5, 0.05, 0), Some(4));
        assert_eq!(critical_mann_whitney(8, 8, 0.05, 0), Some(15));
        assert_eq!(critical_mann_whitney(2, 2, 0.05, 0), None);
    }

    #[test]
    fn drawn_outcomes_agree_with_counted_ones() {
        let ranks: Vec<usize> = (1..=EXACT_SIGNS + 1).map(|rank| 2 * rank).collect();
        let (exact, drawn) = (Null::of_signs(&ranks[..EXACT_SIGNS], 0), Null::of_signs(&ranks, 7));
        // One rank more moves the tail by little; 20,000 draws are within 0.01 of a probability near 0.05.
        let at = |null: &Null, n: f64| null.at_least((1.12 * n * (n + 1.0) / 2.0) as usize);
        let (exact, drawn) = (at(&exact, EXACT_SIGNS as f64), at(&drawn, EXACT_SIGNS as f64 + 1.0));
        assert!((exact - drawn).abs() < 0.01, "{exact} {drawn}");
    }
}
