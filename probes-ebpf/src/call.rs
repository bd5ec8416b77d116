//! System calls, entered and left.
//!
//! The tracepoints run in the calling thread with preemption off and interrupts on
//! (include/trace/bpf_probe.h), so these programs number their records in a lane of their own.

use core::ptr::{addr_of_mut, read_volatile};

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use probes_common::{
    CALL_LANE, CALL_LANE_FLAG, CALL_WORDS, CallEnter, CallExit, CallFilter, CpuCounters, Head, Kind,
    WAITV_RECORDED, WAITV_WORDS, number,
};

use crate::control::armed;
use crate::emit::{counters_of, emit_plain, emit_prefix, head};
use crate::maps::CALL_ENTER;
use crate::regs::Regs;
use crate::task::Task;
use crate::ustack::{UserSide, Watched, user_side};

/// A [`CallFilter`]; set at load.
#[unsafe(no_mangle)]
static CALLS: u32 = 0;

/// The bits of a futex operation that are not flags (include/uapi/linux/futex.h, `FUTEX_CMD_MASK`).
const OPERATION_MASK: u64 = 127;
const WORD_BYTES: usize = 8;
/// The verifier bounds the number of elements with this; it is what the limit allows.
const ELEMENT_MASK: usize = 15;

/// A [`Kind::CallEnter`] record with the most words, and room for what the mask lets through.
#[repr(C)]
pub struct CallEnterRecord {
    pub head: Head,
    pub body: CallEnter,
    pub words: [u64; CALL_WORDS + 16],
}

/// A [`Kind::CallExit`] record.
#[repr(C)]
struct CallExitRecord {
    head: Head,
    body: CallExit,
}

/// `sys_enter(struct pt_regs *regs, long id)`.
#[btf_tracepoint(function = "sys_enter")]
pub fn sys_enter(context: BtfTracePointContext) -> i32 {
    let id: i64 = context.arg(1);
    let Some(caller) = caller(id as u32) else { return 0 };
    let Some(record) = CALL_ENTER.get_ptr_mut(0) else { return 0 };
    let Caller { task, counters, watched } = caller;
    // SAFETY: the tracepoint's first argument is a `struct pt_regs *`.
    let arguments = unsafe { Regs::from_argument(context.arg(0)) }.arguments();
    let user =
        if is_wake(id as u32, arguments[1]) { user_side(counters, task, &watched) } else { UserSide::NONE };
    let mut start = head(counters, task, Kind::CallEnter);
    // SAFETY: `record` is this CPU's map entry, and nobody else uses it while the program runs.
    let words = unsafe { addr_of_mut!((*record).words) }.cast::<u64>();
    let bytes = if id as u32 == number::FUTEX_WAITV { waitv_elements(&arguments, words) } else { 0 };
    start.frames = (bytes / WORD_BYTES) as u16;
    let body =
        CallEnter { user_ip: user.ip, user_stack: user.signature, arguments, number: id as u32, reserved: 0 };
    // SAFETY: as above.
    unsafe {
        (*record).head = start;
        (*record).body = body;
    }
    emit_prefix(counters, record, size_of::<Head>() + size_of::<CallEnter>() + bytes);
    0
}

/// `sys_exit(struct pt_regs *regs, long ret)`.
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(context: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint's first argument is a `struct pt_regs *`.
    let number = unsafe { Regs::from_argument(context.arg(0)) }.number();
    let Some(Caller { task, counters, .. }) = caller(number) else { return 0 };
    let mut record = CallExitRecord {
        head: head(counters, task, Kind::CallExit),
        body: CallExit { result: context.arg(1), number, reserved: 0 },
    };
    emit_plain(counters, &mut record);
    0
}

/// A calling thread that is watched, and what its records need.
struct Caller<'a> {
    task: Task,
    counters: *mut CpuCounters,
    watched: Watched<'a>,
}

/// The calling thread, where this call is to be recorded.
#[inline(always)]
fn caller(number: u32) -> Option<Caller<'static>> {
    let control = armed()?;
    if futex_only() && !is_futex(number) {
        return None;
    }
    let task = Task::current();
    let target = task.target(control)?;
    let watched = Watched { control, target, lane: CALL_LANE_FLAG };
    Some(Caller { task, counters: counters_of(CALL_LANE)?, watched })
}

#[inline(always)]
fn futex_only() -> bool {
    // SAFETY: a read of a static.
    unsafe { read_volatile(&CALLS) == CallFilter::Futex as u32 }
}

#[inline(always)]
fn is_futex(number: u32) -> bool {
    matches!(
        number,
        number::FUTEX
            | number::RESTART
            | number::FUTEX_WAITV
            | number::FUTEX_WAKE
            | number::FUTEX_WAIT
            | number::FUTEX_REQUEUE
    )
}

/// Whether this call can end others' waits; its caller's stack is recorded then. That of a call that
/// sleeps comes with the switch.
#[inline(always)]
fn is_wake(number: u32, operation: u64) -> bool {
    // FUTEX_WAKE, REQUEUE, CMP_REQUEUE, WAKE_OP, UNLOCK_PI, WAKE_BITSET and CMP_REQUEUE_PI.
    let wakes = matches!(operation & OPERATION_MASK, 1 | 3 | 4 | 5 | 7 | 10 | 12);
    let is_operation = number == number::FUTEX && wakes;
    futex_only() && (is_operation || number == number::FUTEX_WAKE || number == number::FUTEX_REQUEUE)
}

/// Copies the elements of a `futex_waitv` behind its record, and tells how many bytes they are.
#[inline(always)]
fn waitv_elements(arguments: &[u64; 6], words: *mut u64) -> usize {
    let elements = (arguments[1] as usize).min(WAITV_RECORDED) & ELEMENT_MASK;
    let bytes = elements * WAITV_WORDS * WORD_BYTES;
    // SAFETY: `words` has room for the bytes named; the verifier checks it. The address is the caller's,
    // and the helper takes any.
    let failed = unsafe { bpf_probe_read_user(words.cast(), bytes as u32, arguments[0] as *const _) };
    if failed < 0 { 0 } else { bytes }
}
