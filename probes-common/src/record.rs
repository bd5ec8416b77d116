//! The records, as they lie in the ring buffer: a [`Head`], the body that its kind calls for, then
//! `frames` kernel return addresses, innermost first, of eight bytes each. Native byte order.

/// Length of a thread's name in the kernel, with the terminating NUL.
pub const COMM_LEN: usize = 16;

/// Frames that one record can carry: the kernel's own default for `kernel.perf_event_max_stack`.
pub const MAX_FRAMES: usize = 127;

/// The most user stack that one record carries, in bytes.
pub const MAX_USER_STACK: usize = 32 << 10;

/// Flag: the scheduler took the CPU away; the thread had not asked to sleep.
pub const PREEMPTED: u8 = 1;
/// Flag: the kernel gave no stack for this event.
pub const STACK_FAILED: u8 = 2;
/// Flag: the stack is as deep as the kernel records, and may be cut.
pub const STACK_TRUNCATED: u8 = 4;

/// Flag of a [`Kind::SwitchOut`]: stack and user side were out of reach; a [`Kind::SwitchBack`] brings them.
pub const STACK_LATE: u8 = 8;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A watched thread left a CPU. Body: [`SwitchOut`]; frames: its own kernel stack.
    SwitchOut = 1,
    /// A watched thread got a CPU. No body, no frames: the previous thread is still current there.
    SwitchIn = 2,
    /// A watched thread is being woken. Body: [`Waking`]; frames: the kernel stack that wakes.
    Waking = 3,
    /// A watched thread was born and may run. Body: [`Other`], the thread that made it; no frames.
    Born = 4,
    /// A user stack that other records name by its signature; written before the first that does. Body:
    /// [`UserStack`]; then that many bytes of stack; no frames. The head names the thread it is of.
    UserStack = 5,
    /// A watched thread was looked at while it ran. Body: [`SwitchOut`] without a state; frames: its own kernel
    /// stack, none where it was in user space.
    Sample = 6,
    /// A thread entered the function that bounds windows. Body: [`Bound`]; no frames, and outside of the sequence.
    WindowOpen = 7,
    /// A thread left that function. Body: [`Bound`]; no frames, and outside of the sequence.
    WindowClose = 8,
    /// A watched thread has got a CPU, told from its own context: by a hook behind the switch. Body: [`SwitchOut`]
    /// without a state; frames: its kernel stack, which is what it left the CPU with.
    SwitchBack = 9,
    /// A watched thread entered a system call. Body: [`CallEnter`](crate::CallEnter); the words after it are
    /// the elements of a `futex_waitv`.
    CallEnter = 16,
    /// A watched thread is about to leave a system call. Body: [`CallExit`](crate::CallExit).
    CallExit = 17,
    /// A request to a block device is made, for what the current thread submits. Body:
    /// [`Request`](crate::Request). Address 0 where the kernel has no tracepoint that tells it.
    RequestStart = 32,
    /// It is put into a queue: an I/O scheduler's, or the one before the driver. Requests that are issued at
    /// once have none. Body: [`Request`](crate::Request).
    RequestInsert = 33,
    /// The driver takes it. Body: [`Request`](crate::Request).
    RequestIssue = 34,
    /// The driver gives it back, to be issued again. Body: [`Request`](crate::Request).
    RequestRequeue = 35,
    /// Another request takes it in; it ends here. Body: [`Request`](crate::Request).
    RequestMerge = 36,
    /// The device is done with it, or with a part of it. Body: [`Request`](crate::Request).
    RequestComplete = 37,
    /// A request takes in a piece of I/O that lies beside it. Body: [`Bio`](crate::Bio).
    BioMerge = 38,
    /// A piece of I/O is too large for one request. Body: [`Bio`](crate::Bio), the whole.
    BioSplit = 39,
    /// A piece of I/O is sent on to another device. Body: [`Bio`](crate::Bio).
    BioRemap = 40,
    /// A journal's transaction reaches a step. Body: [`Commit`](crate::Commit).
    Commit = 41,
    /// ext4 begins to make a file durable. Body: [`Sync`](crate::Sync).
    SyncEnter = 42,
    /// It has ended. Body: [`Sync`](crate::Sync).
    SyncExit = 43,
    /// ext4 looks for free blocks. Body: [`Allocation`](crate::Allocation).
    AllocateEnter = 44,
    /// It has ended. Body: [`Allocation`](crate::Allocation).
    AllocateExit = 45,
    /// A thread that dirties pages is told to pause. Body: [`DirtyPause`](crate::DirtyPause).
    DirtyPause = 46,
    /// Writeback throttling measured. Body: [`WbtStat`](crate::WbtStat).
    WbtStat = 47,
    /// Writeback throttling sees a read that is late. Body: [`WbtLatency`](crate::WbtLatency).
    WbtLatency = 48,
    /// Writeback throttling changes its limits. Body: [`WbtStep`](crate::WbtStep).
    WbtStep = 49,
    /// A window of writeback throttling is over. Body: [`WbtTimer`](crate::WbtTimer).
    WbtTimer = 50,
    /// A thread leaves a throttle. Body: [`ThrottleExit`](crate::ThrottleExit).
    ThrottleExit = 51,
}

