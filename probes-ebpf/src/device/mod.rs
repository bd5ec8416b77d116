//! Events on the way between a process and a disk. They are the whole machine's: a request is often made by another
//! thread than the one that it is for.
//!
//! These programs run in tasks and in interrupts, and one may come upon another on the same CPU. So their records lie
//! on the stack, and their counters are atomic.

mod allocate;
mod block;
mod dirty;
mod inode;
mod journal;
mod request;
mod throttle;
mod wbt;

use core::arch::asm;
use core::ptr::addr_of_mut;

use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_ringbuf_output};
use probes_common::{CpuCounters, DEVICE_LANE, Head, Kind, Loss};

use crate::control;
use crate::emit::{NO_WAKEUP, counters_of, events};
use crate::log;
use crate::task::{Task, Thread};

#[repr(C)]
struct Record<T> {
    head: Head,
    body: T,
}

/// Whether anything is recorded.
#[inline(always)]
fn armed() -> bool {
    control::armed().is_some()
}

/// Whether it is, and the current thread is not the recorder's own.
#[inline(always)]
fn armed_for_current() -> bool {
    control::armed().is_some_and(|control| control.tracer != Task::current().tgid())
}

/// Writes a record of the current thread.
#[inline(always)]
fn emit<T>(kind: Kind, body: T) {
    let Some(counters) = counters_of(DEVICE_LANE) else { return };
    let current = Task::current();
    // SAFETY: `counters` is the value of a map entry, valid for the program's run.
    let sequence = add_one(unsafe { addr_of_mut!((*counters).attempted) });
    log::record(sequence, kind, current);
    let head = Head {
        // SAFETY: no preconditions.
        time_ns: unsafe { bpf_ktime_get_ns() },
        sequence,
        start_ns: current.start_ns(),
        tid: current.tid(),
        tgid: current.tgid(),
        // SAFETY: no preconditions.
        cpu: unsafe { bpf_get_smp_processor_id() } as u32,
        frames: 0,
        kind: kind as u8,
        flags: 0,
    };
    let mut record = Record { head, body };
    // SAFETY: `record` is valid for the bytes named; the verifier checks it.
    let refused = unsafe {
        bpf_ringbuf_output(events(), (&raw mut record).cast(), size_of::<Record<T>>() as u64, NO_WAKEUP)
    };
    if refused != 0 {
        count(counters, Loss::RingFull);
    }
}

/// Counts a loss that is no record's.
#[inline(always)]
fn lost(cause: Loss) {
    if let Some(counters) = counters_of(DEVICE_LANE) {
        count(counters, cause);
    }
}

#[inline(always)]
fn count(counters: *mut CpuCounters, cause: Loss) {
    // SAFETY: as in `emit`.
    let before = add_one(unsafe { addr_of_mut!((*counters).lost[cause as usize]) });
    log::loss(before, cause);
}

/// Atomic: a program that comes in an interrupt may count in the middle of another's counting.
#[inline(always)]
fn add_one(slot: *mut u64) -> u64 {
    add(slot, 1)
}

/// Adds to `slot`, and gives what was there before. The target's `core` has no atomic addition.
#[inline(always)]
fn add(slot: *mut u64, more: u64) -> u64 {
    let before;
    // SAFETY: `slot` is an aligned field of a map's value, which lives as long as the program runs, and everybody
    // who writes it meanwhile does so atomically.
    unsafe {
        asm!(
            "{value} = atomic_fetch_add((u64 *)({slot} + 0), {value})",
            slot = in(reg) slot,
            value = inout(reg) more => before,
        );
    }
    before
}
