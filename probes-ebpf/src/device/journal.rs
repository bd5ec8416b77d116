//! Journal commits and syncs of files, from `include/trace/events/jbd2.h` and `ext4.h`.
//!
//! jbd2 and ext4 are modules on many hosts, whose functions a program with type information cannot be attached to
//! by name alone. So these are raw tracepoints, and what their arguments point to is read with checks.

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use probes_common::{Commit, CommitStep, Kind, Sync};

use super::inode::File;
use super::{armed, armed_for_current, emit};
use crate::emit::current_comm;
use crate::kernel::Untyped;

#[unsafe(no_mangle)]
static JOURNAL_FS_DEVICE: u32 = 0;
#[unsafe(no_mangle)]
static BLOCK_DEVICE_DEV: u32 = 0;
#[unsafe(no_mangle)]
static TRANSACTION_TID: u32 = 0;
#[unsafe(no_mangle)]
static FILE_INODE: u32 = 0;

/// `jbd2_start_commit(journal_t *journal, transaction_t *commit_transaction)`, and so the four after it.
#[raw_tracepoint(tracepoint = "jbd2_start_commit")]
pub fn jbd2_start_commit(context: RawTracePointContext) -> i32 {
    emit_commit(&context, CommitStep::Start)
}

#[raw_tracepoint(tracepoint = "jbd2_commit_locking")]
pub fn jbd2_commit_locking(context: RawTracePointContext) -> i32 {
    emit_commit(&context, CommitStep::Locking)
}

#[raw_tracepoint(tracepoint = "jbd2_commit_flushing")]
pub fn jbd2_commit_flushing(context: RawTracePointContext) -> i32 {
    emit_commit(&context, CommitStep::Flushing)
}

#[raw_tracepoint(tracepoint = "jbd2_commit_logging")]
pub fn jbd2_commit_logging(context: RawTracePointContext) -> i32 {
    emit_commit(&context, CommitStep::Logging)
}

#[raw_tracepoint(tracepoint = "jbd2_end_commit")]
pub fn jbd2_end_commit(context: RawTracePointContext) -> i32 {
    emit_commit(&context, CommitStep::End)
}

#[inline(always)]
fn emit_commit(context: &RawTracePointContext, step: CommitStep) -> i32 {
    if !armed() {
        return 0;
    }
    let (journal, transaction) = (Untyped(context.arg(0)), Untyped(context.arg(1)));
    let body = Commit {
        device: journal.follow(&JOURNAL_FS_DEVICE).field(&BLOCK_DEVICE_DEV),
        transaction: transaction.field(&TRANSACTION_TID),
        step: step as u32,
        reserved: 0,
    };
    emit(Kind::Commit, body);
    0
}

/// `ext4_sync_file_enter(struct file *file, int datasync)`.
#[raw_tracepoint(tracepoint = "ext4_sync_file_enter")]
pub fn ext4_sync_file_enter(context: RawTracePointContext) -> i32 {
    emit_sync(Kind::SyncEnter, Untyped(context.arg(0)).follow(&FILE_INODE), context.arg(1))
}

/// `ext4_sync_file_exit(struct inode *inode, int ret)`.
#[raw_tracepoint(tracepoint = "ext4_sync_file_exit")]
pub fn ext4_sync_file_exit(context: RawTracePointContext) -> i32 {
    emit_sync(Kind::SyncExit, Untyped(context.arg(0)), context.arg(1))
}

#[inline(always)]
fn emit_sync(kind: Kind, inode: Untyped, value: i32) -> i32 {
    if armed_for_current() {
        let File { inode, device } = File::of(inode);
        emit(kind, Sync { inode, device, value, comm: current_comm() });
    }
    0
}
