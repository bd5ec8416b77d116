//! A thread's user registers, at the offsets that user space read from the running kernel's type
//! information. The names of the fields are those of x86-64.

use core::ptr::read_volatile;

/// Set at load, and constant for the verifier from then on: the section is read-only.
#[unsafe(no_mangle)]
static REGS_DI: u32 = 0;
#[unsafe(no_mangle)]
static REGS_SI: u32 = 0;
#[unsafe(no_mangle)]
static REGS_DX: u32 = 0;
#[unsafe(no_mangle)]
static REGS_R10: u32 = 0;
#[unsafe(no_mangle)]
static REGS_R8: u32 = 0;
#[unsafe(no_mangle)]
static REGS_R9: u32 = 0;
#[unsafe(no_mangle)]
static REGS_ORIG_AX: u32 = 0;

/// A `struct pt_regs *` that the verifier knows as such: an argument of `sys_enter` or `sys_exit`.
#[derive(Clone, Copy)]
pub struct Regs(*const u8);

impl Regs {
    /// # Safety
    /// `pointer` must come from a tracepoint argument of type `struct pt_regs *`.
    #[inline(always)]
    pub const unsafe fn from_argument(pointer: *const u8) -> Self {
        Self(pointer)
    }

    /// The arguments of the system call.
    #[inline(always)]
    pub fn arguments(self) -> [u64; 6] {
        [
            self.field(&REGS_DI),
            self.field(&REGS_SI),
            self.field(&REGS_DX),
            self.field(&REGS_R10),
            self.field(&REGS_R8),
            self.field(&REGS_R9),
        ]
    }

    /// The number of the system call.
    #[inline(always)]
    pub fn number(self) -> u32 {
        self.field(&REGS_ORIG_AX) as u32
    }

    #[inline(always)]
    fn field(self, offset: &'static u32) -> u64 {
        // SAFETY: the read of the offset is of a static. The verifier knows the base's type, and
        // refuses the program unless the offset names memory inside that structure.
        unsafe { read_volatile(self.0.add(read_volatile(offset) as usize).cast::<u64>()) }
    }
}
