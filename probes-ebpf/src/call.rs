//! System calls, entered and left.
//!
//! The tracepoints run in the calling thread with preemption off and interrupts on
//! (include/trace/bpf_probe.h), so these programs number their records in a lane of their own.

use core::ptr::{addr_of_mut, read_volatile};

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_stack, bpf_probe_read_user};
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use probes_common::{
    CALL_LANE, CALL_WORDS, CallEnter, CallExit, CallFilter, Control, CpuCounters, Head, Kind, WAITV_RECORDED,
    WAITV_WORDS, number,
};

use crate::emit::{emit_plain, emit_words, head};
use crate::maps::{CALL_ENTER, CONTROL, COUNTERS};
use crate::regs::Regs;
use crate::task::Task;

/// A [`CallFilter`]; set at load.
#[unsafe(no_mangle)]
static CALLS: u32 = 0;

/// `BPF_F_USER_STACK`.
const USER_STACK: u64 = 1 << 8;
const WORD_BYTES: usize = 8;
/// The verifier bounds what is read and written with these; both are above what the limits allow.
const ELEMENT_MASK: usize = 15;
const WORD_BYTES_MASK: usize = 511;

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
    let Some((task, counters)) = caller(id as u32) else { return 0 };
    let Some(record) = CALL_ENTER.get_ptr_mut(0) else { return 0 };
    // SAFETY: the tracepoint's first argument is a `struct pt_regs *`.
    let arguments = unsafe { Regs::from_argument(context.arg(0)) }.arguments();
    let mut start = head(counters, task, Kind::CallEnter);
    // SAFETY: `record` is this CPU's map entry, and nobody else uses it while the program runs.
    let words = unsafe { addr_of_mut!((*record).words) }.cast::<u64>();
    let bytes = words_after(&context, id as u32, &arguments, words);
    start.frames = (bytes / WORD_BYTES) as u16;
    let body = CallEnter { arguments, number: id as u32, reserved: 0 };
    // SAFETY: as above.
    unsafe {
        (*record).head = start;
        (*record).body = body;
    }
    emit_words(counters, record.cast(), size_of::<Head>() + size_of::<CallEnter>() + bytes);
    0
}

/// `sys_exit(struct pt_regs *regs, long ret)`.
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(context: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint's first argument is a `struct pt_regs *`.
    let number = unsafe { Regs::from_argument(context.arg(0)) }.number();
    let Some((task, counters)) = caller(number) else { return 0 };
    let mut record = CallExitRecord {
        head: head(counters, task, Kind::CallExit),
        body: CallExit { result: context.arg(1), number, reserved: 0 },
    };
    emit_plain(counters, &mut record);
    0
}

/// The calling thread and its lane's counters, where this call is to be recorded.
#[inline(always)]
fn caller(number: u32) -> Option<(Task, *mut CpuCounters)> {
    let control: &Control = CONTROL.get(0).filter(|control| control.armed != 0)?;
    if futex_only() && !is_futex(number) {
        return None;
    }
    let task = Task::current();
    if !task.is_watched(control) {
        return None;
    }
    Some((task, COUNTERS.get_ptr_mut(CALL_LANE)?))
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

/// Writes what a futex operation's record ends with, and tells how many bytes that is.
#[inline(always)]
fn words_after(context: &BtfTracePointContext, number: u32, arguments: &[u64; 6], words: *mut u64) -> usize {
    if !futex_only() {
        return 0;
    }
    if number == number::FUTEX_WAITV {
        return waitv_elements(arguments, words);
    }
    // SAFETY: `words` has room for the bytes named; the verifier checks it.
    let written = unsafe {
        bpf_get_stack(context.as_ptr(), words.cast(), (CALL_WORDS * WORD_BYTES) as u32, USER_STACK)
    };
    if written < 0 { 0 } else { written as usize & WORD_BYTES_MASK }
}

#[inline(always)]
fn waitv_elements(arguments: &[u64; 6], words: *mut u64) -> usize {
    let elements = (arguments[1] as usize).min(WAITV_RECORDED) & ELEMENT_MASK;
    let bytes = elements * WAITV_WORDS * WORD_BYTES;
    // SAFETY: `words` has room for the bytes named; the verifier checks it. The address is the caller's,
    // and the helper takes any.
    let failed = unsafe { bpf_probe_read_user(words.cast(), bytes as u32, arguments[0] as *const _) };
    if failed < 0 { 0 } else { bytes }
}
