//! What a record tells of a request.

use probes_common::{
    Kind, MINOR_BITS, REQUEST_BACKGROUND, REQUEST_BY_KERNEL, REQUEST_FUA, REQUEST_META, REQUEST_PREFLUSH,
    REQUEST_READAHEAD, REQUEST_SYNC, Request,
};

use super::inode::File;
use super::{armed, emit};
use crate::emit::current_comm;
use crate::kernel::{Typed, Untyped, constant};
use crate::task::Task;

#[unsafe(no_mangle)]
static REQUEST_QUEUE: u32 = 0;
#[unsafe(no_mangle)]
static REQUEST_CMD_FLAGS: u32 = 0;
#[unsafe(no_mangle)]
static REQUEST_DATA_LEN: u32 = 0;
#[unsafe(no_mangle)]
static REQUEST_SECTOR: u32 = 0;
#[unsafe(no_mangle)]
static REQUEST_START_TIME: u32 = 0;
#[unsafe(no_mangle)]
static REQUEST_BIO: u32 = 0;
#[unsafe(no_mangle)]
static QUEUE_DISK: u32 = 0;
#[unsafe(no_mangle)]
static DISK_MAJOR: u32 = 0;
#[unsafe(no_mangle)]
static DISK_FIRST_MINOR: u32 = 0;
#[unsafe(no_mangle)]
static BIO_VECTOR: u32 = 0;
#[unsafe(no_mangle)]
static BIO_INDEX: u32 = 0;
#[unsafe(no_mangle)]
static VECTOR_PAGE: u32 = 0;

/// Numbers of the flags' bits in this kernel (`enum req_flag_bits`).
#[unsafe(no_mangle)]
static REQ_SYNC_BIT: u32 = 0;
#[unsafe(no_mangle)]
static REQ_META_BIT: u32 = 0;
#[unsafe(no_mangle)]
static REQ_FUA_BIT: u32 = 0;
#[unsafe(no_mangle)]
static REQ_PREFLUSH_BIT: u32 = 0;
#[unsafe(no_mangle)]
static REQ_RAHEAD_BIT: u32 = 0;
#[unsafe(no_mangle)]
static REQ_BACKGROUND_BIT: u32 = 0;

/// `REQ_OP_MASK` (include/linux/blk_types.h).
const OPERATION_MASK: u32 = 255;
/// `sizeof(struct bio_vec)`: a pointer and two words.
const VECTOR_BYTES: u64 = 16;

/// What a completion adds.
#[derive(Clone, Copy, Default)]
pub struct Completion {
    pub done_bytes: u32,
    pub status: u32,
}

/// Writes a record of a request that the current thread does something with.
#[inline(always)]
pub fn emit_request(kind: Kind, request: Typed) {
    if armed() {
        emit(kind, body(request, File::default(), Completion::default(), current_comm()));
    }
}

/// The same, with the file that the request is of.
#[inline(always)]
pub fn emit_request_with_file(kind: Kind, request: Typed) {
    if armed() {
        emit(kind, body(request, file(request), Completion::default(), current_comm()));
    }
}

/// Writes a record of a request that completes, in whatever thread's time that happens.
#[inline(always)]
pub fn emit_completion(request: Typed, completion: Completion) {
    if armed() {
        emit(Kind::RequestComplete, body(request, File::default(), completion, [0; _]));
    }
}

#[inline(always)]
fn body(request: Typed, file: File, completion: Completion, comm: [u8; probes_common::COMM_LEN]) -> Request {
    let bits: u32 = request.field(&REQUEST_CMD_FLAGS);
    Request {
        request: request.untyped().0,
        sector: request.field(&REQUEST_SECTOR),
        made_ns: request.field(&REQUEST_START_TIME),
        inode: file.inode,
        inode_device: file.device,
        device: disk(request.follow(&REQUEST_QUEUE).follow(&QUEUE_DISK)),
        bytes: request.field(&REQUEST_DATA_LEN),
        done_bytes: completion.done_bytes,
        status: completion.status,
        flags: flags(bits),
        operation: (bits & OPERATION_MASK) as u8,
        reserved: 0,
        comm,
    }
}

/// The `dev_t` of a `struct gendisk`; 0 where there is none.
#[inline(always)]
pub fn disk(disk: Typed) -> u32 {
    if disk.is_null() {
        return 0;
    }
    disk.field::<u32>(&DISK_MAJOR) << MINOR_BITS | disk.field::<u32>(&DISK_FIRST_MINOR)
}

/// The same, of an address.
#[inline(always)]
pub fn disk_untyped(disk: Untyped) -> u32 {
    if disk.0 == 0 {
        return 0;
    }
    disk.field::<u32>(&DISK_MAJOR) << MINOR_BITS | disk.field::<u32>(&DISK_FIRST_MINOR)
}

/// The kernel's flags, which change their places, as ours, which do not.
#[inline(always)]
fn flags(bits: u32) -> u16 {
    let bit = |number: &'static u32, flag: u16| -> u16 {
        // Bit 32 and above: this kernel has no such flag.
        if u64::from(bits) >> (constant(number) & 63) & 1 != 0 { flag } else { 0 }
    };
    let by_kernel = if Task::current().is_kernel_only() { REQUEST_BY_KERNEL } else { 0 };
    by_kernel
        | bit(&REQ_SYNC_BIT, REQUEST_SYNC)
        | bit(&REQ_META_BIT, REQUEST_META)
        | bit(&REQ_FUA_BIT, REQUEST_FUA)
        | bit(&REQ_PREFLUSH_BIT, REQUEST_PREFLUSH)
        | bit(&REQ_RAHEAD_BIT, REQUEST_READAHEAD)
        | bit(&REQ_BACKGROUND_BIT, REQUEST_BACKGROUND)
}

/// The file whose page comes first in a request.
#[inline(always)]
fn file(request: Typed) -> File {
    let bio = Untyped(request.field::<u64>(&REQUEST_BIO));
    if bio.0 == 0 {
        return File::default();
    }
    let index = u64::from(bio.field::<u32>(&BIO_INDEX));
    let vector = Untyped(bio.field::<u64>(&BIO_VECTOR).wrapping_add(index * VECTOR_BYTES));
    File::of_page(vector.follow(&VECTOR_PAGE))
}
