//! Switches, wake-ups and births.
//!
//! The arguments are those of the tracepoints' prototypes in include/trace/events/sched.h; user space
//! has checked them against the running kernel's type information before it loads these.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use probes_common::{Control, CpuCounters, Kind, PREEMPTED, SwitchOut};

use crate::emit::{
    BornRecord, counters, current_as_other, current_comm, emit_plain, emit_with_stack, head, kernel_stack,
};
use crate::interrupt::waking_by;
use crate::maps::{CONTROL, SWITCH_OUT, WAKING};
use crate::task::{Side, Task};
use crate::ustack::{UserSide, Watched, user_side};

/// `TASK_DEAD` (include/linux/sched.h).
const TASK_DEAD: u32 = 0x80;

/// `sched_switch(bool preempt, struct task_struct *prev, *next, unsigned int prev_state)`.
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(context: BtfTracePointContext) -> i32 {
    let Some(control) = armed() else { return 0 };
    let (prev, next) = (task(&context, 1), task(&context, 2));
    let (prev_side, next_side) = (prev.side(control), next.side(control));
    if prev_side == Side::Unwatched && next_side == Side::Unwatched {
        return 0;
    }
    let Some(counters) = counters() else { return 0 };
    if prev_side != Side::Unwatched {
        switch_out(&context, counters, prev, control, prev_side);
    }
    if next_side != Side::Unwatched {
        let mut record = head(counters, next, Kind::SwitchIn);
        emit_plain(counters, &mut record);
    }
    0
}

/// `prev` is still current here: stack, registers and name are its own.
#[inline(always)]
fn switch_out(
    context: &BtfTracePointContext,
    counters: *mut CpuCounters,
    prev: Task,
    control: &Control,
    side: Side,
) {
    let Some(record) = SWITCH_OUT.get_ptr_mut(0) else { return };
    let prev_state: u32 = context.arg(3);
    let user = match side {
        // Without its memory, an ended task has no user side.
        Side::Target(target) if !prev.is_kernel_only() && prev_state & TASK_DEAD == 0 => {
            user_side(counters, prev, &Watched { control, target, lane: 0 })
        }
        _ => UserSide::NONE,
    };
    let mut start = head(counters, prev, Kind::SwitchOut);
    // SAFETY: `record` is this CPU's map entry, and nobody else uses it while the program runs.
    let stack = unsafe { kernel_stack(context, counters, &raw mut (*record).frames) };
    start.frames = stack.frames();
    start.flags = stack.flags;
    if context.arg::<u8>(0) != 0 {
        start.flags |= PREEMPTED;
    }
    let body = SwitchOut {
        user_ip: user.ip,
        user_stack: user.signature,
        prev_state,
        reserved: 0,
        comm: current_comm(),
    };
    // SAFETY: as above.
    unsafe {
        (*record).head = start;
        (*record).body = body;
    }
    emit_with_stack(counters, record, &stack);
}

/// `sched_waking(struct task_struct *p)`: runs in the waker's context, which `sched_wakeup` need not.
#[btf_tracepoint(function = "sched_waking")]
pub fn sched_waking(context: BtfTracePointContext) -> i32 {
    let Some(control) = armed() else { return 0 };
    let woken = task(&context, 0);
    if woken.side(control) == Side::Unwatched {
        return 0;
    }
    let (Some(counters), Some(record)) = (counters(), WAKING.get_ptr_mut(0)) else { return 0 };
    let mut start = head(counters, woken, Kind::Waking);
    // SAFETY: `record` is this CPU's map entry, and nobody else uses it while the program runs.
    let stack = unsafe { kernel_stack(&context, counters, &raw mut (*record).frames) };
    start.frames = stack.frames();
    start.flags = stack.flags;
    let body = waking_by(current_as_other());
    // SAFETY: as above.
    unsafe {
        (*record).head = start;
        (*record).body = body;
    }
    emit_with_stack(counters, record, &stack);
    0
}

/// `sched_wakeup_new(struct task_struct *p)`: the new task may run; its maker is current.
#[btf_tracepoint(function = "sched_wakeup_new")]
pub fn sched_wakeup_new(context: BtfTracePointContext) -> i32 {
    let Some(control) = armed() else { return 0 };
    let born = task(&context, 0);
    if born.side(control) == Side::Unwatched {
        return 0;
    }
    let Some(counters) = counters() else { return 0 };
    let mut record = BornRecord { head: head(counters, born, Kind::Born), body: current_as_other() };
    emit_plain(counters, &mut record);
    0
}

#[inline(always)]
fn armed() -> Option<&'static Control> {
    CONTROL.get(0).filter(|control| control.armed != 0)
}

#[inline(always)]
fn task(context: &BtfTracePointContext, argument: usize) -> Task {
    // SAFETY: every caller names an argument of type `struct task_struct *`.
    unsafe { Task::from_argument(context.arg(argument)) }
}
