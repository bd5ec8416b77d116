//! Fields of the kernel's own structures, at the offsets that user space read from the running
//! kernel's type information.

use core::ptr::read_volatile;

use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs};
use probes_common::Control;

/// Set at load, and constant for the verifier from then on: the section is read-only.
#[unsafe(no_mangle)]
static TASK_PID: u32 = 0;
#[unsafe(no_mangle)]
static TASK_TGID: u32 = 0;
#[unsafe(no_mangle)]
static TASK_FLAGS: u32 = 0;
#[unsafe(no_mangle)]
static TASK_START_TIME: u32 = 0;
#[unsafe(no_mangle)]
static REGS_IP: u32 = 0;

/// `task_struct::flags`: the task never runs in user space (include/linux/sched.h).
const PF_KTHREAD: u32 = 0x0020_0000;

/// A `struct task_struct *` that the verifier knows as such: a tracepoint argument, or current.
#[derive(Clone, Copy)]
pub struct Task(*const u8);

impl Task {
    /// # Safety
    /// `pointer` must come from a tracepoint argument of type `struct task_struct *`.
    #[inline(always)]
    pub const unsafe fn from_argument(pointer: *const u8) -> Self {
        Self(pointer)
    }

    #[inline(always)]
    pub fn current() -> Self {
        // SAFETY: the helper has no precondition; the verifier types its result.
        Self(unsafe { bpf_get_current_task_btf() } as *const u8)
    }

    #[inline(always)]
    pub fn tid(self) -> u32 {
        self.field(&TASK_PID)
    }

    #[inline(always)]
    pub fn tgid(self) -> u32 {
        self.field(&TASK_TGID)
    }

    /// Nanoseconds of CLOCK_MONOTONIC at which the task was made.
    #[inline(always)]
    pub fn start_ns(self) -> u64 {
        self.field(&TASK_START_TIME)
    }

    #[inline(always)]
    pub fn is_kernel_thread(self) -> bool {
        self.field::<u32>(&TASK_FLAGS) & PF_KTHREAD != 0
    }

    /// Whether its process is among the targets.
    #[inline(always)]
    pub fn is_watched(self, control: &Control) -> bool {
        let tgid = self.tgid();
        for (index, target) in control.targets.iter().enumerate() {
            if index as u32 >= control.target_count {
                return false;
            }
            if *target == tgid {
                return true;
            }
        }
        false
    }

    /// The user instruction at which the *current* task entered the kernel; 0 if it did not.
    #[inline(always)]
    pub fn user_ip(self) -> u64 {
        // SAFETY: `self` is current, typed by the verifier; it types and checks the result as well.
        let regs = unsafe { bpf_task_pt_regs(self.0 as *mut _) } as *const u8;
        Self(regs).field(&REGS_IP)
    }

    #[inline(always)]
    fn field<T: Copy>(self, offset: &'static u32) -> T {
        // SAFETY: the read of the offset is of a static. The verifier knows the base's type, and
        // refuses the program unless offset and width name memory inside that structure.
        unsafe {
            let offset = read_volatile(offset) as usize;
            read_volatile(self.0.add(offset).cast::<T>())
        }
    }
}
