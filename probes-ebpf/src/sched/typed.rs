//! Tracepoints whose arguments have types: fields are plain loads.
//!
//! The arguments are those of the tracepoints' prototypes in include/trace/events/sched.h; user space
//! has checked them against the running kernel's type information before it loads these.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;

use super::{is_born, is_woken, passes_by, switches};
use crate::control::armed;
use crate::emit::counters;
use crate::task::{Task, Thread};

/// `sched_switch(bool preempt, struct task_struct *prev, *next, unsigned int prev_state)`.
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(context: BtfTracePointContext) -> i32 {
    let Some(control) = armed() else { return 0 };
    let (prev, next) = (task(&context, 1), task(&context, 2));
    if !passes_by(control, prev, next) {
        let (preempted, prev_state) = (context.arg::<u8>(0) != 0, context.arg(3));
        switches(context, prev, next, preempted, prev_state);
    }
    0
}

/// `sched_waking(struct task_struct *p)`: runs in the waker's context, which `sched_wakeup` need not.
#[btf_tracepoint(function = "sched_waking")]
pub fn sched_waking(context: BtfTracePointContext) -> i32 {
    let Some(control) = armed() else { return 0 };
    let woken = task(&context, 0);
    if woken.side(control).is_watched() {
        is_woken(context, woken);
    }
    0
}

/// `sched_wakeup_new(struct task_struct *p)`: the new task may run; its maker is current.
#[btf_tracepoint(function = "sched_wakeup_new")]
pub fn sched_wakeup_new(context: BtfTracePointContext) -> i32 {
    let Some(control) = armed() else { return 0 };
    let born = task(&context, 0);
    if !born.side(control).is_watched() {
        return 0;
    }
    if let Some(counters) = counters() {
        is_born(counters, born);
    }
    0
}

#[inline(always)]
fn task(context: &BtfTracePointContext, argument: usize) -> Task {
    // SAFETY: every caller names an argument of type `struct task_struct *`.
    unsafe { Task::from_argument(context.arg(argument)) }
}
