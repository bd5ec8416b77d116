//! Looks at the running thread, as often as a clock says.
//!
//! The clock is a software one (`PERF_COUNT_SW_CPU_CLOCK`), a timer of each CPU's own, so this program runs with
//! interrupts off, as those of the scheduler's tracepoints do, and shares their lane. User space starts and stops the
//! clock with the recording.

use aya_ebpf::macros::perf_event;
use aya_ebpf::programs::PerfEventContext;
use probes_common::{Kind, SwitchOut};

use crate::control::armed;
use crate::emit::{counters, current_comm, emit_with_stack, head, kernel_stack};
use crate::maps::SAMPLE;
use crate::task::{Task, Thread};
use crate::ustack::{UserSide, Watched, user_side};

#[perf_event]
pub fn clock(context: PerfEventContext) -> u32 {
    let Some(control) = armed() else { return 0 };
    let current = Task::current();
    let side = current.side(control);
    if !side.is_watched() {
        return 0;
    }
    let (Some(counters), Some(record)) = (counters(), SAMPLE.get_ptr_mut(0)) else { return 0 };
    let user = if side.is_target() && !current.is_kernel_only() {
        user_side(counters, current, &Watched { control, target: side.index(), lane: 0 })
    } else {
        UserSide::NONE
    };
    let mut start = head(counters, current, Kind::Sample);
    // SAFETY: `record` is this CPU's map entry, and nobody else uses it while the program runs.
    let stack = unsafe { kernel_stack(&context, counters, &raw mut (*record).frames) };
    start.frames = stack.frames();
    start.flags = stack.flags;
    let body = SwitchOut {
        user_ip: user.ip,
        user_stack: user.signature,
        prev_state: 0,
        reserved: 0,
        comm: current_comm(),
    };
    // SAFETY: as above.
    unsafe {
        (*record).head = start;
        (*record).body = body;
    }
    emit_with_stack(counters, record, &stack);
    0
}
