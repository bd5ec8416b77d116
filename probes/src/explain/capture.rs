//! The bytes of one window, as they came out of the ring buffer.

use probes_common::{CpuCounters, Dirtied, Dirtier};

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
    /// Time that the processes' cgroups were held back by a CPU quota meanwhile.
    pub throttled_ns: u64,
    /// Time that the programs ran meanwhile.
    pub overhead_ns: u64,
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
    /// With room for `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
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

    #[test]
    fn records_come_back_whole_and_those_without_room_are_counted() {
        let mut capture = Capture::new(20);
        for record in [&b"first"[..], b"", b"third", b"4"] {
            capture.push(record);
        }
        assert_eq!(capture.records().collect::<Vec<_>>(), [&b"first"[..], b"", b"4"]);
        assert_eq!((capture.received, capture.dropped), (4, 1));
    }
}
