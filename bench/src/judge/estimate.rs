//! Hodges-Lehmann estimates and their upper bounds.

use reports::stats::Spread;

/// The middle value; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    Spread::of(values.iter().copied()).map(|spread| spread.median)
}

/// Means of all pairs of `values`, each value with itself too (Walsh averages), in descending order.
pub fn walsh_averages(values: &[f64]) -> Vec<f64> {
    let mut averages = Vec::with_capacity(values.len() * (values.len() + 1) / 2);
    for (at, first) in values.iter().enumerate() {
        averages.extend(values[at..].iter().map(|second| f64::midpoint(*first, *second)));
    }
    averages.sort_by(|a, b| b.total_cmp(a));
    averages
}

/// Of figures in descending order: the median, and the upper bound that belongs to the critical value
/// `critical`, which is the next figure after so many of the largest. Infinite where even the largest would not
/// do.
///
/// Hollander, Wolfe and Chicken, Nonparametric Statistical Methods, 3rd edition, sections 3.2, 3.3, 4.2 and 4.3.
pub fn with_upper_bound(descending: &[f64], critical: Option<usize>) -> Option<(f64, f64)> {
    let estimate = median(descending)?;
    let bound = critical.and_then(|critical| descending.get(critical)).copied();
    Some((estimate, bound.unwrap_or(f64::INFINITY)))
}

#[cfg(test)]
mod tests {
    use super::{walsh_averages, with_upper_bound};

    #[test]
    fn averages_of_three_values() {
        assert_eq!(walsh_averages(&[1.0, 3.0, 8.0]), [8.0, 5.5, 4.5, 3.0, 2.0, 1.0]);
        assert_eq!(with_upper_bound(&[8.0, 5.5, 4.5, 3.0, 2.0, 1.0], Some(1)), Some((3.75, 5.5)));
    }

    #[test]
    fn without_a_critical_value_nothing_is_excluded() {
        assert_eq!(with_upper_bound(&[2.0], None), Some((2.0, f64::INFINITY)));
        assert_eq!(with_upper_bound(&[], Some(0)), None);
    }
}
