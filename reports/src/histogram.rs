//! Durations by powers of two.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::units::duration;

/// How many durations lie in each power of two of nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Histogram(
    /// Counts by the lower bound of their bucket in nanoseconds: 0, 1, 2, 4, 8 and so on. The upper bound is
    /// twice that, and is not in the bucket. Empty buckets are left out.
    BTreeMap<u64, u64>,
);

impl Histogram {
    /// Counts one duration.
    pub fn add(&mut self, ns: u64) {
        let from_ns = if ns == 0 { 0 } else { 1 << ns.ilog2() };
        *self.0.entry(from_ns).or_default() += 1;
    }

    /// Adds the counts of another.
    pub fn merge(&mut self, other: &Self) {
        for (from_ns, count) in &other.0 {
            *self.0.entry(*from_ns).or_default() += count;
        }
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// One bar a bucket, the longest of `width` characters, buckets of no count between others included.
    pub fn bars(&self, width: u64) -> Vec<String> {
        let (Some((first, _)), Some((last, _))) = (self.0.first_key_value(), self.0.last_key_value()) else {
            return Vec::new();
        };
        let most = self.0.values().copied().max().unwrap_or(1);
        let buckets = std::iter::successors(Some(*first), |from| (from < last).then(|| (from * 2).max(1)));
        buckets
            .map(|from_ns| {
                let count = self.0.get(&from_ns).copied().unwrap_or(0);
                let bar = "#".repeat((count * width).div_ceil(most) as usize);
                format!("{:>8} {count:>8} {bar}", duration(from_ns)).trim_end().to_owned()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Histogram;

    #[test]
    fn a_bucket_holds_its_lower_bound_and_not_its_upper() {
        let mut histogram = Histogram::default();
        for ns in [0, 1, 2, 3, 4, 7, 8, u64::MAX] {
            histogram.add(ns);
        }
        let json = serde_json::to_string(&histogram).unwrap();
        assert_eq!(json, r#"{"0":1,"1":1,"2":2,"4":2,"8":1,"9223372036854775808":1}"#);
        assert_eq!(histogram.count(), 8);
        assert_eq!(serde_json::from_str::<Histogram>(&json).unwrap(), histogram);
    }

    #[test]
    fn bars_show_the_empty_buckets_between() {
        let mut histogram = Histogram::default();
        for ns in [1024, 1024, 4096] {
            histogram.add(ns);
        }
        assert_eq!(
            histogram.bars(4),
            [" 1.02 us        2 ####", " 2.05 us        0", " 4.10 us        1 ##"]
        );
        assert!(Histogram::default().bars(4).is_empty());
    }
}
