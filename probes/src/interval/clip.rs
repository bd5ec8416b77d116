//! Cuts intervals to windows.

use thiserror::Error;

use super::Interval;

/// One or more stretches of time that a report is about: sorted, not empty, without overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows(Vec<(u64, u64)>);

/// Why a list of windows cannot be used.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum WindowsError {
    /// No window at all.
    #[error("no window given")]
    None,
    /// A window that ends before it begins, or has no length.
    #[error("the window from {0} to {1} ns has no length")]
    Empty(u64, u64),
    /// Two windows that share time, which would count twice.
    #[error("two windows overlap at {0} ns")]
    Overlap(u64),
}

impl Windows {
    /// From (start, end) pairs in nanoseconds of CLOCK_MONOTONIC, in any order.
    pub fn new(pairs: &[(u64, u64)]) -> Result<Self, WindowsError> {
        let mut pairs = pairs.to_vec();
        pairs.sort_unstable();
        if pairs.is_empty() {
            return Err(WindowsError::None);
        }
        if let Some((start, end)) = pairs.iter().find(|(start, end)| start >= end) {
            return Err(WindowsError::Empty(*start, *end));
        }
        match pairs.windows(2).find(|pair| pair[1].0 < pair[0].1) {
            Some(pair) => Err(WindowsError::Overlap(pair[1].0)),
            None => Ok(Self(pairs)),
        }
    }

    /// All of a recording, which may have ended as it began.
    pub fn whole(start_ns: u64, end_ns: u64) -> Self {
        Self(vec![(start_ns, end_ns.max(start_ns))])
    }

    /// How many.
    #[expect(clippy::len_without_is_empty, reason = "there is always at least one")]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Their summed length.
    pub fn total_ns(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    /// The first instant of the first and the last of the last.
    pub fn bounds(&self) -> (u64, u64) {
        (self.0.first().map_or(0, |first| first.0), self.0.last().map_or(0, |last| last.1))
    }

    /// The parts of `interval` that lie inside a window.
    pub fn clip(&self, interval: &Interval, emit: &mut dyn FnMut(Interval)) {
        let first = self.0.partition_point(|(_, end)| *end <= interval.start_ns);
        for (start, end) in &self.0[first..] {
            if *start >= interval.end_ns {
                return;
            }
            let start_ns = interval.start_ns.max(*start);
            let left_cpu = interval.left_cpu && start_ns == interval.start_ns;
            emit(Interval { start_ns, end_ns: interval.end_ns.min(*end), left_cpu, ..interval.clone() });
        }
    }
}
