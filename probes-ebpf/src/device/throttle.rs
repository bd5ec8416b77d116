//! Threads that are held back before they may submit: `wbt_wait`, and `rq_qos_wait` inside it.
//!
//! Attached where the kernel lets its functions be probed, by entry and exit programs or by kprobes: the same four
//! moments either way. On other kernels user space finds these waits by the stacks of sleeping threads.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::{fentry, fexit, kprobe, kretprobe};
use aya_ebpf::programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext};
use probes_common::{Kind, Loss, Throttle, ThrottleExit, ThrottledSince, ThrottledThread};

use super::request::disk_untyped;
use super::{armed_for_current, emit, lost};
use crate::emit::current_comm;
use crate::kernel::Untyped;
use crate::maps::THROTTLED;
use crate::task::{Task, Thread};

#[unsafe(no_mangle)]
static BIO_DEVICE_IN_WAIT: u32 = 0;
#[unsafe(no_mangle)]
static DISK_IN_WAIT: u32 = 0;

/// `wbt_wait(struct rq_qos *rqos, struct bio *bio)`.
#[fentry(function = "wbt_wait")]
pub fn wbt_wait_entry(context: FEntryContext) -> i32 {
    enter(Throttle::Wbt, disk_of(context.arg(1)))
}

#[fexit(function = "wbt_wait")]
pub fn wbt_wait_exit(_: FExitContext) -> i32 {
    exit(Throttle::Wbt)
}

/// `rq_qos_wait(struct rq_wait *rqw, void *private_data, ...)`.
#[fentry(function = "rq_qos_wait")]
pub fn rq_qos_wait_entry(_: FEntryContext) -> i32 {
    enter(Throttle::RqQos, 0)
}

#[fexit(function = "rq_qos_wait")]
pub fn rq_qos_wait_exit(_: FExitContext) -> i32 {
    exit(Throttle::RqQos)
}

#[kprobe]
pub fn wbt_wait_kprobe(context: ProbeContext) -> u32 {
    enter(Throttle::Wbt, disk_of(context.arg(1).unwrap_or(0))) as u32
}

#[kretprobe]
pub fn wbt_wait_kretprobe(_: RetProbeContext) -> u32 {
    exit(Throttle::Wbt) as u32
}

#[kprobe]
pub fn rq_qos_wait_kprobe(_: ProbeContext) -> u32 {
    enter(Throttle::RqQos, 0) as u32
}

#[kretprobe]
pub fn rq_qos_wait_kretprobe(_: RetProbeContext) -> u32 {
    exit(Throttle::RqQos) as u32
}

#[inline(always)]
fn disk_of(bio: u64) -> u32 {
    disk_untyped(Untyped(bio).follow(&BIO_DEVICE_IN_WAIT).follow(&DISK_IN_WAIT))
}

#[inline(always)]
fn enter(throttle: Throttle, device: u32) -> i32 {
    if !armed_for_current() {
        return 0;
    }
    let key = ThrottledThread { tid: Task::current().tid(), throttle: throttle as u32 };
    // SAFETY: no preconditions.
    let entered_ns = unsafe { bpf_ktime_get_ns() };
    if THROTTLED.insert(key, ThrottledSince { entered_ns, device, reserved: 0 }, 0).is_err() {
        lost(Loss::ThrottleUnseen);
    }
    0
}

/// An exit without an entry is of a wait that began before the recording.
#[inline(always)]
fn exit(throttle: Throttle) -> i32 {
    if !armed_for_current() {
        return 0;
    }
    let key = ThrottledThread { tid: Task::current().tid(), throttle: throttle as u32 };
    // SAFETY: only this thread adds or removes this key.
    let since = unsafe { THROTTLED.get(key) }.copied();
    let (entered_ns, device) = since.map_or((0, 0), |since| (since.entered_ns, since.device));
    // Only fails where there is nothing.
    let _ = THROTTLED.remove(key);
    emit(
        Kind::ThrottleExit,
        ThrottleExit { entered_ns, device, throttle: throttle as u32, comm: current_comm() },
    );
    0
}
