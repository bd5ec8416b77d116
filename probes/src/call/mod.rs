//! System calls of watched threads, each with where its time went.
//!
//! Pure: no I/O, no clock. A call's wall time is split by the off-CPU intervals of its own thread, which
//! come from the same recording and the same clock: what is left is time on a CPU.

mod decode;
mod pair;

pub use decode::{CallEvent, CallRecord, decode, is_call};
pub use pair::Calls;

use crate::decode::{ThreadId, UserSide};
use crate::interval::Waker;

/// One system call of one thread, as far as it lies in the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The calling thread.
    pub thread: ThreadId,
    /// Its process.
    pub tgid: u32,
    /// The call's number.
    pub number: u32,
    /// Its arguments; `None` where it was entered before the window and nobody could tell.
    pub arguments: Option<[u64; 6]>,
    /// The words recorded with it: see [`CallEvent::Enter`].
    pub words: Vec<u64>,
    /// When it was entered, or the window opened, in nanoseconds of CLOCK_MONOTONIC.
    pub start_ns: u64,
    /// When it was left, or the window closed.
    pub end_ns: u64,
    /// A negative errno or a result; `None` where the call was still in flight at the end.
    pub result: Option<i64>,
    /// It had been entered before the window opened, and its time is clamped there.
    pub in_flight_at_start: bool,
    /// What its time went to.
    pub spent: Spent,
    /// Where the thread was in user space, as its last sleep or its record told.
    pub user: Option<UserSide>,
    /// Who ended its last sleep.
    pub waker: Option<Waker>,
    /// When that was.
    pub woken_ns: u64,
    /// An event inside it may have been lost.
    pub truncated: bool,
}

impl Call {
    /// Wall time.
    pub const fn wall_ns(&self) -> u64 {
        self.end_ns - self.start_ns
    }

    /// Time on a CPU: what is neither sleep nor queueing nor unknown.
    pub const fn on_cpu_ns(&self) -> u64 {
        let off_ns = self.spent.asleep_ns + self.spent.run_queue_ns + self.spent.unknown_ns;
        self.wall_ns().saturating_sub(off_ns)
    }
}

/// The parts of a call in which its thread did not run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Asleep or stopped.
    pub asleep_ns: u64,
    /// Runnable, and waiting for a CPU.
    pub run_queue_ns: u64,
    /// What the thread did was not seen.
    pub unknown_ns: u64,
}

/// What `/proc` said of a thread right after recording began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeedCall {
    /// Its process.
    pub tgid: u32,
    /// Thread id.
    pub tid: u32,
    /// When the look was over, in nanoseconds of CLOCK_MONOTONIC.
    pub taken_ns: u64,
    /// The call it was in.
    pub number: u32,
    /// That call's arguments.
    pub arguments: [u64; 6],
}

#[cfg(test)]
mod tests;
