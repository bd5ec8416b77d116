//! Exact tests and bounds on counts.

/// One-sided exact McNemar test: how likely at least `b_only` of the discordant pairs fall to the candidate by
/// chance, where each falls to either arm alike. 1 where none is discordant.
pub fn mcnemar(a_only: usize, b_only: usize) -> f64 {
    binomial_at_least(a_only + b_only, b_only, 0.5)
}

/// One-sided exact test of Fisher: how likely at least `b_hits` of the hits fall to the candidate's `b` trials by
/// chance.
pub fn fisher(a_hits: usize, a: usize, b_hits: usize, b: usize) -> f64 {
    let hits = a_hits + b_hits;
    let all = ln_choose(a + b, hits);
    let ways = (b_hits..=hits.min(b)).filter(|count| hits - count <= a);
    ways.map(|count| (ln_choose(b, count) + ln_choose(a, hits - count) - all).exp()).sum::<f64>().min(1.0)
}

/// An interval for a share.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Bounds {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// The Clopper-Pearson interval of `hits` of `trials`, with `error` on each side.
pub fn clopper_pearson(hits: usize, trials: usize, error: f64) -> Bounds {
    let low = match hits {
        0 => 0.0,
        _ => bisect(|share| binomial_at_least(trials, hits, share) < error),
    };
    let high = match hits {
        _ if hits >= trials => 1.0,
        _ => bisect(|share| 1.0 - binomial_at_least(trials, hits + 1, share) > error),
    };
    Bounds { low, high }
}

/// Where `below` turns from true to false between 0 and 1.
fn bisect(below: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if below(middle) { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// How likely `hits` or more of `trials` are, each with the chance `share`.
fn binomial_at_least(trials: usize, hits: usize, share: f64) -> f64 {
    if hits == 0 {
        return 1.0;
    }
    if share <= 0.0 {
        return 0.0;
    }
    if share >= 1.0 {
        return 1.0;
    }
    let term = |count: usize| {
        let (yes, no) = (count as f64, (trials - count) as f64);
        (ln_choose(trials, count) + yes * share.ln() + no * (-share).ln_1p()).exp()
    };
    (hits..=trials).map(term).sum::<f64>().min(1.0)
}

fn ln_choose(n: usize, k: usize) -> f64 {
    let k = k.min(n - k);
    (0..k).map(|i| ((n - i) as f64).ln() - ((i + 1) as f64).ln()).sum()
}

#[cfg(test)]
mod tests {
    use super::{clopper_pearson, fisher, mcnemar};

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-4, "{found} is not {expected}");
    }

    #[test]
    fn mcnemar_counts_discordant_pairs_alone() {
        near(mcnemar(0, 10), 1.0 / 1024.0);
        near(mcnemar(1, 7), 9.0 / 256.0);
        near(mcnemar(0, 0), 1.0);
        near(mcnemar(5, 0), 1.0);
    }

    #[test]
    fn fisher_of_the_lady_tasting_tea() {
        near(fisher(0, 4, 4, 4), 1.0 / 70.0);
        near(fisher(1, 4, 3, 4), 17.0 / 70.0);
        near(fisher(0, 8, 0, 8), 1.0);
    }

    #[test]
    fn bounds_of_no_hit_and_of_some() {
        // No hit in n: 1 - error^(1/n). The rest from Clopper and Pearson's own charts, to four digits.
        near(clopper_pearson(0, 5, 0.05).high, 1.0 - 0.05_f64.powf(0.2));
        near(clopper_pearson(5, 5, 0.05).low, 0.05_f64.powf(0.2));
        near(clopper_pearson(2, 10, 0.025).low, 0.02521);
        near(clopper_pearson(2, 10, 0.025).high, 0.55610);
    }
}
