//! Records to intervals: what each watched thread did, without a hole and without an overlap.
//!
//! Pure: no I/O, no clock. For every thread the intervals tile the time from the start of the window, or
//! the thread's birth, to the end of the window, or its death, to the nanosecond.

mod builder;
mod clip;
mod seed;
mod task_state;
mod thread;

use std::sync::Arc;

pub use builder::{Builder, Finished, ThreadNote};
pub use clip::{Windows, WindowsError};
pub use seed::{Seed, SeedState};

use crate::decode::{Peer, ThreadId, UserSide, WakeContext};

/// A stretch of one thread's time in which it did one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The thread.
    pub thread: ThreadId,
    /// Nanoseconds of CLOCK_MONOTONIC; the first that belongs to it.
    pub start_ns: u64,
    /// The first nanosecond that belongs to the next one.
    pub end_ns: u64,
    /// What the thread did.
    pub doing: Doing,
    /// It begins where the thread was seen to leave a CPU.
    pub left_cpu: bool,
    /// An event inside it may have been lost, so it may be several intervals taken for one.
    pub truncated: bool,
}

impl Interval {
    /// Its length.
    pub const fn length_ns(&self) -> u64 {
        self.end_ns - self.start_ns
    }
}

/// What a thread did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It ran.
    OnCpu,
    /// It did not run.
    OffCpu(OffCpu),
    /// Nothing was seen that would tell.
    Unknown,
}

/// Why and where a thread did not run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OffCpu {
    /// Why.
    pub wait: Wait,
    /// Where in the kernel it left the CPU.
    pub stack: KernelStack,
    /// Where it was in user space as it entered the kernel.
    pub user: Option<UserSide>,
    /// Who ended the wait.
    pub waker: Option<Waker>,
}

/// Why a thread did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wait {
    /// Asleep until an event or a signal.
    Interruptible,
    /// Asleep until an event.
    Uninterruptible,
    /// Stopped by a signal, a tracer or the freezer.
    Stopped,
    /// Runnable; the CPU was taken away or given up.
    Preempted,
    /// Runnable after a wake-up or its birth.
    RunQueue,
    /// Off the CPU for a reason that was not seen.
    Unknown,
}

impl Wait {
    /// Whether the thread could have run, had it been given a CPU.
    pub const fn is_runnable(self) -> bool {
        matches!(self, Self::Preempted | Self::RunQueue)
    }
}

/// A kernel stack, innermost frame first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KernelStack {
    /// Return addresses, recorded as the thread left the CPU.
    Addresses(Arc<[u64]>),
    /// Function names, as `/proc/PID/task/TID/stack` gave them for a thread that was already asleep.
    Names(Arc<[String]>),
    /// Not seen, or refused by the kernel.
    Missing,
}

/// Who ended a wait.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Waker {
    /// The thread that was current.
    pub peer: Peer,
    /// The handler that ran in its place, if one was seen to.
    pub context: WakeContext,
    /// The kernel stack that woke, which shows the interrupts that have no handler to be seen.
    pub stack: Arc<[u64]>,
}

#[cfg(test)]
mod tests;
