//! When events were lost.
//!
//! Each CPU numbers the records that it tries to write, so a hole in the numbers is a loss, and its
//! neighbours' times say when it happened. The exact *number* comes from the kernel side's counters;
//! what is built here is the time in which an interval may have missed an event.

use probes_common::{CpuCounters, Loss};

/// A stretch of time in which some CPU lost at least one record, in nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The last time known to be before the loss.
    pub start_ns: u64,
    /// The first time known to be after it.
    pub end_ns: u64,
}

/// Finds gaps while records are read in passes.
///
/// In each pass the caller reads the clock, then the counters, then every record there is. So whatever
/// was lost before one pass is known at the end of that pass, and no later pass finds a gap that reaches
/// back beyond it: intervals from before the previous pass can be closed for good.
#[derive(Debug)]
pub struct GapFinder {
    cpus: Vec<Cpu>,
    previous_pass_ns: u64,
    found: Vec<Gap>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cpu {
    next_sequence: u64,
    last_ns: u64,
    lost: u64,
}

impl GapFinder {
    /// For records that are written from `start_ns` on.
    pub const fn new(start_ns: u64) -> Self {
        Self { cpus: Vec::new(), previous_pass_ns: start_ns, found: Vec::new() }
    }

    /// For records that are written from `start_ns` on, when each CPU's counters stood as given.
    pub fn resuming(start_ns: u64, counters: &[CpuCounters]) -> Self {
        let cpu = |counter: &CpuCounters| Cpu {
            next_sequence: counter.attempted,
            last_ns: start_ns,
            lost: counter.lost[Loss::RingFull as usize],
        };
        Self { cpus: counters.iter().map(cpu).collect(), ..Self::new(start_ns) }
    }

    /// Notes one record, in the order in which its CPU wrote it.
    pub fn note(&mut self, cpu: u32, sequence: u64, time_ns: u64) {
        let floor_ns = self.previous_pass_ns;
        let slot = self.cpu(cpu as usize);
        if sequence > slot.next_sequence {
            let gap = Gap { start_ns: slot.last_ns.max(floor_ns), end_ns: time_ns };
            slot.next_sequence = sequence;
            self.found.push(gap);
        }
        let slot = self.cpu(cpu as usize);
        slot.next_sequence = slot.next_sequence.max(sequence.saturating_add(1));
        slot.last_ns = time_ns;
    }

    /// Ends a pass that began at `pass_ns`, when the counters stood as given, and ends now, at
    /// `now_ns`; yields every gap that it showed.
    pub fn end_pass(&mut self, pass_ns: u64, now_ns: u64, counters: &[CpuCounters]) -> Vec<Gap> {
        let floor_ns = self.previous_pass_ns;
        for (index, counter) in counters.iter().enumerate() {
            let slot = self.cpu(index);
            let lost = counter.lost[Loss::RingFull as usize];
            // The losses at the end of a CPU's numbers have no record after them yet.
            if lost > slot.lost && counter.attempted > slot.next_sequence {
                let gap = Gap { start_ns: slot.last_ns.max(floor_ns), end_ns: now_ns };
                slot.next_sequence = counter.attempted;
                self.found.push(gap);
            }
            self.cpu(index).lost = lost;
        }
        self.previous_pass_ns = pass_ns;
        std::mem::take(&mut self.found)
    }

    fn cpu(&mut self, index: usize) -> &mut Cpu {
        if self.cpus.len() <= index {
            self.cpus.resize(index + 1, Cpu::default());
        }
        &mut self.cpus[index]
    }
}

/// Gaps, merged where they overlap, to be asked whether an interval touches one.
#[derive(Clone, Debug, Default)]
pub struct Gaps(Vec<Gap>);

impl Gaps {
    /// Adds one.
    pub fn add(&mut self, mut gap: Gap) {
        let from = self.0.partition_point(|known| known.end_ns < gap.start_ns);
        let to = self.0.partition_point(|known| known.start_ns <= gap.end_ns).max(from);
        for known in &self.0[from..to] {
            gap.start_ns = gap.start_ns.min(known.start_ns);
            gap.end_ns = gap.end_ns.max(known.end_ns);
        }
        self.0.splice(from..to, [gap]);
    }

    /// Whether an event inside `start_ns..=end_ns` may have been lost.
    pub fn touch(&self, start_ns: u64, end_ns: u64) -> bool {
        let first = self.0.partition_point(|known| known.end_ns < start_ns);
        self.0.get(first).is_some_and(|known| known.start_ns <= end_ns)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counters(attempted: u64, ring_full: u64) -> CpuCounters {
        let mut counters = CpuCounters { attempted, ..CpuCounters::default() };
        counters.lost[Loss::RingFull as usize] = ring_full;
        counters
    }

    // cpu 0: #0 at 110, #1 and #2 lost, #3 at 150
    #[test]
    fn a_hole_between_two_records_lies_between_their_times() {
        let mut finder = GapFinder::new(100);
        finder.note(0, 0, 110);
        finder.note(0, 3, 150);
        assert_eq!(finder.end_pass(160, 170, &[counters(4, 2)]), [Gap { start_ns: 110, end_ns: 150 }]);
        assert_eq!(finder.end_pass(200, 210, &[counters(4, 2)]), []);
    }

    // cpu 0: #0 at 110 | pass at 160 | nothing until #1 is lost | pass at 300
    #[test]
    fn a_loss_with_nothing_after_it_reaches_back_to_the_last_pass_and_no_further() {
        let mut finder = GapFinder::new(100);
        finder.note(0, 0, 110);
        assert_eq!(finder.end_pass(160, 161, &[counters(1, 0)]), []);
        assert_eq!(finder.end_pass(300, 310, &[counters(2, 1)]), [Gap { start_ns: 160, end_ns: 310 }]);
        finder.note(0, 2, 320);
        assert_eq!(finder.end_pass(400, 410, &[counters(3, 1)]), []);
    }

    // cpu 0: #0 to #4 before | armed at 100 | #5 at 110, #6 lost, #7 at 130
    #[test]
    fn what_was_numbered_or_lost_before_is_no_loss_of_a_later_recording() {
        let mut finder = GapFinder::resuming(100, &[counters(5, 3)]);
        finder.note(0, 5, 110);
        finder.note(0, 7, 130);
        assert_eq!(finder.end_pass(140, 141, &[counters(8, 4)]), [Gap { start_ns: 110, end_ns: 130 }]);
    }

    #[test]
    fn a_record_still_being_written_is_no_loss() {
        let mut finder = GapFinder::new(0);
        finder.note(1, 0, 10);
        assert_eq!(finder.end_pass(20, 21, &[counters(0, 0), counters(2, 0)]), []);
        finder.note(1, 1, 19);
        assert_eq!(finder.end_pass(30, 31, &[counters(0, 0), counters(2, 0)]), []);
    }

    proptest! {
        #[test]
        fn merged_gaps_answer_as_the_single_ones_do(
            single in prop::collection::vec((0u64..100, 0u64..20), 0..20), start in 0u64..120, length in 0u64..20,
        ) {
            let mut gaps = Gaps::default();
            for (start_ns, length) in &single {
                gaps.add(Gap { start_ns: *start_ns, end_ns: start_ns + length });
            }
            let touched = single.iter().any(|(from, len)| *from <= start + length && from + len >= start);
            prop_assert_eq!(gaps.touch(start, start + length), touched);
        }
    }
}
