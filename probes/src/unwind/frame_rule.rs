//! How to get from a frame to its caller where that can be said in one line: the form in which the
//! analysis of machine code gives its answer.

use gimli::{Register, X86_64};

use super::registers::{Registers, Stack};

/// A frame's canonical frame address (the stack pointer that its caller has after the call), and where
/// the caller's registers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRule {
    /// `rsp` or `rbp`.
    pub base: Register,
    /// Bytes from the base to the canonical frame address.
    pub cfa_offset: i64,
    /// Per register of [`Registers::KEPT`]: where it was saved, in bytes from the canonical frame address;
    /// `None` where it still holds the caller's value.
    pub saved: [Option<i64>; Registers::KEPT.len()],
}

impl FrameRule {
    /// A frame with a frame pointer: `push rbp; mov rbp, rsp` at its start.
    pub const FRAME_POINTER: Self = {
        let mut saved = [None; Registers::KEPT.len()];
        saved[1] = Some(-16);
        Self { base: X86_64::RBP, cfa_offset: 16, saved }
    };

    /// The caller's registers; `None` where they lie outside the stack at hand.
    pub fn apply(&self, registers: &Registers, stack: Stack<'_>) -> Option<Registers> {
        let cfa = registers.get(self.base)?.checked_add_signed(self.cfa_offset)?;
        let mut caller = Registers::caller(stack.word(cfa.checked_sub(8)?)?, cfa);
        for (register, saved) in Registers::KEPT.into_iter().zip(self.saved) {
            let value = match saved {
                Some(offset) => stack.word(cfa.checked_add_signed(offset)?),
                None => registers.get(register),
            };
            caller.set(register, value);
        }
        Some(caller)
    }
}
