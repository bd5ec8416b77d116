//! The scheduler's task states, as `sched_switch` reports them.

use super::Wait;

// include/linux/sched.h. The values are a mask: TASK_KILLABLE, for one, is UNINTERRUPTIBLE | WAKEKILL.
const INTERRUPTIBLE: u32 = 0x1;
const UNINTERRUPTIBLE: u32 = 0x2;
const STOPPED: u32 = 0x4;
const TRACED: u32 = 0x8;
const EXIT_DEAD: u32 = 0x10;
const EXIT_ZOMBIE: u32 = 0x20;
const PARKED: u32 = 0x40;
const DEAD: u32 = 0x80;
const RTLOCK_WAIT: u32 = 0x1000;
const FROZEN: u32 = 0x8000;

/// How a thread left the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// For this reason, to come back.
    For(Wait),
    /// For good.
    Dead,
}

/// Reads `prev_state` bit by bit.
///
/// A preempted thread may carry a sleeping state: it was about to sleep when the CPU was taken away,
/// and stays on the run queue all the same.
pub fn leaving(preempted: bool, prev_state: u32) -> Leaving {
    if preempted || prev_state == 0 {
        return Leaving::For(Wait::Preempted);
    }
    let has = |bits: u32| prev_state & bits != 0;
    if has(DEAD | EXIT_DEAD | EXIT_ZOMBIE) {
        Leaving::Dead
    } else if has(STOPPED | TRACED | FROZEN) {
        Leaving::For(Wait::Stopped)
    } else if has(UNINTERRUPTIBLE | RTLOCK_WAIT | PARKED) {
        Leaving::For(Wait::Uninterruptible)
    } else if has(INTERRUPTIBLE) {
        Leaving::For(Wait::Interruptible)
    } else {
        Leaving::For(Wait::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_masks() {
        let killable = 0x102;
        let idle = 0x402;
        let freezable_sleep = 0x2001;
        assert_eq!(leaving(false, killable), Leaving::For(Wait::Uninterruptible));
        assert_eq!(leaving(false, idle), Leaving::For(Wait::Uninterruptible));
        assert_eq!(leaving(false, freezable_sleep), Leaving::For(Wait::Interruptible));
        assert_eq!(leaving(false, 0x104), Leaving::For(Wait::Stopped));
        assert_eq!(leaving(false, 0x80), Leaving::Dead);
    }

    #[test]
    fn a_preempted_thread_is_runnable_whatever_it_was_about_to_do() {
        assert_eq!(leaving(true, INTERRUPTIBLE), Leaving::For(Wait::Preempted));
        assert_eq!(leaving(false, 0), Leaving::For(Wait::Preempted));
    }
}
