//! A `forkd serve` of our own.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::{Programs, START_LIMIT};
use crate::Error;
use crate::api::Api;
use crate::work::{Recorded, Work};

/// A running daemon. Dropping it asks it to end, which ends its sandboxes too, and waits for that.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    socket: PathBuf,
    run_dir: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts `forkd serve` with its socket, run folder and log in `folder`, and its snapshots in `snapshots`.
    ///
    /// Call it on the process's main thread: the kernel ends the daemon with the thread that started it.
    pub fn start(work: &Work, programs: &Programs, folder: &Path, snapshots: &Path) -> Result<Self, Error> {
        let (socket, log) = (folder.join("forkd.sock"), folder.join("forkd.log"));
        let run_dir = folder.join("run");
        let output = File::create(&log).map_err(Error::file("create", &log))?;
        let errors = output.try_clone().map_err(Error::file("open", &log))?;
        let mut command = Command::new(&programs.forkd);
        command.arg("serve").arg("--socket").arg(&socket).arg("--snapshot-root").arg(snapshots);
        command.arg("--data-dir").arg(folder.join("data"));
        command.arg("--run-dir").arg(&run_dir).arg("--firecracker").arg(&programs.firecracker);
        command.args(["--on-exit", "kill"]).args(&programs.serve_args);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        // A Ctrl-C at the terminal is for us: we end the daemon after the call that is under way.
        command.process_group(0);
        end_with_parent(&mut command);
        let child = command.spawn().map_err(Error::file("run", &programs.forkd))?;
        let daemon = Self { child, socket, run_dir, log };
        work.record(daemon.child.id())?;
        Ok(daemon)
    }

    /// The Unix socket that it listens on.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The directory below which each of its microVMs has one.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// Waits until it answers.
    pub async fn wait_until_ready(&self, api: &Api) -> Result<(), Error> {
        let deadline = Instant::now() + START_LIMIT;
        let process = Recorded::of(self.child.id());
        loop {
            if self.socket.exists() && api.healthy().await {
                return Ok(());
            }
            if !process.is_some_and(|process| process.lives()) {
                return Err(self.failure("ended at start"));
            }
            if Instant::now() > deadline {
                return Err(self.failure(&format!("did not answer within {} s", START_LIMIT.as_secs())));
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    fn failure(&self, what: &str) -> Error {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let last = log.lines().rev().find(|line| !line.trim().is_empty());
        Error::Daemon { what: what.to_owned(), log: last.unwrap_or("(empty)").trim().to_owned() }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(process) = Recorded::of(self.child.id()) {
            process.end();
        }
        // Reaps it; it has ended, or a SIGKILL is on its way.
        let _ = self.child.wait();
    }
}

/// Has the kernel send SIGTERM to the child when we die, however we die.
pub(super) fn end_with_parent(command: &mut Command) {
    let set = || Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?);
    // SAFETY: between fork and exec the closure makes one prctl(2) system call; it neither allocates nor
    // takes a lock.
    unsafe { command.pre_exec(set) };
}
