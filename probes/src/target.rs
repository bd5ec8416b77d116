//! Whom to watch: processes that exist, each known by id and start time.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::AttachError;
use crate::proc;

/// A process, held by a descriptor of its own: its id cannot come to mean another one unnoticed.
#[derive(Debug)]
pub struct Target {
    pid: u32,
    start_ns: u64,
    comm: String,
    process: OwnedFd,
}

impl Target {
    /// Finds the process `pid`.
    ///
    /// # Errors
    /// [`AttachError`] where there is none, where it is a thread, or where it is this process itself and
    /// `watch_self` is not set.
    pub fn find(pid: u32, watch_self: bool) -> Result<Self, AttachError> {
        let group = proc::thread_group(pid).map_err(|error| missing(pid, "reading its status", error))?;
        if group != pid {
            return Err(AttachError::Thread { tid: pid, pid: group });
        }
        if pid == std::process::id() && !watch_self {
            return Err(AttachError::Ourselves(pid));
        }
        let raw = Pid::from_raw(pid.cast_signed()).ok_or(AttachError::NoSuchProcess(pid))?;
        let process =
            pidfd_open(raw, PidfdFlags::empty()).map_err(|error| missing(pid, "opening it", error.into()))?;
        // Read after the descriptor was opened: while it does not tell of an end, both are of one process.
        let start_ns = proc::start_ns(pid).map_err(|error| missing(pid, "reading its start", error))?;
        Ok(Self { pid, start_ns, comm: proc::process_comm(pid), process })
    }

    /// Finds the process that the thread `tid` belongs to.
    ///
    /// # Errors
    /// As [`Target::find`].
    pub fn of_thread(tid: u32) -> Result<Self, AttachError> {
        let group = proc::thread_group(tid).map_err(|error| missing(tid, "reading its status", error))?;
        Self::find(group, false)
    }

    /// Whether `tid` is one of its threads.
    pub fn has_thread(&self, tid: u32) -> bool {
        std::path::Path::new(&format!("/proc/{}/task/{tid}", self.pid)).exists()
    }

    /// Its id in the initial pid namespace.
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// When it was made, in nanoseconds of CLOCK_MONOTONIC, to within a clock tick.
    pub const fn start_ns(&self) -> u64 {
        self.start_ns
    }

    /// Its name when it was found.
    pub fn comm(&self) -> &str {
        &self.comm
    }

    /// A pidfd: it polls readable when the process has ended.
    pub fn process(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}

/// Nobody of that id: it may be one that a container knows by it.
fn missing(pid: u32, what: &str, source: io::Error) -> AttachError {
    match gone_or(pid, what, source) {
        AttachError::NoSuchProcess(pid) => match proc::known_inside_as(pid) {
            Some(outside) => AttachError::InsideNamespace { inside: pid, outside },
            None => AttachError::NoSuchProcess(pid),
        },
        other => other,
    }
}

/// A process that ends while it is looked at shows in as many ways as there are ways to look.
pub fn gone_or(pid: u32, what: &str, source: io::Error) -> AttachError {
    let is_gone = source.kind() == io::ErrorKind::NotFound
        || source.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error());
    if is_gone {
        AttachError::NoSuchProcess(pid)
    } else {
        AttachError::System { what: format!("process {pid}: {what}"), source }
    }
}
