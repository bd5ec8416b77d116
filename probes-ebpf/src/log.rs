//! What the programs say of themselves, where user space asked for it as it loaded them. Only what happens seldom is
//! said: the first record of a CPU in each lane, the first loss of each kind on a CPU, and that a program turned
//! recording on.

use core::ptr::read_volatile;

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use aya_log_ebpf::{info, warn};
use probes_common::{Kind, Loss};

use crate::task::{Task, Thread};

/// Whether somebody listens; set at load. Where nobody does, the verifier takes out what is behind it, and nothing is
/// left but this load, where something is written or lost.
#[unsafe(no_mangle)]
static LOG: u32 = 0;

#[inline(always)]
fn is_heard() -> bool {
    // SAFETY: a read of a static.
    unsafe { read_volatile(&LOG) != 0 }
}

#[inline(always)]
fn cpu() -> u32 {
    // SAFETY: no preconditions.
    unsafe { bpf_get_smp_processor_id() as u32 }
}

/// A record is about to be written, before which this CPU tried to write `before` in the same lane.
#[inline(always)]
pub fn record(before: u64, kind: Kind, thread: impl Thread) {
    if is_heard() && before == 0 {
        log_first_record(kind as u32, thread.tid(), thread.tgid());
    }
}

/// Something was lost, of which this CPU had lost `before` in the same lane.
#[inline(always)]
pub fn loss(before: u64, cause: Loss) {
    if is_heard() && before == 0 {
        log_first_loss(cause as u32);
    }
}

/// A program turns recording on, because the current thread enters the function that bounds windows.
#[inline(always)]
pub fn armed_by_function() {
    if is_heard() {
        log_armed(Task::current().tid());
    }
}

// A message takes more stack and instructions than most programs. So each has a function of its own, and one that is
// exported: the verifier goes through such a function once, and not once for each way that leads to it.

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn log_first_record(kind: u32, tid: u32, tgid: u32) -> i32 {
    info!(&(), "first record of CPU {}, of kind {}: thread {} of process {}", cpu(), kind, tid, tgid);
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn log_armed(tid: u32) -> i32 {
    info!(&(), "armed: thread {} enters the function", tid);
    0
}

/// `cause` is a [`Loss`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn log_first_loss(cause: u32) -> i32 {
    let Some(name) = CAUSES.get(cause as usize) else { return 0 };
    // SAFETY: the names are ASCII, and so is what they are filled up with.
    let name = unsafe { core::str::from_utf8_unchecked(name) };
    warn!(&(), "first loss of its kind on CPU {}: {}", cpu(), name);
    0
}

/// Bytes of a cause's name, filled up with spaces.
const NAME: usize = 20;

/// The names lie one behind the other: a table of where they lie would hold addresses, which no loader fills in.
static CAUSES: [[u8; NAME]; Loss::ALL.len()] = {
    let mut names = [[b' '; NAME]; Loss::ALL.len()];
    let mut cause = 0;
    while cause < names.len() {
        let name = Loss::ALL[cause].name().as_bytes();
        let mut at = 0;
        while at < name.len() {
            names[cause][at] = name[at];
            at += 1;
        }
        cause += 1;
    }
    names
};
