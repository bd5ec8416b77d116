//! What writeback throttling measures and decides, from `include/trace/events/wbt.h`. All of it comes in a timer.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use probes_common::{DEVICE_NAME_LEN, Kind, Latency, WbtLatency, WbtStat, WbtStep, WbtTimer};

use super::{armed, emit};
use crate::kernel::{Typed, Untyped, constant};

#[unsafe(no_mangle)]
static BDI_NAME: u32 = 0;
#[unsafe(no_mangle)]
static STAT_MEAN: u32 = 0;
#[unsafe(no_mangle)]
static STAT_MIN: u32 = 0;
#[unsafe(no_mangle)]
static STAT_MAX: u32 = 0;
#[unsafe(no_mangle)]
static STAT_SAMPLES: u32 = 0;
/// `sizeof(struct blk_rq_stat)`.
#[unsafe(no_mangle)]
static STAT_BYTES: u32 = 0;

/// `wbt_stat(struct backing_dev_info *bdi, struct blk_rq_stat *stat)`: one of reads, then one of writes.
#[btf_tracepoint(function = "wbt_stat")]
pub fn wbt_stat(context: BtfTracePointContext) -> i32 {
    if armed() {
        let reads = Untyped(context.arg(1));
        let writes = Untyped(reads.0.wrapping_add(u64::from(constant(&STAT_BYTES))));
        let (read, write) = (latency(reads), latency(writes));
        emit(Kind::WbtStat, WbtStat { device_name: device_name(bdi(&context)), read, write });
    }
    0
}

#[inline(always)]
fn latency(stat: Untyped) -> Latency {
    Latency {
        mean_ns: stat.field(&STAT_MEAN),
        min_ns: stat.field(&STAT_MIN),
        max_ns: stat.field(&STAT_MAX),
        samples: u64::from(stat.field::<u32>(&STAT_SAMPLES)),
    }
}

/// `wbt_lat(struct backing_dev_info *bdi, unsigned long lat)`, in nanoseconds.
#[btf_tracepoint(function = "wbt_lat")]
pub fn wbt_lat(context: BtfTracePointContext) -> i32 {
    if armed() {
        let body = WbtLatency { device_name: device_name(bdi(&context)), latency_ns: context.arg(1) };
        emit(Kind::WbtLatency, body);
    }
    0
}

/// `wbt_step(struct backing_dev_info *bdi, const char *msg, int step, unsigned long window, unsigned int bg,
/// unsigned int normal, unsigned int max)`, the window in nanoseconds.
#[btf_tracepoint(function = "wbt_step")]
pub fn wbt_step(context: BtfTracePointContext) -> i32 {
    if armed() {
        let body = WbtStep {
            device_name: device_name(bdi(&context)),
            window_ns: context.arg(3),
            step: context.arg(2),
            background: context.arg(4),
            normal: context.arg(5),
            max: context.arg(6),
            why: text(context.arg(1)),
        };
        emit(Kind::WbtStep, body);
    }
    0
}

/// `wbt_timer(struct backing_dev_info *bdi, unsigned int status, int step, unsigned int inflight)`.
#[btf_tracepoint(function = "wbt_timer")]
pub fn wbt_timer(context: BtfTracePointContext) -> i32 {
    if armed() {
        let body = WbtTimer {
            device_name: device_name(bdi(&context)),
            status: context.arg(1),
            step: context.arg(2),
            in_flight: context.arg(3),
            reserved: 0,
        };
        emit(Kind::WbtTimer, body);
    }
    0
}

/// The name of a `struct backing_dev_info`: `major:minor` for a disk.
#[inline(always)]
pub fn device_name(bdi: Typed) -> [u8; DEVICE_NAME_LEN] {
    let bdi = bdi.untyped();
    if bdi.0 == 0 {
        return [0; DEVICE_NAME_LEN];
    }
    text(bdi.0.wrapping_add(u64::from(constant(&BDI_NAME))))
}

/// As much of a string as there is room for; empty where it cannot be read.
#[inline(always)]
fn text<const N: usize>(from: u64) -> [u8; N] {
    let mut text = [0; N];
    // SAFETY: `text` has room for the bytes named; the helper takes any address.
    unsafe { bpf_probe_read_kernel_str(text.as_mut_ptr().cast(), N as u32, from as *const _) };
    text
}

#[inline(always)]
fn bdi(context: &BtfTracePointContext) -> Typed {
    // SAFETY: the first argument of each of these is a pointer to a structure.
    unsafe { Typed::from_argument(context.arg(0)) }
}
