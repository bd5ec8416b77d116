//! The same tracepoints by their printed form, which names threads other than the current one by their id only. To
//! whom an id belongs is kept in a map: user space enters the threads that there are, and this those that are made
//! later. It needs nothing of the kernel's type information.

use core::ptr::read_volatile;

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use aya_ebpf::macros::tracepoint;
use aya_ebpf::programs::TracePointContext;
use probes_common::{Loss, ThreadEntry};

use super::{Leaving, gets_cpu, is_born, is_woken, leaves, passes_by, user_of};
use crate::control::{armed, control};
use crate::emit::{count, counters, current_comm};
use crate::maps::THREADS;
use crate::task::{Task, Thread};
use crate::ustack::UserSide;

/// Where the fields lie in the tracepoints' records; set at load, from their `format` files.
#[unsafe(no_mangle)]
static SWITCH_PREV_STATE: u32 = 0;
#[unsafe(no_mangle)]
static SWITCH_NEXT_PID: u32 = 0;
#[unsafe(no_mangle)]
static WAKING_PID: u32 = 0;
#[unsafe(no_mangle)]
static NEWTASK_PID: u32 = 0;
#[unsafe(no_mangle)]
static NEWTASK_FLAGS: u32 = 0;
/// Whether the kernel has type information, and so user registers can be had.
#[unsafe(no_mangle)]
static HAS_TYPES: u32 = 0;

/// What `prev_state` is printed as for a thread that was preempted, and for an idle kernel thread
/// (include/linux/sched.h, `TASK_REPORT_MAX` and `TASK_REPORT_IDLE`).
const REPORT_PREEMPTED: u64 = 0x100;
const REPORT_IDLE: u64 = 0x80;
/// `TASK_IDLE`.
const TASK_IDLE: u32 = 0x402;
/// `EXIT_DEAD` and `EXIT_ZOMBIE`.
const ENDED: u32 = 0x30;
/// The new thread belongs to the process of its maker (include/uapi/linux/sched.h).
const CLONE_THREAD: u64 = 0x0001_0000;

/// A thread by its entry in the map.
#[derive(Clone, Copy)]
struct Known {
    tid: u32,
    entry: ThreadEntry,
}

impl Thread for Known {
    #[inline(always)]
    fn tid(self) -> u32 {
        self.tid
    }

    #[inline(always)]
    fn tgid(self) -> u32 {
        self.entry.tgid
    }

    #[inline(always)]
    fn start_ns(self) -> u64 {
        self.entry.start_ns
    }
}

impl Known {
    /// No thread of any process that is watched.
    const NOBODY: Self = Self { tid: 0, entry: ThreadEntry { start_ns: 0, tgid: 0, reserved: 0 } };

    #[inline(always)]
    fn by_id(tid: u32) -> Option<Self> {
        // SAFETY: the entry is copied at once; it is written only before its thread is first seen.
        let entry = unsafe { THREADS.get(&tid) }?;
        Some(Self { tid, entry: *entry })
    }

    #[inline(always)]
    fn current() -> Self {
        let id = bpf_get_current_pid_tgid();
        let (tid, tgid) = (id as u32, (id >> 32) as u32);
        // One that was not entered in time was made before anything was recorded.
        Self::by_id(tid).unwrap_or(Self { tid, entry: ThreadEntry { start_ns: 0, tgid, reserved: 0 } })
    }
}

/// `sched:sched_switch`.
#[tracepoint(category = "sched", name = "sched_switch")]
pub fn classic_sched_switch(context: TracePointContext) -> u32 {
    let Some(control) = armed() else { return 0 };
    let prev = Known::current();
    let next = Known::by_id(read(&context, &SWITCH_NEXT_PID));
    if passes_by(control, prev, next.unwrap_or(Known::NOBODY)) {
        return 0;
    }
    let side = prev.side(control);
    let Some(counters) = counters() else { return 0 };
    if side.is_target() {
        let leaving = leaving(read(&context, &SWITCH_PREV_STATE));
        let is_ended = leaving.prev_state & ENDED != 0;
        // SAFETY: a read of a static.
        let has_user_side = unsafe { read_volatile(&HAS_TYPES) } != 0 && !is_ended;
        let user =
            if has_user_side { user_of(counters, Task::current(), control, side) } else { UserSide::NONE };
        leaves(&context, counters, prev, user, current_comm(), &leaving);
        if is_ended {
            let _ = THREADS.remove(&prev.tid);
        }
    }
    if let Some(next) = next.filter(|next| next.side(control).is_watched()) {
        gets_cpu(counters, next);
    }
    0
}

#[inline(always)]
fn leaving(printed: u64) -> Leaving {
    let prev_state = if printed == REPORT_IDLE { TASK_IDLE } else { (printed & !REPORT_PREEMPTED) as u32 };
    Leaving { preempted: printed & REPORT_PREEMPTED != 0, prev_state }
}

/// `sched:sched_waking`.
#[tracepoint(category = "sched", name = "sched_waking")]
pub fn classic_sched_waking(context: TracePointContext) -> u32 {
    let Some(control) = armed() else { return 0 };
    let Some(woken) = Known::by_id(read(&context, &WAKING_PID)) else { return 0 };
    if woken.side(control).is_watched() {
        is_woken(context, woken);
    }
    0
}

/// `task:task_newtask`: in the maker, before the new thread may run. `sched_wakeup_new` does not tell whose it is.
/// Threads are entered before anything is recorded too.
#[tracepoint(category = "task", name = "task_newtask")]
pub fn classic_task_newtask(context: TracePointContext) -> u32 {
    let control = control();
    let maker = Known::current();
    let is_ours = maker.side(control).is_target();
    if !is_ours || read::<u64>(&context, &NEWTASK_FLAGS) & CLONE_THREAD == 0 {
        return 0;
    }
    // SAFETY: no preconditions.
    let start_ns = unsafe { bpf_ktime_get_ns() };
    let entry = ThreadEntry { start_ns, tgid: maker.tgid(), reserved: 0 };
    let born = Known { tid: read(&context, &NEWTASK_PID), entry };
    let Some(counters) = counters() else { return 0 };
    if THREADS.insert(&born.tid, &entry, 0).is_err() {
        count(counters, Loss::ThreadUnknown);
        return 0;
    }
    if control.armed != 0 {
        is_born(counters, born);
    }
    0
}

/// A field of the tracepoint's record. The verifier lets a context be read at offsets only that stand in the
/// instruction, so it goes through a helper.
#[inline(always)]
fn read<T: Copy>(context: &TracePointContext, offset: &'static u32) -> T {
    // SAFETY: the read of the offset is of a static; the helper takes any address.
    let read = unsafe { context.read_at::<T>(read_volatile(offset) as usize) };
    // SAFETY: every caller reads integers, of which zero is a value.
    read.unwrap_or(unsafe { core::mem::zeroed() })
}
