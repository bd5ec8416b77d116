//! Holm's correction where several cells are judged at once.

/// Adjusts p values of one family: each is multiplied by the number of those not smaller, and none is less than
/// a smaller one's. In the order given.
///
/// Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 6 (1979).
pub fn adjust(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&i, &j| p_values[i].total_cmp(&p_values[j]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut least: f64 = 0.0;
    for (done, &at) in order.iter().enumerate() {
        least = least.max(p_values[at] * (p_values.len() - done) as f64).min(1.0);
        adjusted[at] = least;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::adjust;

    #[test]
    fn the_smallest_pays_for_all_and_none_overtakes() {
        let adjusted = adjust(&[0.01, 0.04, 0.03, 0.005]);
        for (found, expected) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!((found - expected).abs() < 1e-12, "{adjusted:?}");
        }
        assert_eq!(adjust(&[0.7]), [0.7]);
        assert_eq!(adjust(&[0.7, 0.9]), [1.0, 1.0]);
        assert!(adjust(&[]).is_empty());
    }
}
