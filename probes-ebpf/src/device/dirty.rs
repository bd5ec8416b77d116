//! Pages that become dirty, and the pauses of those who dirty too many, from `include/trace/events/writeback.h`.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use probes_common::{Dirtied, Dirtier, DirtyPause, Kind, Loss};

use super::inode::{File, folio_pages};
use super::wbt::device_name;
use super::{add, armed_for_current, emit, lost};
use crate::emit::current_comm;
use crate::kernel::Typed;
use crate::maps::DIRTIED;
use crate::task::{Task, Thread};

#[unsafe(no_mangle)]
static WB_BDI: u32 = 0;
/// Only if there is no entry yet.
const BPF_NOEXIST: u64 = 1;

/// `writeback_dirty_folio(struct folio *folio, struct address_space *mapping)`: it was clean until now.
#[btf_tracepoint(function = "writeback_dirty_folio")]
pub fn writeback_dirty_folio(context: BtfTracePointContext) -> i32 {
    if !armed_for_current() {
        return 0;
    }
    // SAFETY: both arguments are pointers to structures.
    let (folio, mapping) =
        unsafe { (Typed::from_argument(context.arg(0)), Typed::from_argument(context.arg(1))) };
    if mapping.is_null() {
        return 0;
    }
    let File { inode, device } = File::of_mapping(mapping);
    let key = Dirtier { inode, device, tgid: Task::current().tgid() };
    let pages = folio_pages(folio);
    if count_pages(&key, pages) {
        return 0;
    }
    let first = Dirtied { pages, comm: current_comm() };
    // Another CPU may have been first.
    if DIRTIED.insert(key, first, BPF_NOEXIST).is_err() && !count_pages(&key, pages) {
        lost(Loss::DirtierUncounted);
    }
    0
}

/// False where the key has no entry.
#[inline(always)]
fn count_pages(key: &Dirtier, pages: u64) -> bool {
    let Some(known) = DIRTIED.get_ptr_mut(key) else { return false };
    // SAFETY: a field of a map's value.
    add(unsafe { &raw mut (*known).pages }, pages);
    true
}

/// `balance_dirty_pages(struct bdi_writeback *wb, struct dirty_throttle_control *dtc, dirty_ratelimit, task_ratelimit,
/// dirtied, period, pause, start_time)`.
#[btf_tracepoint(function = "balance_dirty_pages")]
pub fn balance_dirty_pages(context: BtfTracePointContext) -> i32 {
    if armed_for_current() {
        emit_pause(&context, context.arg(3), context.arg(4), context.arg(6));
    }
    0
}

/// `balance_dirty_pages(struct bdi_writeback *wb, thresh, bg_thresh, dirty, bdi_thresh, bdi_dirty, dirty_ratelimit,
/// task_ratelimit, dirtied, period, pause, start_time)`, as it was before the limits came in one structure.
#[btf_tracepoint(function = "balance_dirty_pages")]
pub fn balance_dirty_pages_12(context: BtfTracePointContext) -> i32 {
    if armed_for_current() {
        emit_pause(&context, context.arg(7), context.arg(8), context.arg(10));
    }
    0
}

#[inline(always)]
fn emit_pause(context: &BtfTracePointContext, task_limit: u64, dirtied: u64, pause_ticks: i64) {
    // SAFETY: the first argument is a pointer to a structure.
    let bdi = unsafe { Typed::from_argument(context.arg(0)) }.follow(&WB_BDI);
    let device_name = device_name(bdi);
    emit(
        Kind::DirtyPause,
        DirtyPause { pause_ticks, task_limit, dirtied, device_name, comm: current_comm() },
    );
}
