//! What the kernel side and the user side must agree on: the records that cross the ring buffer, the
//! counters and the control word beside it, and the one list of BRANCH phases that the daemon measures
//! and the reports name.
#![no_std]

mod call;
mod control;
mod device;
mod loss;
mod phase;
mod record;

pub use call::{
    CALL_LANE, CALL_LANE_FLAG, CALL_WORDS, CallEnter, CallExit, CallFilter, FIRST_CALL_KIND, LANES,
    SCHED_LANE, WAITV_RECORDED, WAITV_WORDS, number,
};
pub use control::{
    CODE_SPANS, CONTROL_MAP, CodeSpan, Control, IDLE, MACHINE, MAX_TARGETS, ONE_TARGET, TARGETS,
};
pub use device::{
    Allocation, Bio, Commit, CommitStep, DEVICE_LANE, DEVICE_NAME_LEN, DIRTIERS, Dirtied, Dirtier,
    DirtyPause, FIRST_DEVICE_KIND, Latency, MINOR_BITS, REQUEST_BACKGROUND, REQUEST_BY_KERNEL, REQUEST_FUA,
    REQUEST_META, REQUEST_PREFLUSH, REQUEST_READAHEAD, REQUEST_SYNC, Request, Sync, THROTTLED, Throttle,
    ThrottleExit, ThrottledSince, ThrottledThread, WbtLatency, WbtStat, WbtStep, WbtTimer, operation,
};
pub use loss::{CounterSlot, CpuCounters, Loss};
pub use phase::BranchPhase;
pub use record::{
    Bound, COMM_LEN, Head, IN_DEVICE_HANDLER, IN_NO_HANDLER, IN_SOFTIRQ, Kind, MAX_FRAMES, MAX_USER_STACK,
    Other, PREEMPTED, STACK_FAILED, STACK_LATE, STACK_TRUNCATED, SwitchOut, TaskRegisters, ThreadEntry,
    UserRegisters, UserStack, Waking,
};
