//! Writing records out, and counting those that could not be written.

use core::ffi::c_void;
use core::ptr::addr_of_mut;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{
    bpf_get_smp_processor_id, bpf_get_stack, bpf_ringbuf_output, bpf_ringbuf_query,
};
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_ktime_get_ns};
use probes_common::{
    Bound, COMM_LEN, CpuCounters, Head, Kind, Loss, MAX_FRAMES, Other, SCHED_LANE, STACK_FAILED,
    STACK_TRUNCATED, SwitchOut, Waking,
};

use crate::log;
use crate::maps::{COUNTERS, EVENTS};
use crate::task::{Task, Thread};

/// `BPF_RB_NO_WAKEUP`: user space reads on a timer, so that no traced switch pays for waking the tracer.
pub const NO_WAKEUP: u64 = 1;
/// `BPF_RB_AVAIL_DATA` and `BPF_RB_RING_SIZE`, questions to `bpf_ringbuf_query`.
const RING_UNREAD: u64 = 0;
const RING_SIZE: u64 = 1;
const FRAME_BYTES: usize = 8;
/// The bytes of a stack are masked with this for the verifier. It is above the most that the kernel
/// writes, so it changes nothing; the buffer has room for it.
const STACK_MASK: usize = 1023;

/// Room for a stack.
#[repr(C)]
pub struct Frames([u64; MAX_FRAMES + 1]);

/// A [`Kind::SwitchOut`] or [`Kind::Sample`] record with the most frames.
#[repr(C)]
pub struct SwitchOutRecord {
    pub head: Head,
    pub body: SwitchOut,
    pub frames: Frames,
}

/// A [`Kind::SwitchOut`] record without frames.
#[repr(C)]
pub struct PlainSwitchOut {
    pub head: Head,
    pub body: SwitchOut,
}

/// A [`Kind::Waking`] record with the most frames.
#[repr(C)]
pub struct WakingRecord {
    pub head: Head,
    pub body: Waking,
    pub frames: Frames,
}

/// A [`Kind::Born`] record.
#[repr(C)]
pub struct BornRecord {
    pub head: Head,
    pub body: Other,
}

/// A [`Kind::WindowOpen`] or [`Kind::WindowClose`] record.
#[repr(C)]
pub struct BoundRecord {
    pub head: Head,
    pub body: Bound,
}

/// What a stack capture came to.
pub struct Stack {
    pub bytes: usize,
    pub flags: u8,
}

impl Stack {
    #[inline(always)]
    pub fn frames(&self) -> u16 {
        (self.bytes / FRAME_BYTES) as u16
    }
}

/// Stamps an event of `task`, and takes this CPU's next sequence number for it.
#[inline(always)]
pub fn head(counters: *mut CpuCounters, task: impl Thread, kind: Kind) -> Head {
    let sequence = next(counters);
    log::record(sequence, kind, task);
    Head { sequence, ..stamp(task, kind) }
}

/// Stamps an event of `task`, without a number.
#[inline(always)]
pub fn stamp(task: impl Thread, kind: Kind) -> Head {
    Head {
        // SAFETY: no preconditions.
        time_ns: unsafe { bpf_ktime_get_ns() },
        sequence: 0,
        start_ns: task.start_ns(),
        tid: task.tid(),
        tgid: task.tgid(),
        // SAFETY: no preconditions.
        cpu: unsafe { bpf_get_smp_processor_id() } as u32,
        frames: 0,
        kind: kind as u8,
        flags: 0,
    }
}

/// This CPU's counters of switches and wake-ups.
#[inline(always)]
pub fn counters() -> Option<*mut CpuCounters> {
    counters_of(SCHED_LANE)
}

/// This CPU's counters of a lane. The kernel lets no program that runs change the CPU.
#[inline(always)]
pub fn counters_of(lane: u32) -> Option<*mut CpuCounters> {
    // SAFETY: no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    let slot = COUNTERS.get_ptr_mut(cpu)?;
    // SAFETY: every caller names a lane that there is; the verifier checks it.
    Some(unsafe { slot.cast::<CpuCounters>().add(lane as usize) })
}

