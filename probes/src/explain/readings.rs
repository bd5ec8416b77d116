//! Counters that only grow, read again and again while something is recorded: what each window took of them is the
//! difference of two readings around it. Pure.

/// Readings that are kept, at most: those of a minute or longer lie one pass apart.
const MOST: usize = 4_096;

/// What the counters said at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// When, in nanoseconds of CLOCK_MONOTONIC: not after any of the counters was read.
    pub time_ns: u64,
    /// Time that the probes' programs have run.
    pub run_ns: u64,
    /// Time that each cgroup was held back by its CPU quota, in the order of [`super::quota::Quotas`].
    pub throttled_ns: Vec<u64>,
}

/// Readings in the order of time.
#[derive(Debug, Default)]
pub struct Readings(Vec<Reading>);

impl Readings {
    /// Adds the latest. Where they are too many, every second one goes: they lie further apart then, over all.
    pub fn push(&mut self, reading: Reading) {
        if self.0.len() >= MOST {
            let mut number = 0;
            self.0.retain(|_| {
                number += 1;
                number % 2 == 1
            });
        }
        self.0.push(reading);
    }

    /// Forgets all but the last: no window began before it.
    pub fn keep_last(&mut self) {
        self.0.drain(..self.0.len().saturating_sub(1));
    }

    /// The last reading that is not after `start_ns`, and the first that is not before `end_ns`; where there is none,
    /// the one that is nearest to it.
    pub fn around(&self, start_ns: u64, end_ns: u64) -> Option<(&Reading, &Reading)> {
        let before = self.0.partition_point(|reading| reading.time_ns <= start_ns).saturating_sub(1);
        let after = self.0.partition_point(|reading| reading.time_ns < end_ns);
        let last = self.0.last()?;
        Some((self.0.get(before)?, self.0.get(after).unwrap_or(last)))
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST, Reading, Readings};

    fn readings(times_ns: impl Iterator<Item = u64>) -> Readings {
        let mut readings = Readings::default();
        times_ns.for_each(|time_ns| readings.push(Reading { time_ns, ..Reading::default() }));
        readings
    }

    fn around(readings: &Readings, start_ns: u64, end_ns: u64) -> Option<(u64, u64)> {
        readings.around(start_ns, end_ns).map(|(before, after)| (before.time_ns, after.time_ns))
    }

    #[test]
    fn a_window_lies_between_the_nearest_readings_around_it() {
        let readings = readings([10, 20, 30, 40].into_iter());
        assert_eq!(around(&readings, 25, 28), Some((20, 30)));
        assert_eq!(around(&readings, 20, 30), Some((20, 30)), "a reading at its bounds is of it");
        assert_eq!(around(&readings, 5, 50), Some((10, 40)), "beyond them there are none");
        assert_eq!(around(&readings, 45, 50), Some((40, 40)));
        assert_eq!(around(&Readings::default(), 1, 2), None);
    }

    #[test]
    fn before_a_window_one_reading_is_enough() {
        let mut readings = readings([10, 20, 30].into_iter());
        readings.keep_last();
        assert_eq!(around(&readings, 35, 36), Some((30, 30)));
        assert_eq!(readings.0.len(), 1);
        Readings::default().keep_last();
    }

    #[test]
    fn however_long_it_goes_on_readings_are_bounded_and_reach_from_the_first_to_the_last() {
        let last_ns = MOST as u64 * 10;
        let readings = readings(0..=last_ns);
        assert!(readings.0.len() <= MOST, "{}", readings.0.len());
        assert_eq!(around(&readings, 0, last_ns), Some((0, last_ns)));
        assert!(readings.0.is_sorted_by_key(|reading| reading.time_ns));
    }
}
