//! The thresholds, in one place. `docs/GATE.md` explains each.

/// A slower candidate is a regression only where the estimate of its pause over the baseline's exceeds this.
pub const REGRESS_RATIO: f64 = 1.05;
/// A pass claims that the candidate's pause is below this many times the baseline's.
pub const PASS_RATIO: f64 = 1.15;
/// One-sided error of the bound behind a pass, split over the looks that may pass.
pub const PASS_ERROR: f64 = 0.05;
/// Fewer valid blocks (or trials of an arm) judge nothing.
pub const MIN_BLOCKS: usize = 8;
/// A sweep is in the slow regime where its later BRANCHes take more than this many times its first.
pub const SLOW_RATIO: f64 = 2.0;
/// The BRANCHes before the slow regime can begin.
pub const FIRST_BRANCHES: usize = 2;
/// Error of each check of the measurement, two-sided. Not the gate's alpha: whoever asks for fewer false alarms does not
/// ask for a blinder look at the host. Ten blocks, a quick gate, can reach it (five against five: 2 in 252), a smaller
/// one not. Each check asks for a size beside it: good measurements end INVALID in 1 to 2 of 100 altogether.
pub const CHECK_ALPHA: f64 = 0.01;
/// Sweeps of the candidate that must be over the absolute limit.
pub const LIMIT_BREAKS: usize = 2;

/// More of the processors' time stolen by the hypervisor makes a sweep unfit.
pub const MAX_STEAL_SHARE: f64 = 0.10;
/// More memory still to be written when a sweep begins makes it unfit, in MiB.
pub const MAX_DIRTY_MIB: f64 = 64.0;
/// Less free space below the snapshots at a sweep's end makes it unfit, in MiB.
pub const MIN_FREE_MIB: f64 = 64.0;
/// Other processes' share of the processors' time may differ this much between the arms.
pub const MAX_CPU_IMBALANCE: f64 = 0.10;
/// Other processes' writing may differ this much between the arms, in MiB a second.
pub const MAX_WRITE_IMBALANCE_MIB_S: f64 = 5.0;
