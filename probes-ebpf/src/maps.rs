//! The maps, by the names under which user space finds them.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf};
use probes_common::{
    CounterSlot, DIRTIERS, Dirtied, Dirtier, THROTTLED as MOST_THROTTLED, ThreadEntry, ThrottledSince,
    ThrottledThread,
};

use crate::call::CallEnterRecord;
use crate::emit::{SwitchOutRecord, WakingRecord};
use crate::interrupt::Handlers;
use crate::ustack::{SEEN_SLOTS, UserStackRecord};

/// `BPF_F_MMAPABLE`.
const MAPPABLE: u32 = 1 << 10;

/// One entry a CPU: sequence numbers and losses. User space sets the number of entries at load, and maps them.
#[map]
pub static COUNTERS: Array<CounterSlot> = Array::with_max_entries(1, MAPPABLE);

/// The records on their way out. User space sets the size at load.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// Where a switch-out record is put together: it is too large for the stack of a program. A program
/// never runs twice at once on one CPU (the kernel counts such entries as recursion misses instead),
/// so one a CPU is enough, as long as no two programs share it.
#[map]
pub static SWITCH_OUT: PerCpuArray<SwitchOutRecord> = PerCpuArray::with_max_entries(1, 0);

/// The same for looks at running threads.
#[map]
pub static SAMPLE: PerCpuArray<SwitchOutRecord> = PerCpuArray::with_max_entries(1, 0);

/// The same for wake-ups, which also come in interrupts.
#[map]
pub static WAKING: PerCpuArray<WakingRecord> = PerCpuArray::with_max_entries(1, 0);

/// The same for system calls as they are entered.
#[map]
pub static CALL_ENTER: PerCpuArray<CallEnterRecord> = PerCpuArray::with_max_entries(1, 0);

/// Where a user stack is copied to, one entry a CPU, which both programs that use it run with preemption off: an entry of a per-CPU map may not exceed 32 KiB. User
/// space sets the number of entries at load.
#[map]
pub static USER_STACK: Array<UserStackRecord> = Array::with_max_entries(1, 0);

/// Signatures of user stacks whose bytes have been written out, each at the slot of its lowest bits. A
/// signature that is pushed out by another of the same slot has its bytes written once more.
#[map]
pub static SEEN: Array<u64> = Array::with_max_entries(SEEN_SLOTS, 0);

/// Which interrupt's handler runs on each CPU.
#[map]
pub static HANDLERS: PerCpuArray<Handlers> = PerCpuArray::with_max_entries(1, 0);

/// Whose dirtied pages there were. User space sets the number of entries at load, to 1 where nobody counts.
#[map]
pub static DIRTIED: HashMap<Dirtier, Dirtied> = HashMap::with_max_entries(DIRTIERS, 0);

/// Which threads are held back, and since when. User space sets the number of entries as well.
#[map]
pub static THROTTLED: HashMap<ThrottledThread, ThrottledSince> = HashMap::with_max_entries(MOST_THROTTLED, 0);

/// `BPF_F_NO_PREALLOC`: an entry takes memory from when it is made.
const NO_PREALLOC: u32 = 1;

/// The targets' threads, by id, for hooks that name a thread by nothing else. It stays empty where no such hook is
/// used.
#[map]
pub static THREADS: HashMap<u32, ThreadEntry> = HashMap::with_max_entries(16_384, NO_PREALLOC);
