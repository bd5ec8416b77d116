//! Starts a program that waits before its first instruction, so that a recording misses nothing of it.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use thiserror::Error;

/// How long a program that is asked to end may take.
const GRACE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(10);

/// Why a program could not be started.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// It could not be executed.
    #[error("cannot run {program}: {reason}")]
    Exec {
        /// As it was named.
        program: String,
        /// Why not.
        reason: io::Error,
    },
    /// It could not be held at its start.
    #[error("cannot hold {program} at its first instruction ({reason}): start it yourself, and give --pid")]
    Hold {
        /// As it was named.
        program: String,
        /// Why not.
        reason: io::Error,
    },
}

/// A started program. Dropping it ends it.
#[derive(Debug)]
pub struct Launched {
    child: Child,
    program: String,
}

impl Launched {
    /// Executes `command`, and returns when it is loaded and stands before its first instruction.
    ///
    /// It is held by ptrace, so [`Launched::release`] must be called on the thread that started it.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left running then.
    pub fn start_held(command: &[OsString]) -> Result<Self, LaunchError> {
        let (name, arguments) = command.split_first().ok_or_else(|| LaunchError::Exec {
            program: String::new(),
            reason: io::Error::new(io::ErrorKind::InvalidInput, "no program is named"),
        })?;
        let program = name.to_string_lossy().into_owned();
        let mut command = Command::new(name);
        command.args(arguments);
        // SAFETY: ptrace is async-signal-safe, and allocates nothing.
        unsafe { command.pre_exec(ask_to_be_traced) };
        let child =
            command.spawn().map_err(|reason| LaunchError::Exec { program: program.clone(), reason })?;
        let launched = Self { child, program };
        // A tracee stops with SIGTRAP once its new program is loaded (ptrace(2), PTRACE_TRACEME).
        let status = waitpid(Some(launched.id()), WaitOptions::UNTRACED);
        match status {
            Ok(Some((_, status))) if status.stopped() => Ok(launched),
            Ok(_) => Err(launched.not_held(io::Error::other("it ended at once"))),
            Err(error) => Err(launched.not_held(error.into())),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it run.
    ///
    /// # Errors
    /// [`LaunchError::Hold`] where the kernel refuses.
    pub fn release(&self) -> Result<(), LaunchError> {
        let nothing = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: PTRACE_DETACH reads no memory of ours.
        let result =
            unsafe { libc::ptrace(libc::PTRACE_DETACH, self.child.id() as libc::pid_t, nothing, nothing) };
        if result < 0 { Err(self.not_held(io::Error::last_os_error())) } else { Ok(()) }
    }

    /// Waits for its end where it has come or is about to; asks it to end where it has not, and kills it if
    /// it does not. Tells how it ended, and whether it had to be asked.
    ///
    /// # Errors
    /// Whatever waiting for a child comes to.
    pub fn end(mut self) -> io::Result<(ExitStatus, bool)> {
        if let Some(status) = self.child.try_wait()? {
            return Ok((status, false));
        }
        let _ = kill_process(self.id(), Signal::TERM);
        let asked = Instant::now();
        while asked.elapsed() < GRACE {
            if let Some(status) = self.child.try_wait()? {
                return Ok((status, true));
            }
            thread::sleep(POLL);
        }
        self.child.kill()?;
        Ok((self.child.wait()?, true))
    }

    fn id(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn not_held(&self, reason: io::Error) -> LaunchError {
        LaunchError::Hold { program: self.program.clone(), reason }
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        // Of a program that has ended and been waited for, the standard library knows.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `exit code 3` or `signal 9`, as reports tell it.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn ask_to_be_traced() -> io::Result<()> {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: PTRACE_TRACEME ignores its other arguments.
    if unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, nothing, nothing) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
