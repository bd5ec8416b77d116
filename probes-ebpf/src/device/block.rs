//! Requests and pieces of I/O, from `include/trace/events/block.h`.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use probes_common::{Bio, Kind, REQUEST_BY_KERNEL, Request};

use super::request::{Completion, disk, emit_completion, emit_request, emit_request_with_file};
use super::{armed, emit};
use crate::emit::current_comm;
use crate::kernel::Typed;
use crate::task::Task;

#[unsafe(no_mangle)]
static BIO_DEVICE: u32 = 0;
#[unsafe(no_mangle)]
static BIO_SECTOR: u32 = 0;
#[unsafe(no_mangle)]
static BIO_SIZE: u32 = 0;
#[unsafe(no_mangle)]
static BLOCK_DEVICE_DISK: u32 = 0;

/// `block_io_start(struct request *rq)`: a request is made of a piece of I/O, in its submitter's context.
#[btf_tracepoint(function = "block_io_start")]
pub fn block_io_start(context: BtfTracePointContext) -> i32 {
    emit_request_with_file(Kind::RequestStart, argument(&context, 0));
    0
}

/// `block_getrq(struct bio *bio)`: the same moment on a kernel without `block_io_start`, which does not tell the
/// request's address.
#[btf_tracepoint(function = "block_getrq")]
pub fn block_getrq(context: BtfTracePointContext) -> i32 {
    if !armed() {
        return 0;
    }
    let bio = argument(&context, 0);
    let by_kernel = if Task::current().is_kernel_only() { REQUEST_BY_KERNEL } else { 0 };
    let body = Request {
        request: 0,
        sector: bio.field(&BIO_SECTOR),
        made_ns: 0,
        inode: 0,
        inode_device: 0,
        device: disk_of(bio),
        bytes: bio.field(&BIO_SIZE),
        done_bytes: 0,
        status: 0,
        flags: by_kernel,
        operation: 0,
        reserved: 0,
        comm: current_comm(),
    };
    emit(Kind::RequestStart, body);
    0
}

/// `block_rq_insert(struct request *rq)`.
#[btf_tracepoint(function = "block_rq_insert")]
pub fn block_rq_insert(context: BtfTracePointContext) -> i32 {
    emit_request(Kind::RequestInsert, argument(&context, 0));
    0
}

/// `block_rq_issue(struct request *rq)`.
#[btf_tracepoint(function = "block_rq_issue")]
pub fn block_rq_issue(context: BtfTracePointContext) -> i32 {
    emit_request_with_file(Kind::RequestIssue, argument(&context, 0));
    0
}

/// `block_rq_requeue(struct request *rq)`.
#[btf_tracepoint(function = "block_rq_requeue")]
pub fn block_rq_requeue(context: BtfTracePointContext) -> i32 {
    emit_request(Kind::RequestRequeue, argument(&context, 0));
    0
}

/// `block_rq_merge(struct request *rq)`: `rq` goes up in another.
#[btf_tracepoint(function = "block_rq_merge")]
pub fn block_rq_merge(context: BtfTracePointContext) -> i32 {
    emit_request(Kind::RequestMerge, argument(&context, 0));
    0
}

/// `block_rq_complete(struct request *rq, blk_status_t error, unsigned int nr_bytes)`.
#[btf_tracepoint(function = "block_rq_complete")]
pub fn block_rq_complete(context: BtfTracePointContext) -> i32 {
    // `blk_status_t` is a byte.
    let completion = Completion { status: u32::from(context.arg::<u8>(1)), done_bytes: context.arg(2) };
    emit_completion(argument(&context, 0), completion);
    0
}

/// `block_bio_backmerge(struct bio *bio)`.
#[btf_tracepoint(function = "block_bio_backmerge")]
pub fn block_bio_backmerge(context: BtfTracePointContext) -> i32 {
    emit_bio(Kind::BioMerge, &context, 0);
    0
}

/// `block_bio_frontmerge(struct bio *bio)`.
#[btf_tracepoint(function = "block_bio_frontmerge")]
pub fn block_bio_frontmerge(context: BtfTracePointContext) -> i32 {
    emit_bio(Kind::BioMerge, &context, 0);
    0
}

/// `block_split(struct bio *bio, unsigned int new_sector)`.
#[btf_tracepoint(function = "block_split")]
pub fn block_split(context: BtfTracePointContext) -> i32 {
    emit_bio(Kind::BioSplit, &context, 0);
    0
}

/// `block_bio_remap(struct bio *bio, dev_t dev, sector_t from)`.
#[btf_tracepoint(function = "block_bio_remap")]
pub fn block_bio_remap(context: BtfTracePointContext) -> i32 {
    emit_bio(Kind::BioRemap, &context, context.arg(1));
    0
}

#[inline(always)]
fn emit_bio(kind: Kind, context: &BtfTracePointContext, from_device: u32) {
    if !armed() {
        return;
    }
    let bio = argument(context, 0);
    let body = Bio {
        sector: bio.field(&BIO_SECTOR),
        bytes: bio.field(&BIO_SIZE),
        device: disk_of(bio),
        from_device,
        reserved: 0,
        comm: current_comm(),
    };
    emit(kind, body);
}

#[inline(always)]
fn disk_of(bio: Typed) -> u32 {
    disk(bio.follow(&BIO_DEVICE).follow(&BLOCK_DEVICE_DISK))
}

#[inline(always)]
fn argument(context: &BtfTracePointContext, number: usize) -> Typed {
    // SAFETY: every caller names an argument that is a pointer to a structure.
    unsafe { Typed::from_argument(context.arg(number)) }
}
