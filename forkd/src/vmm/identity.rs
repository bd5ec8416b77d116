//! Which process is meant: pid and start time together.

use std::os::fd::OwnedFd;
use std::{fs, io};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::time::Timespec;
use serde::{Deserialize, Serialize};

/// What tells a process from a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Process id.
    pub pid: u32,
    /// When it started, in clock ticks since boot (proc(5), `starttime`).
    pub start_ticks: u64,
}

impl Identity {
    /// The identity of the process that has this pid now.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name is in parentheses and may hold anything; fields are counted from behind it. `starttime` is the 22nd.
        let start_ticks = stat
            .rsplit_once(')')
            .and_then(|(_, fields)| fields.split_whitespace().nth(19)?.parse().ok())
            .ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is not as expected"))
            })?;
        Ok(Self { pid, start_ticks })
    }

    /// A handle on this very process; `None` where it has ended, its number now being free, a zombie's or
    /// another process's.
    pub fn open(self) -> Option<OwnedFd> {
        // Opened before the comparison: from here on the number cannot come to mean another process.
        let pidfd = pidfd_of(self.pid).ok()?;
        let is_same = Self::of(self.pid).is_ok_and(|now| now == self);
        (is_same && !has_ended(&pidfd)).then_some(pidfd)
    }
}

/// A handle on the process that has this pid now.
pub(super) fn pidfd_of(pid: u32) -> io::Result<OwnedFd> {
    let gone = || io::Error::new(io::ErrorKind::NotFound, "there is no such process");
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(gone)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Whether the process has ended, reaped or not: its pidfd is readable then (pidfd_open(2)).
fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::Identity;

    #[test]
    fn only_a_live_process_with_the_recorded_start_time_is_opened() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        assert!(identity.open().is_some());
        assert!(Identity { start_ticks: identity.start_ticks + 1, ..identity }.open().is_none());
        child.kill().unwrap();
        // Until it is waited for it is a zombie, which still has its pid and start time.
        while identity.open().is_some() {
            std::thread::yield_now();
        }
        assert_eq!(Identity::of(child.id()).unwrap(), identity);
        child.wait().unwrap();
        assert!(identity.open().is_none());
    }
}
