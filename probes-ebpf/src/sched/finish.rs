//! The function with which every switch ends, `finish_task_switch(struct task_struct *prev)`: it runs in the next
//! thread, before that has unlocked the run queue.
//!
//! So `prev` is known by its fields only. Its state is what the scheduler has not yet changed again: a waker on
//! another CPU may have made it `TASK_WAKING` by now, and then there is no telling which sleep it was. Its stack
//! cannot be followed while it counts as running. But a thread that comes back has on its stack where it was
//! meanwhile, and that is recorded then.

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::{fentry, kprobe};
use aya_ebpf::programs::{FEntryContext, ProbeContext};

use super::{Leaving, has_left, is_back, passes_by, user_of};
use crate::control::armed;
use crate::emit::{counters, current_comm};
use crate::task::{BareTask, Task, TaskStruct, Thread};

/// Through the function's type.
#[fentry(function = "finish_task_switch")]
pub fn fentry_finish_task_switch(context: FEntryContext) -> i32 {
    // SAFETY: the function's only argument is a `struct task_struct *`.
    let prev = unsafe { Task::from_argument(context.arg(0)) };
    finished(&context, prev);
    0
}

/// Through a breakpoint: the compiler may have renamed the function.
#[kprobe]
pub fn kprobe_finish_task_switch(context: ProbeContext) -> u32 {
    if let Some(prev) = context.arg(0) {
        finished(&context, BareTask(prev));
    }
    0
}

#[inline(always)]
fn finished<C: EbpfContext>(context: &C, prev: impl TaskStruct) {
    let Some(control) = armed() else { return };
    let next = Task::current();
    if passes_by(control, prev, next) {
        return;
    }
    let (prev_side, next_side) = (prev.side(control), next.side(control));
    if !prev_side.is_watched() && !next_side.is_watched() {
        return;
    }
    let Some(counters) = counters() else { return };
    if prev_side.is_watched() {
        let (prev_state, is_queued) = prev.state_and_queued();
        has_left(counters, prev, prev.comm(), &Leaving { preempted: is_queued, prev_state });
    }
    if next_side.is_watched() {
        let user = user_of(counters, next, control, next_side);
        is_back(context, counters, next, user, current_comm());
    }
}
