//! Windows that a function of the watched program bounds.
//!
//! Entering the function turns recording on right here, so that nothing of the window is missed; user space turns it
//! off when it has read that the last window is closed.
//!
//! Each record has the stack pointer: a function that calls itself is told by it from one that is called again.

use aya_ebpf::bindings::pt_regs;
use aya_ebpf::macros::{uprobe, uretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use probes_common::{Bound, IDLE, Kind, MACHINE};

use crate::control;
use crate::emit::{BoundRecord, counters, emit_plain, stamp};
use crate::log;
use crate::task::Task;

#[uprobe]
pub fn window_open(context: ProbeContext) -> u32 {
    // SAFETY: a variable; everybody who writes this word while windows may open writes one of two values, and
    // user space looks for windows that opened meanwhile after it has written.
    let was_idle = unsafe {
        let armed = &raw mut (*control::pointer()).armed;
        let before = armed.read_volatile();
        armed.write_volatile(MACHINE);
        before == IDLE
    };
    if was_idle {
        log::armed_by_function();
    }
    tell(Kind::WindowOpen, context.regs);
    0
}

#[uretprobe]
pub fn window_close(context: RetProbeContext) -> u32 {
    tell(Kind::WindowClose, context.regs);
    0
}

/// These programs can be preempted, and so take no number: their records are outside of the sequence.
#[inline(always)]
fn tell(kind: Kind, registers: *const pt_regs) {
    let Some(counters) = counters() else { return };
    // SAFETY: the context of both kinds of program; the verifier knows it, and lets each of its words be read.
    let sp = unsafe { (*registers).rsp };
    let mut record = BoundRecord { head: stamp(Task::current(), kind), body: Bound { sp } };
    emit_plain(counters, &mut record);
}
