//! Tracepoints whose arguments have types: fields are plain loads.
//!
//! The arguments are those of the tracepoints' prototypes in include/trace/events/sched.h; user space
//! has checked them against the running kernel's type information before it loads these.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;

use super::{Leaving, TASK_DEAD, armed, gets_cpu, is_born, is_woken, leaves, passes_by, user_of};
use crate::emit::{counters, current_comm};
use crate::maps::CONTROL;
use crate::task::{Task, Thread};
use crate::ustack::UserSide;

/// `sched_switch(bool preempt, struct task_struct *prev, *next, unsigned int prev_state)`.
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(context: BtfTracePointContext) -> i32 {
    let Some(control) = CONTROL.get(0) else { return 0 };
    let (prev, next) = (task(&context, 1), task(&context, 2));
    if control.armed == 0 || passes_by(control, prev.tgid(), next.tgid()) {
        return 0;
    }
    let (prev_side, next_side) = (prev.side(control), next.side(control));
    if !prev_side.is_watched() && !next_side.is_watched() {
        return 0;
    }
    let Some(counters) = counters() else { return 0 };
    if prev_side.is_watched() {
        let leaving = Leaving { preempted: context.arg::<u8>(0) != 0, prev_state: context.arg(3) };
        // Without its memory, an ended task has no user side.
        let has_user_side = leaving.prev_state & TASK_DEAD == 0;
        let user = if has_user_side { user_of(counters, prev, control, prev_side) } else { UserSide::NONE };
        leaves(&context, counters, prev, user, current_comm(), &leaving);
    }
    if next_side.is_watched() {
        gets_cpu(counters, next);
    }
    0
}

/// `sched_waking(struct task_struct *p)`: runs in the waker's context, which `sched_wakeup` need not.
#[btf_tracepoint(function = "sched_waking")]
pub fn sched_waking(context: BtfTracePointContext) -> i32 {
    let Some(control) = armed() else { return 0 };
    let woken = task(&context, 0);
    if !woken.side(control).is_watched() {
        return 0;
    }
    if let Some(counters) = counters() {
        is_woken(&context, counters, woken);
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
