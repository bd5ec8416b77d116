//! The same tracepoints on a kernel that does not type their arguments: fields of threads other than the current
//! one are read through a helper.

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;

use super::{is_born, is_woken, passes_by, switches};
use crate::control::armed;
use crate::emit::counters;
use crate::task::{BareTask, Task, Thread};

/// See [`sched_switch`](super::typed::sched_switch).
#[raw_tracepoint(tracepoint = "sched_switch")]
pub fn raw_sched_switch(context: RawTracePointContext) -> i32 {
    let Some(control) = armed() else { return 0 };
    let (prev, next) = (Task::current(), BareTask(context.arg(2)));
    if !passes_by(control, prev, next) {
        let (preempted, prev_state) = (context.arg::<u8>(0) != 0, context.arg(3));
        switches(context, prev, next, preempted, prev_state);
    }
    0
}

/// See [`sched_waking`](super::typed::sched_waking).
#[raw_tracepoint(tracepoint = "sched_waking")]
pub fn raw_sched_waking(context: RawTracePointContext) -> i32 {
    let Some(control) = armed() else { return 0 };
    let woken = BareTask(context.arg(0));
    if woken.side(control).is_watched() {
        is_woken(context, woken);
    }
    0
}

/// See [`sched_wakeup_new`](super::typed::sched_wakeup_new).
#[raw_tracepoint(tracepoint = "sched_wakeup_new")]
pub fn raw_sched_wakeup_new(context: RawTracePointContext) -> i32 {
    let Some(control) = armed() else { return 0 };
    let born = BareTask(context.arg(0));
    if !born.side(control).is_watched() {
        return 0;
    }
    if let Some(counters) = counters() {
        is_born(counters, born);
    }
    0
}
