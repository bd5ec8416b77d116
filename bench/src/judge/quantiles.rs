//! The figures of an arm that people ask for. They are reported, and decide nothing.

/// Of all pauses of an arm: figures that occurred (nearest rank), none left out.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Quantiles {
    /// How many there were.
    pub count: usize,
    /// Half are not longer.
    pub p50_ms: f64,
    /// 95 of 100 are not longer.
    pub p95_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Quantiles {
    /// `None` of nothing.
    pub fn of(pauses_ms: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = pauses_ms.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).max(1) - 1).copied();
        Some(Self { count: sorted.len(), p50_ms: at(50)?, p95_ms: at(95)?, max_ms: at(100)? })
    }
}

#[cfg(test)]
mod tests {
    use super::Quantiles;

    #[test]
    fn the_longest_is_never_left_out() {
        let quantiles = Quantiles::of((1..=20).map(f64::from)).unwrap();
        let expected = Quantiles { count: 20, p50_ms: 10.0, p95_ms: 19.0, max_ms: 20.0 };
        assert_eq!(quantiles, expected);
        assert_eq!(Quantiles::of([]), None);
    }
}