/// The start of every record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Head {
    /// When, in nanoseconds of CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// The number of records that this CPU had tried to write before this one: a gap is a loss.
    pub sequence: u64,
    /// The thread's start, in nanoseconds of CLOCK_MONOTONIC. With `tid` it names the thread even
    /// where the id was used again.
    pub start_ns: u64,
    /// The watched thread, in the initial pid namespace.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// The CPU that wrote the record.
    pub cpu: u32,
    /// Return addresses after the body.
    pub frames: u16,
    /// A [`Kind`].
    pub kind: u8,
    /// [`PREEMPTED`], [`STACK_FAILED`], [`STACK_TRUNCATED`], [`CALL_LANE_FLAG`](crate::CALL_LANE_FLAG).
    pub flags: u8,
}

/// What a [`Kind::SwitchOut`] adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SwitchOut {
    /// Where the thread entered the kernel from user space; 0 where it never did.
    pub user_ip: u64,
    /// The signature of its user stack, by which a [`Kind::UserStack`] record gives the bytes; 0 where
    /// there is none.
    pub user_stack: u64,
    /// The tracepoint's `prev_state`, as it came: a mask, to be tested bit by bit.
    pub prev_state: u32,
    /// Keeps the size a multiple of eight, and is written, so that no stale byte leaves the kernel.
    pub reserved: u32,
    /// The thread's name.
    pub comm: [u8; COMM_LEN],
}

/// The thread on the other side of an event: the waker, or the one that made a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Other {
    /// Its id in the initial pid namespace; 0 is a CPU's idle task, and as valid as any other.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// Its name.
    pub comm: [u8; COMM_LEN],
}

/// What a [`Kind::Waking`] adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Waking {
    /// The thread that was current where the wake-up came from: an interrupt comes upon it by chance.
    pub waker: Other,
    /// [`IN_NO_HANDLER`], [`IN_DEVICE_HANDLER`] or [`IN_SOFTIRQ`].
    pub context: u32,
    /// The device interrupt's number, as `/proc/interrupts` lists it, or the soft interrupt's
    /// (include/linux/interrupt.h); 0 where there is neither.
    pub number: u32,
}

/// [`Waking::context`]: no handler of a device or soft interrupt was running on the CPU. The stack tells an
/// interrupt that has no such handler (a clock tick, a message from another CPU) from the thread's own doing.
pub const IN_NO_HANDLER: u32 = 0;
/// [`Waking::context`]: in the handler of a device's interrupt.
pub const IN_DEVICE_HANDLER: u32 = 1;
/// [`Waking::context`]: in a soft interrupt, on the way out of a hard one, in a thread that had kept it off, or in
/// `ksoftirqd`.
pub const IN_SOFTIRQ: u32 = 2;

/// The registers of a thread as it entered the kernel: those that unwinding may need, because a called
/// function keeps them (System V ABI for x86-64, section 3.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct UserRegisters {
    /// `rip`.
    pub ip: u64,
    /// `rsp`: the address of the first byte of stack.
    pub sp: u64,
    /// `rbp`.
    pub bp: u64,
    /// `rbx`.
    pub bx: u64,
    /// `r12` to `r15`.
    pub r12_to_r15: [u64; 4],
}

/// What a [`Kind::UserStack`] adds.
///
/// The signature mixes the process, `ip`, `sp`, `bp` where it points into the stack, and, with their
/// places, all words of the copied bytes that can be return addresses: those that point into the process's
/// code. So two stacks of one signature have the same calls on them, and a local variable that counts does
/// not make a new stack of each switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct UserStack {
    /// Never 0.
    pub signature: u64,
    /// The registers that belong to it.
    pub registers: UserRegisters,
    /// How many bytes follow, from `registers.sp` upwards: at most [`MAX_USER_STACK`].
    pub bytes: u64,
}

/// What a [`Kind::WindowOpen`] and a [`Kind::WindowClose`] add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Bound {
    /// `rsp`. At the entry it is where the return address lies, at the return the word above that.
    pub sp: u64,
}

/// To whom a thread id belongs, where a hook gives the id only. The value of an entry of the `THREADS` map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ThreadEntry {
    /// The thread's start, in nanoseconds of CLOCK_MONOTONIC, as near as it is known.
    pub start_ns: u64,
    /// Its process.
    pub tgid: u32,
    /// Keeps the size a multiple of eight.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Head>() == 40 && size_of::<SwitchOut>() == 40);
const _: () = assert!(size_of::<Other>() == 24 && size_of::<Waking>() == 32);

/// The registers of a thread that is asleep, as the iterator over tasks writes them: no record, and not
/// in the ring buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TaskRegisters {
    /// The thread, in the initial pid namespace.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// As it entered the kernel.
    pub registers: UserRegisters,
}

const _: () = assert!(size_of::<UserStack>() == 80 && size_of::<TaskRegisters>() == 72);
