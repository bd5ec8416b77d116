//! What bytes from the ring buffer turn out to be.

use std::sync::Arc;

use probes_common::{Head, UserRegisters};
use thiserror::Error;

use crate::comm::Comm;

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// The record ends before its head, body or frames do.
    #[error("record of {0} bytes is cut short")]
    Short(usize),
    /// A user stack that claims more bytes than any has.
    #[error("user stack of {0} bytes")]
    UserStack(u64),
    /// No such kind.
    #[error("record of unknown kind {0}")]
    Kind(u8),
    /// A field holds a number that stands for nothing.
    #[error("record with {value} as its {field}")]
    Field {
        /// What the field says.
        field: &'static str,
        /// The number.
        value: u32,
    },
}

/// Names one thread for good: ids are used again, an id with a start time is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThreadId {
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// When it was made, in nanoseconds of CLOCK_MONOTONIC.
    pub start_ns: u64,
}

/// One event of one thread: of a watched one, where nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<E = Event> {
    /// When, in nanoseconds of CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// The CPU that wrote it.
    pub cpu: u32,
    /// How many records that CPU had tried to write in the event's lane before.
    pub sequence: u64,
    /// The thread it is about.
    pub thread: ThreadId,
    /// That thread's process.
    pub tgid: u32,
    /// What happened.
    pub event: E,
}

impl<E> Record<E> {
    /// What happened, with when and to whom.
    pub(crate) const fn new(head: &Head, event: E) -> Self {
        Self {
            time_ns: head.time_ns,
            cpu: head.cpu,
            sequence: head.sequence,
            thread: ThreadId { tid: head.tid, start_ns: head.start_ns },
            tgid: head.tgid,
            event,
        }
    }
}

/// What happened to a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It left a CPU.
    SwitchOut {
        /// The scheduler took the CPU away.
        preempted: bool,
        /// The tracepoint's `prev_state`: a mask.
        prev_state: u32,
        /// Where it was in user space; `None` where it never was there.
        user: Option<UserSide>,
        /// Its kernel stack.
        stack: Stack,
        /// Its name.
        comm: Comm,
    },
    /// It got a CPU.
    SwitchIn,
    /// It got a CPU, and tells where it was until then.
    SwitchBack {
        /// Where it was in user space; `None` where it never was there.
        user: Option<UserSide>,
        /// Its kernel stack.
        stack: Stack,
        /// Its name.
        comm: Comm,
    },
    /// It is being woken.
    Waking {
        /// The thread that was current where the wake-up came from.
        waker: Peer,
        /// Whether a handler ran in its place.
        context: WakeContext,
        /// The kernel stack of that context.
        stack: Stack,
    },
    /// It was made, and may run.
    Born {
        /// By this thread.
        maker: Peer,
    },
}

/// The thread on the other side of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Thread id in the initial pid namespace; 0 is a CPU's idle task.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// Its name.
    pub comm: Comm,
}

/// Which handler woke, as the kernel told when it began and ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WakeContext {
    /// None that was seen: the thread did, or an interrupt that only the stack shows.
    NoHandler,
    /// That of the device interrupt with this number in `/proc/interrupts`.
    Device(u32),
    /// That of the soft interrupt with this number (include/linux/interrupt.h).
    Soft(u32),
}

/// Where a thread was in user space as it entered the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UserSide {
    /// The instruction.
    pub ip: u64,
    /// The signature of its stack, by which [`crate::unwind::UserStacks`] knows the frames; `None` where no
    /// stack was recorded.
    pub stack: Option<u64>,
}

/// A user stack, as it was copied the first time that it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserSample<'a> {
    /// When, in nanoseconds of CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// The CPU that wrote it.
    pub cpu: u32,
    /// How many records that CPU had tried to write before.
    pub sequence: u64,
    /// The process that it is of.
    pub tgid: u32,
    /// What [`UserSide::stack`] calls it.
    pub signature: u64,
    /// The registers that belong to it.
    pub registers: UserRegisters,
    /// The stack from `registers.sp` upwards.
    pub stack: &'a [u8],
    /// The lane that `sequence` counts in.
    pub lane: u32,
}

/// What one record turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// Something that happened to a thread.
    Event(Record),
    /// A stack that events name by its signature.
    UserStack(UserSample<'a>),
    /// A look at a running thread.
    Sample(Look),
    /// A window opens or closes.
    Window(Mark),
}

/// A look at a running thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// When, in nanoseconds of CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// The CPU that it ran on.
    pub cpu: u32,
    /// How many records that CPU had tried to write before.
    pub sequence: u64,
    /// The thread.
    pub thread: ThreadId,
    /// Its process.
    pub tgid: u32,
    /// Where it was in user space; `None` where that was not recorded.
    pub user: Option<UserSide>,
    /// Its kernel stack; empty where it was in user space.
    pub stack: Stack,
    /// Its name.
    pub comm: Comm,
}

/// A thread enters or leaves the function that bounds windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// When, in nanoseconds of CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// The thread.
    pub thread: ThreadId,
    /// It enters.
    pub opens: bool,
    /// Its stack pointer: where the return address lies as it enters, the word above that as it leaves.
    pub sp: u64,
}

/// A kernel stack as the kernel handed it out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stack {
    /// Return addresses, innermost first; empty where the kernel gave none.
    pub frames: Arc<[u64]>,
    /// As deep as the kernel records: the outermost frames may be missing.
    pub truncated: bool,
    /// The kernel refused, or the hook could not reach it; there is no telling what the stack was.
    pub failed: bool,
}
