//! System calls, as the `sys_enter` and `sys_exit` tracepoints tell of them.

/// How many counters each CPU has: programs that may interrupt one another on one CPU number their
/// records apart, so that neither needs an atomic operation.
pub const LANES: u32 = 3;
/// The lane of the scheduler's tracepoints.
pub const SCHED_LANE: u32 = 0;
/// The lane of the system calls' tracepoints: they run with interrupts on, and a wake-up may come between.
pub const CALL_LANE: u32 = 1;

/// Flag: a record of another kind that is numbered in [`CALL_LANE`].
pub const CALL_LANE_FLAG: u8 = 16;

/// The first [`Kind`](crate::Kind) of the system calls' lane.
pub const FIRST_CALL_KIND: u8 = 16;

/// The most words that follow a [`CallEnter`].
pub const CALL_WORDS: usize = 48;
/// Words of one `struct futex_waitv` (include/uapi/linux/futex.h): value, address, flags.
pub const WAITV_WORDS: usize = 3;
/// The most elements of a `futex_waitv` call that are recorded; the kernel takes up to 128.
pub const WAITV_RECORDED: usize = CALL_WORDS / WAITV_WORDS - 1;

/// Which calls are recorded. The value of the constant `CALLS` of the kernel side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CallFilter {
    /// Every one.
    All = 0,
    /// The futex family, and `restart_syscall`, which may go on with one of them.
    Futex = 1,
}

/// What a [`Kind::CallEnter`](crate::Kind::CallEnter) adds; `frames` words follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CallEnter {
    /// Where the thread entered the kernel; 0 but for a futex operation that wakes.
    pub user_ip: u64,
    /// The signature of its user stack; 0 where there is none.
    pub user_stack: u64,
    /// The arguments as the caller's registers held them.
    pub arguments: [u64; 6],
    /// The call's number.
    pub number: u32,
    /// Keeps the size a multiple of eight, and is written, so that no stale byte leaves the kernel.
    pub reserved: u32,
}

/// What a [`Kind::CallExit`](crate::Kind::CallExit) adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CallExit {
    /// What the call came to: a negative errno, or a result.
    pub result: i64,
    /// The call's number; `u32::MAX` after `rt_sigreturn`, which forgets it.
    pub number: u32,
    /// As in [`CallEnter`].
    pub reserved: u32,
}

const _: () = assert!(size_of::<CallEnter>() == 72 && size_of::<CallExit>() == 16);

/// The futex family's numbers, and that of `restart_syscall`, on x86-64
/// (arch/x86/entry/syscalls/syscall_64.tbl). From 449 on they are the same on every architecture.
pub mod number {
    /// `restart_syscall`: goes on with a timed wait that a signal interrupted.
    pub const RESTART: u32 = 219;
    /// `futex`.
    pub const FUTEX: u32 = 202;
    /// `futex_waitv`.
    pub const FUTEX_WAITV: u32 = 449;
    /// `futex_wake`.
    pub const FUTEX_WAKE: u32 = 454;
    /// `futex_wait`.
    pub const FUTEX_WAIT: u32 = 455;
    /// `futex_requeue`.
    pub const FUTEX_REQUEUE: u32 = 456;
}
