//! Fields of the kernel's own structures, at the offsets that user space read from the running
//! kernel's type information.

use core::ptr::read_volatile;

use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs};
use probes_common::{COMM_LEN, Control, MACHINE, MAX_TARGETS, UserRegisters};

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
static TASK_COMM: u32 = 0;
#[unsafe(no_mangle)]
static TASK_STATE: u32 = 0;
#[unsafe(no_mangle)]
static TASK_ON_RQ: u32 = 0;
/// [`ABSENT`] where the kernel has no such field.
#[unsafe(no_mangle)]
static TASK_SCHED_DELAYED: u32 = 0;
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

/// The offset of a field that this kernel does not have.
const ABSENT: u32 = u32::MAX;

/// `task_struct::flags` of a task that never runs in user space (include/linux/sched.h): `PF_KTHREAD`,
/// and the two that belong to a user's process all the same, `PF_IO_WORKER` and `PF_USER_WORKER`.
const KERNEL_ONLY: u32 = 0x0020_0000 | 0x10 | 0x4000;

/// What a record says of a thread, wherever it is read from.
pub trait Thread: Copy {
    fn tid(self) -> u32;
    fn tgid(self) -> u32;
    /// Nanoseconds of CLOCK_MONOTONIC at which it was made.
    fn start_ns(self) -> u64;

    /// Who it is to the recording.
    #[inline(always)]
    fn side(self, control: &Control) -> Side {
        let tgid = self.tgid();
        if let Some(target) = target(control, tgid) {
            return Side(target as u32);
        }
        let is_recorded = control.armed == MACHINE && self.tid() != 0 && tgid != control.tracer;
        if is_recorded { Side::BYSTANDER } else { Side::UNWATCHED }
    }
}

/// Which of the targets the process `tgid` is, if any.
#[inline(always)]
fn target(control: &Control, tgid: u32) -> Option<usize> {
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

/// Who a thread is to a recording: the index of the target that it is a thread of, or one of the two below.
///
/// A number, because of an enum with a payload the compiler leaves the payload unset where there is none, and the
/// verifier refuses programs that move what was never set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Side(u32);

impl Side {
    /// Another thread, while the whole machine is recorded. A CPU's idle task is none: all CPUs' have the same
    /// id, and when they run nobody does.
    const BYSTANDER: Self = Self(MAX_TARGETS as u32);
    /// Not recorded.
    const UNWATCHED: Self = Self(MAX_TARGETS as u32 + 1);

    #[inline(always)]
    pub fn is_watched(self) -> bool {
        self.0 != Self::UNWATCHED.0
    }

    #[inline(always)]
    pub fn is_target(self) -> bool {
        self.0 < MAX_TARGETS as u32
    }

    /// Of use where [`Side::is_target`].
    #[inline(always)]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A `struct task_struct *`.
pub trait TaskStruct: Copy {
    fn field<T: Copy>(self, offset: &'static u32) -> T;

    /// How it left the CPU, where the scheduler itself does not tell: the bits of its state, and whether it is
    /// still queued to run, so that it did not go to sleep. Sound while the run queue is locked.
    #[inline(always)]
    fn state_and_queued(self) -> (u32, bool) {
        // SAFETY: a read of a static.
        let is_delayed = unsafe { read_volatile(&TASK_SCHED_DELAYED) } != ABSENT
            && self.field::<u8>(&TASK_SCHED_DELAYED) != 0;
        (self.field(&TASK_STATE), self.field::<u32>(&TASK_ON_RQ) != 0 && !is_delayed)
    }

    /// Its name.
    #[inline(always)]
    fn comm(self) -> [u8; COMM_LEN] {
        self.field(&TASK_COMM)
    }
}

impl<S: TaskStruct> Thread for S {
    #[inline(always)]
    fn tid(self) -> u32 {
        self.field(&TASK_PID)
    }

    #[inline(always)]
    fn tgid(self) -> u32 {
        self.field(&TASK_TGID)
    }

    #[inline(always)]
    fn start_ns(self) -> u64 {
        self.field(&TASK_START_TIME)
    }
}

/// A `struct task_struct *` that the verifier knows as such: a tracepoint argument, or current.
#[derive(Clone, Copy)]
pub struct Task(*const u8);

impl TaskStruct for Task {
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
    pub fn is_kernel_only(self) -> bool {
        self.field::<u32>(&TASK_FLAGS) & KERNEL_ONLY != 0
    }

    /// Which of the targets its process is, if any.
    #[inline(always)]
    pub fn target(self, control: &Control) -> Option<usize> {
        target(control, self.tgid())
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
}

/// A `struct task_struct *` that is a bare number to the verifier: an argument of a raw tracepoint or of a
/// function. Its fields are read through a helper, which gives nothing where there is no memory.
#[derive(Clone, Copy)]
pub struct BareTask(pub *const u8);

impl TaskStruct for BareTask {
    #[inline(always)]
    fn field<T: Copy>(self, offset: &'static u32) -> T {
        // SAFETY: the read of the offset is of a static; the helper takes any address.
        let read = unsafe { bpf_probe_read_kernel(self.0.add(read_volatile(offset) as usize).cast::<T>()) };
        // SAFETY: every caller reads integers or arrays of them, of which zero is a value.
        read.unwrap_or(unsafe { core::mem::zeroed() })
    }
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
