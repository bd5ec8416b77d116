//! The bytes of one window, as they came out of the ring buffer.

use probes_common::{CpuCounters, Dirtied, Dirtier};

use super::quota::Quotas;
use super::readings::Readings;
use crate::interval::Seed;

/// Everything that was recorded while armed.
#[derive(Debug, Default)]
pub struct Capture {
    /// The processes whose user stacks were recorded.
    pub pids: Vec<u32>,
    /// When recording began, in nanoseconds of CLOCK_MONOTONIC.
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// Each CPU's counters, lane after lane, as recording began.
    pub counters_before: Vec<CpuCounters>,
    /// The same as it ended.
    pub counters_after: Vec<CpuCounters>,
    /// Events that found their program already running.
    pub recursion_misses: u64,
    /// How many CPUs a lane has.
    pub cpus: u32,
    /// What the watched processes' threads did as it ended; true of its begin for those without an event.
    pub seeds: Vec<Seed>,
    /// Pages that went dirty meanwhile.
    pub dirtied: Vec<(Dirtier, Dirtied)>,
    /// What is to be read of the processes' CPU quotas.
    pub quotas: Quotas,
    /// What that and the programs' run time came to, every now and then.
    pub readings: Readings,
    /// The hooks.
    pub attach: Vec<String>,
    bytes: Vec<u8>,
    limit: usize,
    /// Records.
    pub received: u64,
    /// Records for which there was no room left here.
    pub dropped: u64,
}

impl Capture {
    /// With room for `limit` bytes, which take memory as they fill. All at once: a buffer that grew would be copied
    /// while a window is open, and would take twice its size meanwhile.
    pub fn new(limit: usize) -> Self {
        Self { limit, bytes: Vec::with_capacity(limit), ..Self::default() }
    }

    /// Time that the programs ran from the last reading before a window to the first after it, on all CPUs.
    pub fn overhead_ns(&self, start_ns: u64, end_ns: u64) -> u64 {
        let around = self.readings.around(start_ns, end_ns);
        around.map_or(0, |(before, after)| after.run_ns.saturating_sub(before.run_ns))
    }

    /// Time that each of the processes was held back by a CPU quota, between the same readings.
    pub fn throttled_ns(&self, start_ns: u64, end_ns: u64) -> Vec<(u32, u64)> {
        let around = self.readings.around(start_ns, end_ns);
        around.map_or_else(Vec::new, |(before, after)| {
            self.quotas.grown(&before.throttled_ns, &after.throttled_ns)
        })
    }

    /// Keeps one record.
    pub fn push(&mut self, record: &[u8]) {
        self.received += 1;
        if self.bytes.len() + 4 + record.len() > self.limit {
            self.dropped += 1;
            return;
        }
        self.bytes.extend((record.len() as u32).to_ne_bytes());
        self.bytes.extend(record);
    }

    /// Every record that is kept, in the order in which they came.
    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let (record, after) = after.split_at_checked(u32::from_ne_bytes(*length) as usize)?;
            rest = after;
            Some(record)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Capture;
    use crate::explain::readings::Reading;

    #[test]
    fn records_come_back_whole_and_those_without_room_are_counted() {
        let mut capture = Capture::new(20);
        for record in [&b"first"[..], b"", b"third", b"4"] {
            capture.push(record);
        }
        assert_eq!(capture.records().collect::<Vec<_>>(), [&b"first"[..], b"", b"4"]);
        assert_eq!((capture.received, capture.dropped), (4, 1));
    }
    #[test]
    fn what_the_programs_ran_between_windows_is_of_no_window() {
        let mut capture = Capture::new(0);
        for (time_ns, run_ns) in [(10, 0), (1_000, 700), (1_020, 710), (1_040, 715)] {
            capture.readings.push(Reading { time_ns, run_ns, throttled_ns: Vec::new() });
        }
        assert_eq!(capture.overhead_ns(1_005, 1_018), 10);
        assert_eq!(capture.overhead_ns(1_005, 1_030), 15);
        assert!(capture.throttled_ns(1_005, 1_030).is_empty());
    }
}
