//! Fields of the kernel's own structures, at the offsets that user space read from the running
//! kernel's type information.

use core::ptr::read_volatile;

use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs};
use probes_common::{Control, MACHINE, UserRegisters};

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
static TASK_MM: u32 = 0;
#[unsafe(no_mangle)]
static TASK_FS_BASE: u32 = 0;
#[unsafe(no_mangle)]
static MM_START_STACK: u32 = 0;
#[unsafe(no_mangle)]
static REGS_IP: u32 = 0;
#[unsafe(no_mangle)]
static REGS_SP: u32 = 0;
#[unsafe(no_mangle)]
static REGS_BP: u32 = 0;
#[unsafe(no_mangle)]
static REGS_BX: u32 = 0;
#[unsafe(no_mangle)]
static REGS_R12: u32 = 0;
#[unsafe(no_mangle)]
static REGS_R13: u32 = 0;
#[unsafe(no_mangle)]
static REGS_R14: u32 = 0;
#[unsafe(no_mangle)]
static REGS_R15: u32 = 0;

/// `task_struct::flags` of a task that never runs in user space (include/linux/sched.h): `PF_KTHREAD`,
/// and the two that belong to a user's process all the same, `PF_IO_WORKER` and `PF_USER_WORKER`.
const KERNEL_ONLY: u32 = 0x0020_0000 | 0x10 | 0x4000;

/// A `struct task_struct *` that the verifier knows as such: a tracepoint argument, or current.
#[derive(Clone, Copy)]
pub struct Task(*const u8);

impl Task {
    /// # Safety
    /// `pointer` must come from a tracepoint's or an iterator's argument of type `struct task_struct *`.
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
    pub fn is_kernel_only(self) -> bool {
        self.field::<u32>(&TASK_FLAGS) & KERNEL_ONLY != 0
    }

    /// Whether its switches and wake-ups are recorded.
    #[inline(always)]
    pub fn side(self, control: &Control) -> Side {
        match self.target(control) {
            Some(target) => Side::Target(target),
            None if control.armed == MACHINE && self.tid() != 0 && self.tgid() != control.tracer => {
                Side::Bystander
            }
            None => Side::Unwatched,
        }
    }

    /// Which of the targets its process is, if any.
    #[inline(always)]
    pub fn target(self, control: &Control) -> Option<usize> {
        let tgid = self.tgid();
        for (index, target) in control.targets.iter().enumerate() {
            if index as u32 >= control.target_count {
                return None;
            }
            if *target == tgid {
                return Some(index);
            }
        }
        None
    }

    /// The registers with which the task entered the kernel: of use if it is current, or asleep.
    #[inline(always)]
    pub fn user_registers(self) -> Registers {
        // SAFETY: the verifier knows `self` as a task; it types and checks the result as well.
        Registers(Self(unsafe { bpf_task_pt_regs(self.0 as *mut _) } as *const u8))
    }

    /// The address at which the stack of the process's first thread began (`mm_struct::start_stack`); `None`
    /// where the task has given its memory back, as one that is ending has.
    #[inline(always)]
    pub fn first_stack_base(self) -> Option<u64> {
        let mm: *const u8 = self.field(&TASK_MM);
        if mm.is_null() { None } else { Some(Self(mm).field(&MM_START_STACK)) }
    }

    /// The thread pointer: the C libraries put what it points to on top of the stack of each thread that
    /// they make.
    #[inline(always)]
    pub fn thread_pointer(self) -> u64 {
        self.field(&TASK_FS_BASE)
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

/// Who a task is to a recording.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A thread of the target with this index.
    Target(usize),
    /// Another thread, while the whole machine is recorded. A CPU's idle task is none: all CPUs' have the same
    /// id, and when they run nobody does.
    Bystander,
    /// Not recorded.
    Unwatched,
}

/// `struct pt_regs` of a task.
#[derive(Clone, Copy)]
pub struct Registers(Task);

impl Registers {
    #[inline(always)]
    pub fn ip(self) -> u64 {
        self.0.field(&REGS_IP)
    }

    #[inline(always)]
    pub fn sp(self) -> u64 {
        self.0.field(&REGS_SP)
    }

    #[inline(always)]
    pub fn bp(self) -> u64 {
        self.0.field(&REGS_BP)
    }

    /// All of them.
    #[inline(always)]
    pub fn read(self) -> UserRegisters {
        let register = |offset| self.0.field(offset);
        UserRegisters {
            ip: self.ip(),
            sp: self.sp(),
            bp: self.bp(),
            bx: register(&REGS_BX),
            r12_to_r15: [&REGS_R12, &REGS_R13, &REGS_R14, &REGS_R15].map(register),
        }
    }
}
