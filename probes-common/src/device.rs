//! What happens between a process and a disk: requests to block devices, journal commits, syncs, allocations,
//! dirty pages, and the throttle that holds writers back.
//!
//! The events are those of the whole machine, because a request is often made by another thread than the one that
//! it is for. In each record the [`Head`](crate::Head) names the thread that was current; where an event comes in an
//! interrupt that thread is chance, and the record's own documentation says so.

use crate::record::COMM_LEN;

/// The lane of the device events: their programs run in tasks and in interrupts, may interrupt one another, and
/// number their records with atomic operations. A hole in the numbers may be filled later by a program that was
/// interrupted, so only the counters tell of a loss.
pub const DEVICE_LANE: u32 = 2;

/// The first [`Kind`](crate::Kind) of the device lane.
pub const FIRST_DEVICE_KIND: u8 = 32;

/// The bytes of a device's name that a record carries, with the terminating NUL: what the kernel's own tracepoints
/// carry of it.
pub const DEVICE_NAME_LEN: usize = 32;

/// Bits of the kernel's `dev_t` that are the minor number (include/linux/kdev_t.h).
pub const MINOR_BITS: u32 = 20;

/// The most inodes and processes whose dirtied pages are told apart in one session.
pub const DIRTIERS: u32 = 16384;

/// The most threads that can be in a throttle at once.
pub const THROTTLED: u32 = 4096;

/// [`Request::flags`]: somebody waits for it (`REQ_SYNC`).
pub const REQUEST_SYNC: u16 = 1;
/// [`Request::flags`]: metadata of a file system (`REQ_META`).
pub const REQUEST_META: u16 = 2;
/// [`Request::flags`]: it is to be on stable storage when it completes (`REQ_FUA`).
pub const REQUEST_FUA: u16 = 4;
/// [`Request::flags`]: the device's cache is to be flushed before it (`REQ_PREFLUSH`).
pub const REQUEST_PREFLUSH: u16 = 8;
/// [`Request::flags`]: reading ahead (`REQ_RAHEAD`).
pub const REQUEST_READAHEAD: u16 = 16;
/// [`Request::flags`]: background writeback (`REQ_BACKGROUND`).
pub const REQUEST_BACKGROUND: u16 = 32;
/// [`Request::flags`]: the current thread is one of the kernel's own.
pub const REQUEST_BY_KERNEL: u16 = 64;

/// Every event of a request to a block device: `RequestStart`, `RequestInsert`, `RequestIssue`, `RequestRequeue`,
/// `RequestMerge`, `RequestComplete`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Request {
    /// The address of the kernel's `struct request`: names it from its start to its completion, and another after it.
    pub request: u64,
    /// Its first sector of 512 bytes, on the whole disk.
    pub sector: u64,
    /// When the request was made, as the kernel itself noted, in nanoseconds of CLOCK_MONOTONIC; 0 where it did not.
    pub made_ns: u64,
    /// The inode whose page-cache page comes first in it; 0 where it is no page of a file, and but for
    /// `RequestStart` and `RequestIssue`.
    pub inode: u64,
    /// The device that `inode` lies on.
    pub inode_device: u32,
    /// The disk: the kernel's `dev_t`.
    pub device: u32,
    /// Bytes that are not yet done.
    pub bytes: u32,
    /// `RequestComplete`: how many of them now are; less than `bytes` where it completes in parts.
    pub done_bytes: u32,
    /// `RequestComplete`: a `blk_status_t`; 0 for success.
    pub status: u32,
    /// `REQUEST_*`.
    pub flags: u16,
    /// `enum req_op` (include/linux/blk_types.h).
    pub operation: u8,
    /// Keeps the size a multiple of eight.
    pub reserved: u8,
    /// The current thread's name. With the head's ids it is who made the request in `RequestStart`, mostly so in
    /// `RequestInsert` and `RequestIssue`, and means nothing in `RequestComplete`.
    pub comm: [u8; COMM_LEN],
}

/// `enum req_op`: the operations that are told apart.
pub mod operation {
    /// Reads sectors.
    pub const READ: u8 = 0;
    /// Writes sectors.
    pub const WRITE: u8 = 1;
    /// Flushes the device's cache.
    pub const FLUSH: u8 = 2;
    /// Gives sectors up.
    pub const DISCARD: u8 = 3;
}

