//! Processes that must outlive the daemon.

use std::io;

/// Makes the child that a command starts the leader of a session of its own: a Ctrl-C at the daemon's terminal,
/// and the end of that terminal, are for the daemon.
pub(crate) trait Detach {
    /// Sets the command up for that.
    fn in_own_session(&mut self) -> &mut Self;
}

fn set_session() -> io::Result<()> {
    rustix::process::setsid().map(drop).map_err(io::Error::from)
}

impl Detach for tokio::process::Command {
    fn in_own_session(&mut self) -> &mut Self {
        // SAFETY: between fork and exec the closure makes one setsid(2) system call; it neither allocates nor
        // takes a lock.
        unsafe { self.pre_exec(set_session) }
    }
}
