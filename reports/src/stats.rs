//! The few order statistics that tables and pictures show.

/// Smallest, median and largest of one set of figures.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spread {
    /// The smallest.
    pub min: f64,
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// The spread of `values`, `None` of nothing.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        };
        Some(Self { min, median, max })
    }
}

/// The smallest of `values` that the share `part` of them (0 to 1) does not exceed, `None` of nothing. Always one of
/// the values: nothing is interpolated.
pub fn quantile(mut values: Vec<f64>, part: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (part * values.len() as f64).ceil() as usize;
    values.get(rank.max(1) - 1).or(values.last()).copied()
}

#[cfg(test)]
mod tests {
    use super::{Spread, quantile};

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(quantile(hundred.clone(), 0.95), Some(95.0));
        assert_eq!((quantile(hundred.clone(), 0.0), quantile(hundred, 1.0)), (Some(1.0), Some(100.0)));
        assert_eq!((quantile(vec![3.0, 1.0], 0.95), quantile(Vec::new(), 0.5)), (Some(3.0), None));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(Spread::of([9.0, 1.0, 2.0, 4.0]), Some(Spread { min: 1.0, median: 3.0, max: 9.0 }));
        assert_eq!(Spread::of([5.0]), Some(Spread { min: 5.0, median: 5.0, max: 5.0 }));
        assert_eq!(Spread::of([]), None);
    }
}