/// Copies the kernel stack of the current context into `frames`.
#[inline(always)]
pub fn kernel_stack<C: EbpfContext>(context: &C, counters: *mut CpuCounters, frames: *mut Frames) -> Stack {
    // SAFETY: `frames` has room for the bytes named; the verifier checks it.
    let written =
        unsafe { bpf_get_stack(context.as_ptr(), frames.cast(), (MAX_FRAMES * FRAME_BYTES) as u32, 0) };
    if written < 0 {
        count(counters, Loss::StackFailed);
        return Stack { bytes: 0, flags: STACK_FAILED };
    }
    let bytes = written as usize & STACK_MASK;
    if bytes < MAX_FRAMES * FRAME_BYTES {
        return Stack { bytes, flags: 0 };
    }
    count(counters, Loss::StackTruncated);
    Stack { bytes, flags: STACK_TRUNCATED }
}

/// Hands the first `size_of::<T>() - size_of::<Frames>() + stack.bytes` bytes of a record out.
#[inline(always)]
pub fn emit_with_stack<T>(counters: *mut CpuCounters, record: *mut T, stack: &Stack) {
    let length = size_of::<T>() - size_of::<Frames>() + (stack.bytes & STACK_MASK);
    emit(counters, record.cast(), length);
}

/// Hands the first `length` bytes of a record out; false where they are lost.
#[inline(always)]
pub fn emit_prefix<T>(counters: *mut CpuCounters, record: *mut T, length: usize) -> bool {
    emit(counters, record.cast(), length)
}

/// Whether `length` more bytes leave half of the ring buffer free.
#[inline(always)]
pub fn has_room_for(length: usize) -> bool {
    // SAFETY: no preconditions.
    let (unread, size) =
        unsafe { (bpf_ringbuf_query(events(), RING_UNREAD), bpf_ringbuf_query(events(), RING_SIZE)) };
    unread + length as u64 <= size / 2
}

/// Hands a record without frames out.
#[inline(always)]
pub fn emit_plain<T>(counters: *mut CpuCounters, record: &mut T) {
    emit(counters, (record as *mut T).cast(), size_of::<T>());
}

/// Writes a record to the ring buffer; false, and counted, where it had no room.
#[inline(always)]
fn emit(counters: *mut CpuCounters, record: *mut u8, length: usize) -> bool {
    // SAFETY: `record` is valid for `length` bytes; the verifier checks it.
    let is_out = unsafe { bpf_ringbuf_output(events(), record.cast(), length as u64, NO_WAKEUP) } == 0;
    if !is_out {
        count(counters, Loss::RingFull);
    }
    is_out
}

#[inline(always)]
pub fn events() -> *mut c_void {
    &EVENTS as *const _ as *mut c_void
}

/// The current thread as the other side of an event.
#[inline(always)]
pub fn current_as_other() -> Other {
    let current = Task::current();
    Other { tid: current.tid(), tgid: current.tgid(), comm: current_comm() }
}

/// The current thread's name; empty where the kernel gives none, which it always does.
#[inline(always)]
pub fn current_comm() -> [u8; COMM_LEN] {
    bpf_get_current_comm().unwrap_or([0; COMM_LEN])
}

/// Counts one loss.
#[inline(always)]
pub fn count(counters: *mut CpuCounters, cause: Loss) {
    // SAFETY: `counters` is the value of a map entry, valid for the program's run.
    let before = add_one(unsafe { addr_of_mut!((*counters).lost[cause as usize]) });
    log::loss(before, cause);
}

#[inline(always)]
fn next(counters: *mut CpuCounters) -> u64 {
    // SAFETY: as in `count`.
    add_one(unsafe { addr_of_mut!((*counters).attempted) })
}

/// Plain, not atomic: the scheduler calls all three tracepoints with interrupts off, but for a thread
/// that wakes itself (`try_to_wake_up`, `p == current`), where the only one of the programs that an
/// interrupt could start is the one already running, and the kernel turns that entry away.
#[inline(always)]
fn add_one(slot: *mut u64) -> u64 {
    // SAFETY: `slot` is an aligned field of this CPU's map entry, and nobody writes it meanwhile.
    unsafe {
        let before = slot.read();
        slot.write(before + 1);
        before
    }
}