/// A `BioMerge`, `BioSplit` or `BioRemap`: what becomes of a piece of I/O on its way to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Bio {
    /// Its first sector.
    pub sector: u64,
    /// Its bytes.
    pub bytes: u32,
    /// The disk that it is for; after a `BioRemap`, the new one.
    pub device: u32,
    /// `BioRemap`: the device that it was for: a partition, or a mapped device.
    pub from_device: u32,
    /// Keeps the size a multiple of eight.
    pub reserved: u32,
    /// The current thread's name: whose I/O it is, or that of a kernel thread that works for it.
    pub comm: [u8; COMM_LEN],
}

/// The steps of a journal commit, in the order in which they come (fs/jbd2/commit.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum CommitStep {
    /// The transaction is chosen.
    Start = 0,
    /// It takes no more updates, and waits for those under way.
    Locking = 1,
    /// The data that must be on disk before it is submitted.
    Flushing = 2,
    /// Its blocks are written to the journal, and everything is waited for, the data too.
    Logging = 3,
    /// It is durable.
    End = 4,
}

impl CommitStep {
    /// All, in order.
    pub const ALL: [Self; 5] = [Self::Start, Self::Locking, Self::Flushing, Self::Logging, Self::End];
}

/// A `Commit`: a journal's transaction reaches a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Commit {
    /// The device of the file system.
    pub device: u32,
    /// The transaction's number.
    pub transaction: u32,
    /// A [`CommitStep`].
    pub step: u32,
    /// Keeps the size a multiple of eight.
    pub reserved: u32,
}

/// A `SyncEnter` or `SyncExit`: ext4 begins or has ended to make a file durable, for the current thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Sync {
    /// The file's inode.
    pub inode: u64,
    /// The device of its file system.
    pub device: u32,
    /// `SyncEnter`: 1 for fdatasync. `SyncExit`: 0, or a negative errno.
    pub value: i32,
    /// The thread's name.
    pub comm: [u8; COMM_LEN],
}

/// An `AllocateEnter` or `AllocateExit`: ext4 looks for free blocks, or has found some, for the current thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Allocation {
    /// The file's inode.
    pub inode: u64,
    /// `AllocateExit`: the first block; 0 where there was none.
    pub block: u64,
    /// The device of its file system.
    pub device: u32,
    /// Blocks asked for; `AllocateExit`: blocks that were had.
    pub blocks: u32,
    /// The thread's name.
    pub comm: [u8; COMM_LEN],
}

/// A `DirtyPause`: the current thread has dirtied too much, and is told to pause (`balance_dirty_pages`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DirtyPause {
    /// For how long, in the kernel's ticks; 0 or less where it may go on at once.
    pub pause_ticks: i64,
    /// Pages a second that it is held to.
    pub task_limit: u64,
    /// Pages that it dirtied since its last pause.
    pub dirtied: u64,
    /// The device that the pages are for, `major:minor` as a rule.
    pub device_name: [u8; DEVICE_NAME_LEN],
    /// The thread's name.
    pub comm: [u8; COMM_LEN],
}

/// Latencies of one direction in a [`WbtStat`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Latency {
    /// Nanoseconds.
    pub mean_ns: u64,
    /// Nanoseconds.
    pub min_ns: u64,
    /// Nanoseconds.
    pub max_ns: u64,
    /// Requests that were measured.
    pub samples: u64,
}

/// A `WbtStat`: what writeback throttling measured over its last window. Comes in an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct WbtStat {
    /// The device, `major:minor` as a rule.
    pub device_name: [u8; DEVICE_NAME_LEN],
    /// Of reads.
    pub read: Latency,
    /// Of writes.
    pub write: Latency,
}

/// A `WbtLatency`: a read that somebody waits for has been in flight for longer than the target. Comes in an
/// interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct WbtLatency {
    /// The device.
    pub device_name: [u8; DEVICE_NAME_LEN],
    /// For how long so far.
    pub latency_ns: u64,
}

