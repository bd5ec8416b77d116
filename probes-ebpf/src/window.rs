//! Windows that a function of the watched program bounds.
//!
//! Entering the function turns recording on right here, so that nothing of the window is missed; user space turns it
//! off when it has read that the last window is closed.

use aya_ebpf::macros::{uprobe, uretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use probes_common::{Head, IDLE, Kind, MACHINE};

use crate::control;
use crate::emit::{counters, emit_plain, stamp};
use crate::log;
use crate::task::Task;

#[uprobe]
pub fn window_open(_: ProbeContext) -> u32 {
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
    tell(Kind::WindowOpen);
    0
}

#[uretprobe]
pub fn window_close(_: RetProbeContext) -> u32 {
    tell(Kind::WindowClose);
    0
}

/// These programs can be preempted, and so take no number: their records are outside of the sequence.
#[inline(always)]
fn tell(kind: Kind) {
    let Some(counters) = counters() else { return };
    let mut record: Head = stamp(Task::current(), kind);
    emit_plain(counters, &mut record);
}
