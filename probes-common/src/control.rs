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

/// [`Control::armed`]: every program returns at once.
pub const IDLE: u32 = 0;
/// [`Control::armed`]: the threads of the first target are recorded, the only one that there is.
pub const ONE_TARGET: u32 = 1;
/// [`Control::armed`]: the threads of all targets are recorded.
pub const TARGETS: u32 = 2;
/// [`Control::armed`]: the switches and wake-ups of every thread are recorded, with the user stacks of the
/// targets' threads.
pub const MACHINE: u32 = 3;

/// What the programs do. The value of the only entry of the `CONTROL` map.
///
/// An array that is scanned costs less than a hash lookup at these sizes, and the verifier turns the
/// lookup of an array map into plain loads. What a switch that concerns nobody needs lies in the first words,
/// so that it touches one line of the cache.
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
    /// Keeps what follows at a multiple of eight.
    pub reserved: u32,
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
        reserved: 0,
        targets: [0; MAX_TARGETS],
        code: [[CodeSpan { start: 0, length: 0 }; CODE_SPANS]; MAX_TARGETS],
    };
}

const _: () = assert!(size_of::<Control>() == 16 + 4 * MAX_TARGETS + 16 * CODE_SPANS * MAX_TARGETS);