/// A `WbtStep`: the throttle becomes tighter or looser. Comes in an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct WbtStep {
    /// The device.
    pub device_name: [u8; DEVICE_NAME_LEN],
    /// Length of the windows from now on.
    pub window_ns: u64,
    /// How tight: 0 is normal, more is tighter, less is looser.
    pub step: i32,
    /// Background writes that may be in flight.
    pub background: u32,
    /// Other buffered writes that may be in flight.
    pub normal: u32,
    /// Writes that may be in flight while somebody waits for them.
    pub max: u32,
    /// Why, in the kernel's words.
    pub why: [u8; 16],
}

/// A `WbtTimer`: a window of the throttle is over. Comes in an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct WbtTimer {
    /// The device.
    pub device_name: [u8; DEVICE_NAME_LEN],
    /// `LAT_OK` 1, `LAT_UNKNOWN` 2, `LAT_UNKNOWN_WRITES` 3, `LAT_EXCEEDED` 4 (block/blk-wbt.c).
    pub status: u32,
    /// As in [`WbtStep`].
    pub step: i32,
    /// Throttled writes in flight.
    pub in_flight: u32,
    /// Keeps the size a multiple of eight.
    pub reserved: u32,
}

/// The kernel's functions in which a writer is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Throttle {
    /// `wbt_wait` (block/blk-wbt.c): writeback throttling.
    Wbt = 0,
    /// `rq_qos_wait` (block/blk-rq-qos.c): the sleep inside it, which other policies use too.
    RqQos = 1,
}

impl Throttle {
    /// All, in discriminant order.
    pub const ALL: [Self; 2] = [Self::Wbt, Self::RqQos];

    /// The kernel function's name.
    pub const fn function(self) -> &'static str {
        match self {
            Self::Wbt => "wbt_wait",
            Self::RqQos => "rq_qos_wait",
        }
    }
}

/// A `ThrottleExit`: the current thread leaves a [`Throttle`]. Written where that can be probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ThrottleExit {
    /// When it entered; 0 where that was before the recording.
    pub entered_ns: u64,
    /// The disk; 0 where the function does not know it.
    pub device: u32,
    /// A [`Throttle`].
    pub throttle: u32,
    /// The thread's name.
    pub comm: [u8; COMM_LEN],
}

/// Whose pages of which file: the key of the map `DIRTIED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Dirtier {
    /// The file; 0 for a block device's own pages, which hold metadata.
    pub inode: u64,
    /// The device of its file system; of a block device's own pages, that device.
    pub device: u32,
    /// The process.
    pub tgid: u32,
}

/// How many: the value of the map `DIRTIED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Dirtied {
    /// Pages of 4 KiB that went from clean to dirty, all of a folio at once.
    pub pages: u64,
    /// The name of the first thread of the process that dirtied one.
    pub comm: [u8; COMM_LEN],
}

/// Who is in a throttle: the key of the map `THROTTLED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct ThrottledThread {
    /// The thread.
    pub tid: u32,
    /// A [`Throttle`].
    pub throttle: u32,
}

/// Since when: the value of the map `THROTTLED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ThrottledSince {
    /// When it entered.
    pub entered_ns: u64,
    /// The disk; 0 where the function does not know it.
    pub device: u32,
    /// Keeps the size a multiple of eight.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Request>() == 72 && size_of::<Bio>() == 40 && size_of::<Commit>() == 16);
const _: () =
    assert!(size_of::<Sync>() == 32 && size_of::<Allocation>() == 40 && size_of::<DirtyPause>() == 72);
const _: () =
    assert!(size_of::<WbtStat>() == 96 && size_of::<WbtLatency>() == 40 && size_of::<WbtStep>() == 72);
const _: () = assert!(size_of::<WbtTimer>() == 48 && size_of::<ThrottleExit>() == 32);
const _: () = assert!(size_of::<Dirtier>() == 16 && size_of::<Dirtied>() == 24);
const _: () = assert!(size_of::<ThrottledThread>() == 8 && size_of::<ThrottledSince>() == 16);

#[cfg(test)]
mod tests {
    use super::{CommitStep, Throttle};

    #[test]
    fn steps_and_throttles_are_listed_once_in_discriminant_order() {
        for (index, step) in CommitStep::ALL.iter().enumerate() {
            assert_eq!(*step as usize, index);
        }
        for (index, throttle) in Throttle::ALL.iter().enumerate() {
            assert_eq!(*throttle as usize, index);
        }
    }
}
