//! The one word that user space writes and every program reads first.

/// The most processes that one session can watch.
pub const MAX_TARGETS: usize = 16;

/// Spans of code that one process can have.
pub const CODE_SPANS: usize = 2;

/// Where code of a process can lie: addresses from `start` on, `length` of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CodeSpan {
    /// The first address.
    pub start: u64,
    /// Bytes; 0 for none.
    pub length: u64,
}

/// The map that the loader makes of the section of the variable: [`Control`] is its only value.
pub const CONTROL_MAP: &str = ".data.control";

/// [`Control::armed`]: every program returns at once.
pub const IDLE: u32 = 0;
/// [`Control::armed`]: the threads of the first target are recorded, the only one that there is.
pub const ONE_TARGET: u32 = 1;
/// [`Control::armed`]: the threads of all targets are recorded.
pub const TARGETS: u32 = 2;
/// [`Control::armed`]: the switches and wake-ups of every thread are recorded, with the user stacks of the
/// targets' threads.
pub const MACHINE: u32 = 3;

/// What the programs do. A variable of theirs, in a section of its own ([`CONTROL_MAP`]).
///
/// An array that is scanned costs less than a hash lookup at these sizes. What a switch that concerns nobody needs lies
/// in the first words, so that it touches one line of the cache.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Control {
    /// [`IDLE`], [`ONE_TARGET`], [`TARGETS`] or [`MACHINE`].
    pub armed: u32,
    /// How many entries of `targets` are in use, at most [`MAX_TARGETS`].
    pub target_count: u32,
    /// The process that records: under [`MACHINE`] its own threads are left out, because reading the records
    /// makes them switch. 0 for none.
    pub tracer: u32,
    /// The number of the recording, never 0: what a program noted in another one is of no use.
    pub recording: u32,
    /// Thread group ids, in the initial pid namespace, of the processes to watch.
    pub targets: [u32; MAX_TARGETS],
    /// Per target: a word on a stack that points into neither span is no return address.
    pub code: [[CodeSpan; CODE_SPANS]; MAX_TARGETS],
}

impl Control {
    /// Records nothing and watches nobody.
    pub const IDLE: Self = Self {
        armed: IDLE,
        target_count: 0,
        tracer: 0,
        recording: 1,
        targets: [0; MAX_TARGETS],
        code: [[CodeSpan { start: 0, length: 0 }; CODE_SPANS]; MAX_TARGETS],
    };

    /// Nothing is recorded from now on, and what comes next is another recording.
    pub const fn disarm(&mut self) {
        self.armed = IDLE;
        self.recording = if self.recording == u32::MAX { 1 } else { self.recording + 1 };
    }
}

const _: () = assert!(size_of::<Control>() == 16 + 4 * MAX_TARGETS + 16 * CODE_SPANS * MAX_TARGETS);

#[cfg(test)]
mod tests {
    use super::{Control, IDLE, MACHINE};

    #[test]
    fn each_recording_has_a_number_of_its_own_and_none_has_0() {
        for (before, after) in [(1, 2), (u32::MAX - 1, u32::MAX), (u32::MAX, 1)] {
            let mut control = Control { armed: MACHINE, recording: before, ..Control::IDLE };
            control.disarm();
            assert_eq!((control.armed, control.recording), (IDLE, after));
        }
        assert_ne!(Control::IDLE.recording, 0);
    }
}
