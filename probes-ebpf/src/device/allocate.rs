//! ext4's search for free blocks, from `include/trace/events/ext4.h`. Raw tracepoints, as in `journal.rs`.

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use probes_common::{Allocation, Kind};

use super::inode::File;
use super::{armed_for_current, emit};
use crate::emit::current_comm;
use crate::kernel::Untyped;

#[unsafe(no_mangle)]
static ALLOCATION_INODE: u32 = 0;
#[unsafe(no_mangle)]
static ALLOCATION_LEN: u32 = 0;

/// `ext4_request_blocks(struct ext4_allocation_request *ar)`: `ext4_mb_new_blocks` begins.
#[raw_tracepoint(tracepoint = "ext4_request_blocks")]
pub fn ext4_request_blocks(context: RawTracePointContext) -> i32 {
    emit_allocation(Kind::AllocateEnter, Untyped(context.arg(0)), 0)
}

/// `ext4_allocate_blocks(struct ext4_allocation_request *ar, unsigned long long block)`: it ends.
#[raw_tracepoint(tracepoint = "ext4_allocate_blocks")]
pub fn ext4_allocate_blocks(context: RawTracePointContext) -> i32 {
    emit_allocation(Kind::AllocateExit, Untyped(context.arg(0)), context.arg(1))
}

#[inline(always)]
fn emit_allocation(kind: Kind, request: Untyped, block: u64) -> i32 {
    if armed_for_current() {
        let File { inode, device } = File::of(request.follow(&ALLOCATION_INODE));
        let blocks = request.field(&ALLOCATION_LEN);
        emit(kind, Allocation { inode, block, device, blocks, comm: current_comm() });
    }
    0
}
