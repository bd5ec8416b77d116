//! The same tracepoints on a kernel that does not type their arguments: fields of threads other than the current
//! one are read through a helper.

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;

use super::{Leaving, TASK_DEAD, armed, gets_cpu, is_born, is_woken, leaves, passes_by, user_of};
use crate::emit::{counters, current_comm};
use crate::task::{BareTask, Task, Thread};
use crate::ustack::UserSide;

/// See [`sched_switch`](super::typed::sched_switch).
#[raw_tracepoint(tracepoint = "sched_switch")]
pub fn raw_sched_switch(context: RawTracePointContext) -> i32 {
    let Some(control) = armed() else { return 0 };
    let (prev, next) = (Task::current(), BareTask(context.arg(2)));
    if passes_by(control, prev.tgid(), next.tgid()) {
        return 0;
    }
    let (prev_side, next_side) = (prev.side(control), next.side(control));
    if !prev_side.is_watched() && !next_side.is_watched() {
        return 0;
    }
    let Some(counters) = counters() else { return 0 };
    if prev_side.is_watched() {
        let leaving = Leaving { preempted: context.arg::<u8>(0) != 0, prev_state: context.arg(3) };
        let has_user_side = leaving.prev_state & TASK_DEAD == 0;
        let user = if has_user_side { user_of(counters, prev, control, prev_side) } else { UserSide::NONE };
        leaves(&context, counters, prev, user, current_comm(), &leaving);
    }
    if next_side.is_watched() {
        gets_cpu(counters, next);
    }
    0
}

/// See [`sched_waking`](super::typed::sched_waking).
#[raw_tracepoint(tracepoint = "sched_waking")]
pub fn raw_sched_waking(context: RawTracePointContext) -> i32 {
    let Some(control) = armed() else { return 0 };
    let woken = BareTask(context.arg(0));
    if !woken.side(control).is_watched() {
        return 0;
    }
    if let Some(counters) = counters() {
        is_woken(&context, counters, woken);
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
