//! When each phase of a BRANCH began and ended.

use probes::attend::Bounds;
use probes_common::BranchPhase;

use crate::api::PhaseSpan;
use crate::clock::monotonic_ns;

/// The spans of one BRANCH, filled as it goes along.
#[derive(Clone, Debug, Default)]
pub struct PhaseLog {
    // By discriminant of the phase: begin and end, CLOCK_MONOTONIC.
    spans: [Option<(u64, u64)>; BranchPhase::ALL.len()],
    /// The thread that held the guest.
    holder: Option<u32>,
}

impl PhaseLog {
    /// Notes one phase, `start_ns` to `end_ns` of CLOCK_MONOTONIC.
    pub fn record(&mut self, phase: BranchPhase, start_ns: u64, end_ns: u64) {
        self.spans[phase as usize] = Some((start_ns, end_ns));
    }

    /// Runs `work` and notes it as `phase`.
    pub fn time<T>(&mut self, phase: BranchPhase, work: impl FnOnce() -> T) -> T {
        let start_ns = monotonic_ns();
        let result = work();
        self.record(phase, start_ns, monotonic_ns());
        result
    }

    /// Notes the thread that held the guest, by its id.
    pub fn held_by(&mut self, tid: u32) {
        self.holder = Some(tid);
    }

    /// The pause, and the thread that ended it; `None` where there was none.
    pub fn pause_window(&self) -> Option<Bounds> {
        let (start_ns, _) = self.spans[BranchPhase::Pause as usize]?;
        let (_, end_ns) = self.spans[BranchPhase::Resume as usize]?;
        Some(Bounds { start_ns, end_ns, tid: self.holder? })
    }

    /// From the begin of the pause to the end of the resume.
    pub fn pause_ns(&self) -> u64 {
        let (Some((start, _)), Some((_, end))) =
            (self.spans[BranchPhase::Pause as usize], self.spans[BranchPhase::Resume as usize])
        else {
            return 0;
        };
        end - start
    }

    /// Length of one phase, 0 where it did not occur.
    pub fn ns(&self, phase: BranchPhase) -> u64 {
        self.spans[phase as usize].map_or(0, |(start, end)| end - start)
    }

    /// Every phase, in the order of [`BranchPhase::ALL`]; one that did not occur has start and length 0.
    pub fn spans(&self) -> Vec<PhaseSpan> {
        let span = |phase: BranchPhase| {
            let (start_ns, end_ns) = self.spans[phase as usize].unwrap_or_default();
            PhaseSpan { phase, start_ns, ns: end_ns - start_ns }
        };
        BranchPhase::ALL.map(span).to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::{BranchPhase, PhaseLog};

    #[test]
    fn the_pause_is_the_sum_of_the_phases_in_which_the_guest_stands_still() {
        let mut log = PhaseLog::default();
        log.record(BranchPhase::Copy, 5, 90);
        log.record(BranchPhase::Pause, 10, 13);
        log.record(BranchPhase::Create, 13, 40);
        log.record(BranchPhase::Resume, 40, 41);
        assert_eq!(log.pause_ns(), 31);
        let stopped = BranchPhase::ALL.into_iter().filter(|phase| phase.stops_the_guest());
        assert_eq!(stopped.map(|phase| log.ns(phase)).sum::<u64>(), log.pause_ns());
        assert_eq!(log.ns(BranchPhase::Merge), 0);
    }
}
