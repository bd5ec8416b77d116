//! Which interrupt's handler runs on this CPU.
//!
//! A handler is noted, and forgotten again as it ends, only while something is recorded. What is left of one that ended
//! while nothing was recorded carries the number of its recording, and is of no use to the next. A handler that runs as
//! a recording begins is not seen.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use probes_common::{IN_DEVICE_HANDLER, IN_NO_HANDLER, IN_SOFTIRQ, Other, Waking};

use crate::control::{armed, control};
use crate::maps::HANDLERS;
use crate::task::{Task, Thread};

/// The handlers that run on one CPU. A device's can come upon a soft interrupt's, and neither upon its like.
#[repr(C)]
pub struct Handlers {
    /// The device interrupt's number.
    device: u32,
    /// The recording in which that was noted; 0 where its handler does not run.
    device_noted: u32,
    /// The soft interrupt's number.
    soft: u32,
    /// As above.
    soft_noted: u32,
    /// The thread that the soft interrupt runs in: on a kernel whose soft interrupts can be preempted,
    /// another may be current.
    soft_tid: u32,
}

/// `irq_handler_entry(int irq, struct irqaction *action)`.
#[btf_tracepoint(function = "irq_handler_entry")]
pub fn irq_handler_entry(context: BtfTracePointContext) -> i32 {
    let Some(control) = armed() else { return 0 };
    if let Some(handlers) = HANDLERS.get_ptr_mut(0) {
        // SAFETY: this CPU's map entry; programs that may interrupt one another write different fields.
        unsafe {
            (&raw mut (*handlers).device).write(context.arg(0));
            (&raw mut (*handlers).device_noted).write(control.recording);
        }
    }
    0
}

/// `irq_handler_exit(int irq, struct irqaction *action, int ret)`.
#[btf_tracepoint(function = "irq_handler_exit")]
pub fn irq_handler_exit(_: BtfTracePointContext) -> i32 {
    if armed().is_some()
        && let Some(handlers) = HANDLERS.get_ptr_mut(0)
    {
        // SAFETY: as above.
        unsafe { (&raw mut (*handlers).device_noted).write(0) };
    }
    0
}

/// `softirq_entry(unsigned int vec_nr)`.
#[btf_tracepoint(function = "softirq_entry")]
pub fn softirq_entry(context: BtfTracePointContext) -> i32 {
    let Some(control) = armed() else { return 0 };
    if let Some(handlers) = HANDLERS.get_ptr_mut(0) {
        // SAFETY: as above.
        unsafe {
            (&raw mut (*handlers).soft_tid).write(Task::current().tid());
            (&raw mut (*handlers).soft).write(context.arg(0));
            (&raw mut (*handlers).soft_noted).write(control.recording);
        }
    }
    0
}

/// `softirq_exit(unsigned int vec_nr)`.
#[btf_tracepoint(function = "softirq_exit")]
pub fn softirq_exit(_: BtfTracePointContext) -> i32 {
    if armed().is_some()
        && let Some(handlers) = HANDLERS.get_ptr_mut(0)
    {
        // SAFETY: as above.
        unsafe { (&raw mut (*handlers).soft_noted).write(0) };
    }
    0
}

/// The wake-up that `waker`, which is current, or an interrupt that came upon it makes now.
#[inline(always)]
pub fn waking_by(waker: Other) -> Waking {
    let recording = control().recording;
    let (context, number) = match HANDLERS.get(0) {
        Some(handlers) if handlers.device_noted == recording => (IN_DEVICE_HANDLER, handlers.device),
        Some(handlers) if handlers.soft_noted == recording && handlers.soft_tid == waker.tid => {
            (IN_SOFTIRQ, handlers.soft)
        }
        _ => (IN_NO_HANDLER, 0),
    };
    Waking { waker, context, number }
}
