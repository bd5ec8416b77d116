//! Switches, wake-ups and births, by whichever hook the kernel lets us have: one file for each.

mod classic;
mod finish;
mod raw;
mod typed;

use core::arch::asm;

use aya_ebpf::EbpfContext;
use probes_common::{COMM_LEN, Control, CpuCounters, Kind, ONE_TARGET, PREEMPTED, STACK_LATE, SwitchOut};

use crate::control::armed;
use crate::emit::{
    BornRecord, PlainSwitchOut, counters, current_as_other, current_comm, emit_plain, emit_with_stack, head,
    kernel_stack,
};
use crate::interrupt::waking_by;
use crate::maps::{SWITCH_OUT, WAKING};
use crate::task::{Side, Task, TaskStruct, Thread};
use crate::ustack::{UserSide, Watched, user_side};

/// `TASK_DEAD` (include/linux/sched.h).
const TASK_DEAD: u32 = 0x80;

/// Whether a switch between these threads concerns nobody, where that can be told at once: nearly
/// every switch of a machine ends here.
#[inline(always)]
fn passes_by(control: &Control, prev: impl Thread, next: impl Thread) -> bool {
    let only = control.targets[0];
    control.armed == ONE_TARGET && prev.tgid() != only && next.tgid() != only
}

/// How a thread left the CPU.
struct Leaving {
    /// The scheduler took the CPU away.
    preempted: bool,
    /// A mask.
    prev_state: u32,
}

/// Records a switch from `prev`, which is still current, to `next`, as far as they are watched.
///
/// A function of its own, so that the programs that call it save no registers, and take no stack, for the switches
/// that [pass by](passes_by).
#[inline(never)]
fn switches<C: EbpfContext>(context: C, prev: Task, next: impl TaskStruct, preempted: bool, prev_state: u32) {
    let Some(control) = armed() else { return };
    let next_is_watched = decided(next.side(control).is_watched());
    let prev_side = prev.side(control);
    if !prev_side.is_watched() && !next_is_watched {
        return;
    }
    let Some(counters) = counters() else { return };
    if prev_side.is_watched() {
        // Without its memory, an ended task has no user side.
        let has_user_side = prev_state & TASK_DEAD == 0;
        let user = if has_user_side { user_of(counters, prev, control, prev_side) } else { UserSide::NONE };
        leaves(&context, counters, prev, user, current_comm(), &Leaving { preempted, prev_state });
    }
    if next_is_watched {
        gets_cpu(counters, next);
    }
}

/// The same answer, decided here. The compiler would carry on what it comes from, which target it is, and the verifier
/// would go through all that follows once for each: that of Linux 6.1 gives up.
#[inline(always)]
fn decided(answer: bool) -> bool {
    let mut answer = u64::from(answer);
    // An instruction, because two lines of source may not begin at the same one (`check_btf_line`, kernel/bpf/verifier.c).
    // SAFETY: it moves a register to itself.
    unsafe { asm!("{0} = {0}", inout(reg) answer, options(nomem, nostack, preserves_flags)) };
    answer != 0
}

/// Records that `thread` leaves the CPU. It is still current: stack and registers are its own.
#[inline(always)]
fn leaves<C: EbpfContext>(
    context: &C,
    counters: *mut CpuCounters,
    thread: impl Thread,
    user: UserSide,
    comm: [u8; COMM_LEN],
    leaving: &Leaving,
) {
    let flags = if leaving.preempted { PREEMPTED } else { 0 };
    let body = body(user, leaving.prev_state, comm);
    with_stack(context, counters, thread, Kind::SwitchOut, flags, body);
}

/// Records that `prev` has left the CPU, by a hook that runs in the next thread: where it was follows as it comes
/// back.
#[inline(always)]
fn has_left(counters: *mut CpuCounters, prev: impl Thread, comm: [u8; COMM_LEN], leaving: &Leaving) {
    let mut head = head(counters, prev, Kind::SwitchOut);
    head.flags = STACK_LATE | if leaving.preempted { PREEMPTED } else { 0 };
    let mut record = PlainSwitchOut { head, body: body(UserSide::NONE, leaving.prev_state, comm) };
    emit_plain(counters, &mut record);
}

/// Records that `thread`, which is current, has got a CPU, with where it was meanwhile.
#[inline(always)]
fn is_back<C: EbpfContext>(
    context: &C,
    counters: *mut CpuCounters,
    thread: impl Thread,
    user: UserSide,
    comm: [u8; COMM_LEN],
) {
    with_stack(context, counters, thread, Kind::SwitchBack, 0, body(user, 0, comm));
}

/// Records that `next` gets a CPU.
#[inline(always)]
fn gets_cpu(counters: *mut CpuCounters, next: impl Thread) {
    let mut record = head(counters, next, Kind::SwitchIn);
    emit_plain(counters, &mut record);
}

#[inline(always)]
fn body(user: UserSide, prev_state: u32, comm: [u8; COMM_LEN]) -> SwitchOut {
    SwitchOut { user_ip: user.ip, user_stack: user.signature, prev_state, reserved: 0, comm }
}

#[inline(always)]
fn with_stack<C: EbpfContext>(
    context: &C,
    counters: *mut CpuCounters,
    thread: impl Thread,
    kind: Kind,
    flags: u8,
    body: SwitchOut,
) {
    let Some(record) = SWITCH_OUT.get_ptr_mut(0) else { return };
    let mut start = head(counters, thread, kind);
    // SAFETY: `record` is this CPU's map entry, and nobody else uses it while the program runs.
    let stack = unsafe { kernel_stack(context, counters, &raw mut (*record).frames) };
    start.frames = stack.frames();
    start.flags = stack.flags | flags;
    // SAFETY: as above.
    unsafe {
        (*record).head = start;
        (*record).body = body;
    }
    emit_with_stack(counters, record, &stack);
}

/// The user side of `task`, which is current, if it is a target's.
#[inline(always)]
fn user_of(counters: *mut CpuCounters, task: Task, control: &Control, side: Side) -> UserSide {
    if !side.is_target() || task.is_kernel_only() {
        return UserSide::NONE;
    }
    user_side(counters, task, &Watched { control, target: side.index(), lane: 0 })
}

/// Records that the current thread, or an interrupt, wakes `woken`. Apart from its callers for the same reason as
/// [`switches`].
#[inline(never)]
fn is_woken<C: EbpfContext>(context: C, woken: impl Thread) {
    let (Some(counters), Some(record)) = (counters(), WAKING.get_ptr_mut(0)) else { return };
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
}

/// Records that the current thread made `born`, which may run.
#[inline(always)]
fn is_born(counters: *mut CpuCounters, born: impl Thread) {
    let mut record = BornRecord { head: head(counters, born, Kind::Born), body: current_as_other() };
    emit_plain(counters, &mut record);
}
