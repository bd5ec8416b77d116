//! What was known of a thread before its first event.

use std::sync::Arc;

use super::Wait;
use crate::comm::Comm;
use crate::decode::UserSide;

/// A look at one thread, taken after recording began.
///
/// It says what the thread did at the start of the window if, and only if, the thread's first event is
/// later than the look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// Start of the thread in nanoseconds of CLOCK_MONOTONIC, to within a clock tick.
    pub start_ns: u64,
    /// When the look was over.
    pub taken_ns: u64,
    /// The thread's name.
    pub comm: Comm,
    /// What it did.
    pub state: SeedState,
    /// Names of its kernel frames, innermost first, where it slept and the kernel showed them.
    pub kernel: Option<Arc<[String]>>,
    /// Where it was in user space as it entered the kernel.
    pub user: Option<UserSide>,
    /// The CPU time it had had by then.
    pub ran_ns: Option<u64>,
}

/// A thread's state as `/proc/PID/task/TID/stat` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeedState {
    /// On a CPU, or waiting for one: `R`.
    Runnable,
    /// Asleep or stopped.
    Waiting(Wait),
    /// Ended: `Z`, `X`.
    Dead,
}

impl SeedState {
    /// From the letter in `stat`.
    pub const fn from_letter(letter: char) -> Self {
        match letter {
            'R' => Self::Runnable,
            'S' => Self::Waiting(Wait::Interruptible),
            'D' | 'I' | 'P' => Self::Waiting(Wait::Uninterruptible),
            'T' | 't' => Self::Waiting(Wait::Stopped),
            'Z' | 'X' | 'x' => Self::Dead,
            _ => Self::Waiting(Wait::Unknown),
        }
    }
}
