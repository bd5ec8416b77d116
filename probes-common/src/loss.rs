//! Everything that keeps an event, or a part of one, from reaching user space has a name here.

use crate::call::LANES;

/// Why an event, or a part of one, was not recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Loss {
    /// The ring buffer had no room: the whole event is lost.
    RingFull,
    /// The kernel gave no stack: the event is there, without one.
    StackFailed,
    /// The stack is as deep as the kernel records (`kernel.perf_event_max_stack`), so it may be cut.
    StackTruncated,
    /// A user thread left the CPU, and where it had entered the kernel could not be read.
    RegistersMissing,
    /// Not one byte of a user stack could be read: the event is there, with the instruction only.
    UserStackUnread,
    /// A page of a user stack could not be read: what lies below it is there.
    UserStackPartial,
    /// The ring buffer was too full for a user stack: the event is there, and the stack is copied with
    /// the next event that has it.
    UserStackNoRoom,
    /// There was no room for one more inode and process whose dirtied pages are counted.
    DirtierUncounted,
    /// There was no room for one more thread in a throttle: its wait is not there.
    ThrottleUnseen,
    /// There was no room to keep to whom a new thread belongs: nothing of it is recorded.
    ThreadUnknown,
}

impl Loss {
    /// Every cause that the kernel side counts, in the order of [`CpuCounters::lost`].
    pub const ALL: [Self; 10] = [
        Self::RingFull,
        Self::StackFailed,
        Self::StackTruncated,
        Self::RegistersMissing,
        Self::UserStackUnread,
        Self::UserStackPartial,
        Self::UserStackNoRoom,
        Self::DirtierUncounted,
        Self::ThrottleUnseen,
        Self::ThreadUnknown,
    ];

    /// The cause's name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RingFull => "ring_full",
            Self::StackFailed => "stack_failed",
            Self::StackTruncated => "stack_truncated",
            Self::RegistersMissing => "registers_missing",
            Self::UserStackUnread => "user_stack_unread",
            Self::UserStackPartial => "user_stack_partial",
            Self::UserStackNoRoom => "user_stack_no_room",
            Self::DirtierUncounted => "dirtier_uncounted",
            Self::ThrottleUnseen => "throttle_unseen",
            Self::ThreadUnknown => "thread_unknown",
        }
    }
}

/// One CPU's counters of one lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CpuCounters {
    /// Records this CPU tried to write; the next record's sequence number.
    pub attempted: u64,
    /// What was lost, indexed by [`Loss`].
    pub lost: [u64; Loss::ALL.len()],
}

/// An entry of the `COUNTERS` map, which has one for each CPU: its counters by lane, on cache lines of its own, so that
/// no CPU writes to those of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct CounterSlot(pub [CpuCounters; LANES as usize]);

#[cfg(test)]
mod tests {
    use super::Loss;

    #[test]
    fn all_lists_every_cause_once_in_discriminant_order() {
        for (index, cause) in Loss::ALL.iter().enumerate() {
            assert_eq!(*cause as usize, index);
        }
    }
}
