//! What is known of a thread's registers and stack at one frame.

use gimli::{Register, X86_64};
use probes_common::UserRegisters;

/// Registers that a called function keeps, and those that every frame has, by their DWARF numbers (System
/// V ABI for x86-64, figure 3.36). `None` where the value is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers([Option<u64>; Self::COUNT]);

impl Registers {
    const COUNT: usize = 17;

    /// Those that a caller has still when a call returns, beside `rsp`.
    pub const KEPT: [Register; 6] =
        [X86_64::RBX, X86_64::RBP, X86_64::R12, X86_64::R13, X86_64::R14, X86_64::R15];

    /// The value, where it is known.
    pub fn get(&self, register: Register) -> Option<u64> {
        self.0.get(usize::from(register.0)).copied().flatten()
    }

    /// Sets or forgets a value. Registers beyond those above are ignored.
    pub fn set(&mut self, register: Register, value: Option<u64>) {
        if let Some(slot) = self.0.get_mut(usize::from(register.0)) {
            *slot = value;
        }
    }

    /// The instruction.
    pub fn ip(&self) -> u64 {
        self.get(X86_64::RA).unwrap_or(0)
    }

    /// The stack pointer.
    pub fn sp(&self) -> u64 {
        self.get(X86_64::RSP).unwrap_or(0)
    }

    /// The registers of the calling frame, which has the stack pointer `cfa`, and goes on at `ip`. What it
    /// kept is for the caller to fill in.
    pub fn caller(ip: u64, cfa: u64) -> Self {
        let mut caller = Self::default();
        caller.set(X86_64::RA, Some(ip));
        caller.set(X86_64::RSP, Some(cfa));
        caller
    }
}

impl From<UserRegisters> for Registers {
    fn from(user: UserRegisters) -> Self {
        let mut registers = Self::caller(user.ip, user.sp);
        registers.set(X86_64::RBP, Some(user.bp));
        registers.set(X86_64::RBX, Some(user.bx));
        let rest = [X86_64::R12, X86_64::R13, X86_64::R14, X86_64::R15];
        for (register, value) in rest.into_iter().zip(user.r12_to_r15) {
            registers.set(register, Some(value));
        }
        registers
    }
}

/// The bytes of a stack that were copied.
#[derive(Clone, Copy, Debug)]
pub struct Stack<'a> {
    /// The address of the first.
    pub start: u64,
    /// From there upwards.
    pub bytes: &'a [u8],
}

impl Stack<'_> {
    /// The word at `address`, if all of it was copied.
    pub fn word(&self, address: u64) -> Option<u64> {
        let at = usize::try_from(address.checked_sub(self.start)?).ok()?;
        self.bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_reaches_beyond_the_bytes_is_not_there() {
        let stack = Stack { start: 0x1000, bytes: &[1, 0, 0, 0, 0, 0, 0, 0, 2] };
        assert_eq!(stack.word(0x1000), Some(1));
        assert_eq!(stack.word(0x1001), Some(2 << 56));
        assert_eq!([stack.word(0x1002), stack.word(0xfff), stack.word(u64::MAX)], [None; 3]);
    }
}
