//! Priorities of one thread, for the disk and for the processor.

use std::io;

use rustix::thread::{Pid, gettid};

// include/uapi/linux/ioprio.h
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_CLASS_SHIFT: u32 = 13;
const IOPRIO_CLASS_NONE: libc::c_int = 0;
const IOPRIO_CLASS_IDLE: libc::c_int = 3;

/// Gives the calling thread the disk and the processor only when nobody else wants them. Whether the disk goes by
/// it is up to its I/O scheduler: bfq and mq-deadline do (ioprio_set(2)). Returns the thread, for
/// [`make_normal`].
pub fn make_idle() -> io::Result<Pid> {
    let thread = gettid();
    set(thread, IOPRIO_CLASS_IDLE, libc::SCHED_IDLE)?;
    Ok(thread)
}

/// Undoes [`make_idle`] for `thread`, from any thread of this process. Needs CAP_SYS_NICE where RLIMIT_NICE
/// does not allow the nice value 0 (sched(7)).
pub fn make_normal(thread: Pid) -> io::Result<()> {
    set(thread, IOPRIO_CLASS_NONE, libc::SCHED_OTHER)
}

fn set(thread: Pid, io_class: libc::c_int, policy: libc::c_int) -> io::Result<()> {
    let thread = thread.as_raw_nonzero().get();
    // SAFETY: the call takes three integers and touches no memory of this process.
    let outcome = unsafe {
        libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, thread, io_class << IOPRIO_CLASS_SHIFT)
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: `parameters` is valid for the call, which only reads it.
    match unsafe { libc::sched_setscheduler(thread, policy, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::{IOPRIO_CLASS_IDLE, IOPRIO_CLASS_SHIFT, IOPRIO_WHO_PROCESS, make_idle, make_normal};

    fn io_class() -> libc::c_long {
        // SAFETY: the call takes two integers and touches no memory of this process.
        unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) >> IOPRIO_CLASS_SHIFT }
    }

    fn policy() -> libc::c_int {
        // SAFETY: the call takes an integer and touches no memory of this process.
        unsafe { libc::sched_getscheduler(0) }
    }

    #[test]
    fn a_thread_becomes_idle_and_normal_again_and_no_other_thread_does() {
        let (send, receive) = std::sync::mpsc::channel();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let idle = std::thread::spawn(move || {
            let thread = make_idle().unwrap();
            let is = (io_class(), policy());
            send.send(thread).unwrap();
            wait.recv().unwrap();
            (is, policy())
        });
        let thread = receive.recv().unwrap();
        assert_eq!(policy(), libc::SCHED_OTHER);
        // Without the right to raise it the thread stays idle, which is an error and not a lie.
        let raised = make_normal(thread);
        done.send(()).unwrap();
        let (was, is) = idle.join().unwrap();
        assert_eq!(was, (IOPRIO_CLASS_IDLE.into(), libc::SCHED_IDLE));
        assert_eq!(is == libc::SCHED_OTHER, raised.is_ok());
    }
}
