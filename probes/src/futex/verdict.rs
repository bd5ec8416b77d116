//! What the waits on a futex word were. The rule, and what it rests on, is in docs/PROBES.md.

use reports::futex::Verdict;

/// What was seen of one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Waits that a wake ended.
    pub woken: u64,
    /// Times a thread that had been woken from the word later woke a single waiter of it.
    pub handed_on: u64,
    /// The kernel keeps the word's owner, and somebody had to sleep for it.
    pub is_lock: bool,
}

/// Judges.
///
/// A lock is passed on by those who wanted it: a thread that waited for it, and got it, wakes the next one
/// when it lets go. An event is told by somebody else, who did not wait for it. So a word is contended if,
/// in the window, a thread that was woken from it woke one other waiter of it. A wake of many at once is a
/// broadcast, as at a barrier, and hands nothing on.
pub const fn verdict(evidence: Evidence) -> Verdict {
    match evidence {
        Evidence { is_lock: true, .. } => Verdict::Contention,
        Evidence { handed_on: 1.., .. } => Verdict::Contention,
        Evidence { woken: 1.., .. } => Verdict::PassiveWait,
        _ => Verdict::NobodyWoke,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_case_by_case() {
        let cases = [
            ("parked through the window", 0, 0, false, Verdict::NobodyWoke),
            ("a vCPU woken by the main thread", 1, 0, false, Verdict::PassiveWait),
            ("a worker fed by a queue", 500, 0, false, Verdict::PassiveWait),
            ("a mutex taken in turns", 40, 39, false, Verdict::Contention),
            ("a mutex whose last holder met nobody", 2, 1, false, Verdict::Contention),
            ("a priority-inheriting lock, not handed over yet", 0, 0, true, Verdict::Contention),
            ("a priority-inheriting lock", 3, 0, true, Verdict::Contention),
        ];
        for (case, woken, handed_on, is_lock, expected) in cases {
            assert_eq!(verdict(Evidence { woken, handed_on, is_lock }), expected, "{case}");
        }
    }
}
