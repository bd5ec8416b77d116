//! User stacks: registers and stack bytes to the calls that led there.
//!
//! Each frame's caller is found by the call frame information in `.eh_frame`; where there is none, by an
//! analysis of what the code does to the stack pointer (hand-written system call wrappers); and as the
//! last resort by a frame pointer that leads somewhere plausible. A stack that could not be followed to
//! where its thread began is marked as truncated. `.debug_frame` is not read.

mod cfi;
mod frame_rule;
mod module;
mod offsets;
mod processes;
mod registers;
mod stacks;
mod walk;

pub use frame_rule::FrameRule;
pub use module::Module;
pub use offsets::At;
pub use processes::ProcessStacks;
pub use registers::{Registers, Stack};
pub use stacks::UserStacks;
pub use walk::{Modules, Walk};

use crate::images::Place;

/// For [`crate::fuzzing`]: the analysis of a function's code, from each of its ends.
#[cfg(any(test, feature = "fuzzing"))]
pub fn analyse(bytes: &[u8], at: u64) {
    let code = offsets::Code { start: 0x40_1000, bytes };
    let ip = code.start.wrapping_add(at);
    let entry = offsets::from_entry(code, At::After(ip)).or(offsets::from_entry(code, At::Next(ip)));
    let _ = offsets::agreed(entry, offsets::to_return(code, ip));
}

/// The most frames of one stack; deeper ones are truncated.
pub const MAX_DEPTH: usize = 256;

/// A user stack.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserFrames {
    /// Innermost first. The first is the instruction itself, the others are return addresses.
    pub places: Vec<Place>,
    /// The outermost frames are missing.
    pub truncated: bool,
}
