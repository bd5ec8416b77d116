//! Whether a process outlives a probe at the return of one of its functions.
//!
//! Since Linux 6.11 a watched function returns through a system call of its own, `uretprobe`. Until 6.12.14 and 6.13.3 a
//! process's own filter of system calls saw it like any other, and refused what it did not know (CVE-2025-21834).
//! Distributions mend that without another number, so the kernel is asked.

use std::io;

use rustix::process::{Pid, WaitOptions, waitpid};

use crate::error::AttachError;
use crate::proc;

/// `uretprobe` of arch/x86/entry/syscalls/syscall_64.tbl.
const URETPROBE: u32 = 335;
/// What the filter answers; no system call does by itself.
const REFUSED: u16 = 4000;

/// Refuses where the kernel would have a filter of the process kill it.
pub fn is_outlived_by(pid: u32) -> Result<(), AttachError> {
    let has_filter = proc::thread_ids(pid).unwrap_or_default().into_iter().any(proc::has_seccomp_filter);
    // Whoever makes the call from elsewhere than the place that the kernel has made for returns is ended by it.
    if has_filter
        && ask(URETPROBE, false) == Some(Answer::Ended)
        && ask(URETPROBE, true) == Some(Answer::Refused)
    {
        return Err(AttachError::ReturnProbe { pid, kernel: proc::host().kernel });
    }
    Ok(())
}

/// What came of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// The kernel ended who made it.
    Ended,
    /// The filter refused it.
    Refused,
    /// Something else.
    Returned,
}

/// Has a child of this process make a system call, behind a filter that refuses it where that is wanted. `None` where there
/// can be no child or no filter.
fn ask(call: u32, is_filtered: bool) -> Option<Answer> {
    const NO_FILTER: i32 = 2;
    let filter = filter(call);
    // SAFETY: the child calls nothing but system calls, on what is its own copy, and ends without unwinding.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: the filter outlives the call that reads it; the last call does not return.
        unsafe {
            // No core of it is to be kept.
            libc::prctl(libc::PR_SET_DUMPABLE, 0);
            if is_filtered && !takes_filter(&filter) {
                libc::_exit(NO_FILTER);
            }
            let is_refused = libc::syscall(libc::c_long::from(call)) == -1
                && io::Error::last_os_error().raw_os_error() == Some(REFUSED.into());
            libc::_exit(i32::from(is_refused));
        }
    }
    let (_, status) = waitpid(Some(Pid::from_raw(child)?), WaitOptions::empty()).ok()??;
    match status.exit_status() {
        None => Some(Answer::Ended),
        Some(0) => Some(Answer::Returned),
        Some(1) => Some(Answer::Refused),
        Some(_) => None,
    }
}

/// Has the filter see all further system calls of this thread.
///
/// # Safety
/// It cannot be undone.
unsafe fn takes_filter(filter: &[libc::sock_filter; 4]) -> bool {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the program is read only, and only by this call.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    }
}

/// Refuses one system call.
fn filter(call: u32) -> [libc::sock_filter; 4] {
    let step = |code: u32, jf, k| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    [
        // The number of the call is the first word of what a filter is shown (`struct seccomp_data`).
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, call),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | u32::from(REFUSED)),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

#[cfg(test)]
mod tests {
    use super::{Answer, URETPROBE, ask};

    #[test]
    fn a_filter_that_sees_a_call_is_told_from_none() {
        let harmless = libc::SYS_getppid as u32;
        assert_eq!(ask(harmless, false), Some(Answer::Returned));
        assert_eq!(ask(harmless, true), Some(Answer::Refused));
    }

    #[test]
    fn the_call_of_returns_ends_a_child_or_is_not_there() {
        // Which of the two is the kernel's affair; that this process goes on is not.
        assert!(matches!(ask(URETPROBE, false), Some(Answer::Ended | Answer::Returned)));
    }
}
