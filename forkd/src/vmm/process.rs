//! A Firecracker process: started, identified, ended.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::VmmError;
use super::confine::Confinement;
use super::console::Console;
use super::firecracker::Firecracker;

const SOCKET_FILE: &str = "api.sock";
const LOG_FILE: &str = "firecracker.log";
const IDENTITY_FILE: &str = "process.json";

/// How long a fresh process may take to open its API socket.
const LISTEN_DEADLINE: Duration = Duration::from_secs(5);
/// How long a killed process may take to be gone; the kernel frees its memory first.
const DEATH_DEADLINE: Duration = Duration::from_secs(10);

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
}

/// A running Firecracker and the directory it was given. Dropping it kills the process.
#[derive(Debug)]
pub struct Process {
    identity: Identity,
    dir: PathBuf,
    pidfd: OwnedFd,
    // The exit status, once it has one.
    ended: watch::Receiver<Option<String>>,
}

impl Process {
    /// Starts Firecracker in a new directory `run_dir`/`id`, confined, and waits until its API socket answers.
    pub async fn start(
        firecracker: &Firecracker,
        run_dir: &Path,
        id: &str,
        confinement: Confinement,
    ) -> Result<(Self, Console), VmmError> {
        let dir = run_dir.join(id);
        let failed = |what: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| VmmError::Start { what, path, source }
        };
        DirBuilder::new().mode(0o700).create(&dir).map_err(failed("create", &dir))?;
        let mut guard = DirGuard(Some(dir.clone()));
        let log_path = dir.join(LOG_FILE);
        let log = File::create(&log_path).map_err(failed("create", &log_path))?;
        let mut command = Command::new(&firecracker.path);
        command
            .arg("--api-sock")
            .arg(dir.join(SOCKET_FILE))
            .args(["--id", id, "--level", "Warn", "--log-path"])
            .arg(&log_path)
            .current_dir(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // A Ctrl-C at the daemon's terminal is for the daemon.
            .process_group(0)
            .kill_on_drop(true);
        confinement.apply(&mut command);
        let mut child = command.spawn().map_err(failed("start", &firecracker.path))?;
        // Its closure holds the confinement too.
        drop(command);
        let (identity, pidfd) = identify(&child).map_err(failed("identify", &firecracker.path))?;
        let text = serde_json::to_vec(&identity).map_err(|error| failed("encode", &dir)(error.into()))?;
        fs::write(dir.join(IDENTITY_FILE), text).map_err(failed("write", &dir))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        // Both were asked for above.
        let (stdin, stdout) = pipes.expect("the child has piped standard streams");
        let console = Console::new(stdin, stdout);
        let (report_end, ended) = watch::channel(None);
        tokio::spawn(async move {
            let status = child.wait().await;
            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            let cause = confinement.cause_of_death();
            drop(confinement);
            report_end.send_replace(Some(cause.map_or(status.clone(), |cause| format!("{status}: {cause}"))));
        });
        guard.0 = None;
        let process = Self { identity, dir, pidfd, ended };
        process.wait_for_api().await?;
        Ok((process, console))
    }

    /// Its identity.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Its run directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its API socket.
    pub fn api_socket(&self) -> PathBuf {
        self.dir.join(SOCKET_FILE)
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        self.ended.borrow().is_none()
    }

    /// Completes when it does not run any more.
    pub fn end(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut ended = self.ended.clone();
        async move {
            // An error says that nobody waits for the process any more.
            let _ = ended.wait_for(Option::is_some).await;
        }
    }

    /// Why it does not run any more, for an error message.
    pub fn obituary(&self) -> VmmError {
        let status = self.ended.borrow().clone().unwrap_or_else(|| "status unknown".to_owned());
        VmmError::Ended { status, log: self.log_tail() }
    }

    /// Why it does not run any more, where it ends within `wait`.
    pub async fn ended_within(&self, wait: Duration) -> Option<VmmError> {
        let mut ended = self.ended.clone();
        let waited = timeout(wait, ended.wait_for(Option::is_some)).await;
        waited.is_ok().then(|| self.obituary())
    }

    /// Kills the process and waits until it is gone; its directory goes when this is dropped.
    pub async fn kill(&self) {
        self.send_kill();
        let mut ended = self.ended.clone();
        if timeout(DEATH_DEADLINE, ended.wait_for(Option::is_some)).await.is_err() {
            tracing::error!(
                pid = self.identity.pid,
                "Firecracker does not die; its memory stays in use until it does"
            );
        }
    }

    async fn wait_for_api(&self) -> Result<(), VmmError> {
        let started = Instant::now();
        while UnixStream::connect(self.api_socket()).await.is_err() {
            if !self.is_alive() {
                return Err(self.obituary());
            }
            if started.elapsed() > LISTEN_DEADLINE {
                let waited_ms = started.elapsed().as_millis();
                return Err(VmmError::NotListening { waited_ms, log: self.log_tail() });
            }
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    fn log_tail(&self) -> String {
        let log = fs::read(self.dir.join(LOG_FILE)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().rev().take(3).collect();
        match lines.is_empty() {
            true => "its log is empty".to_owned(),
            false => lines.into_iter().rev().collect::<Vec<_>>().join(" | "),
        }
    }

    fn send_kill(&self) {
        // The pidfd names this very process: a later one with its number cannot be hit.
        if let Err(error) = pidfd_send_signal(&self.pidfd, Signal::KILL)
            && error != rustix::io::Errno::SRCH
        {
            tracing::error!(pid = self.identity.pid, %error, "cannot kill Firecracker");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.send_kill();
        DirGuard(Some(std::mem::take(&mut self.dir)));
    }
}

/// Kills the Firecrackers that a daemon which is no more left under `run_dir`, and deletes their directories.
///
/// Only a process whose start time is the recorded one is killed. Returns how many were.
pub fn kill_leftovers(run_dir: &Path) -> io::Result<usize> {
    let mut killed = 0;
    for entry in fs::read_dir(run_dir)? {
        let dir = entry?.path();
        // Nothing but what a daemon makes there is touched, whatever directory it was given.
        let is_ours = dir.file_name().and_then(|name| name.to_str()).is_some_and(is_sandbox_id);
        if !is_ours || !dir.is_dir() {
            continue;
        }
        let recorded =
            fs::read(dir.join(IDENTITY_FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        if let Some(identity) = recorded {
            killed += usize::from(kill_if_same(identity));
        }
        fs::remove_dir_all(&dir)?;
    }
    Ok(killed)
}

/// Whether a run directory of this name is one that a daemon makes: `sb-` and twelve hexadecimal digits.
pub(super) fn is_sandbox_id(name: &str) -> bool {
    name.strip_prefix("sb-")
        .is_some_and(|id| id.len() == 12 && id.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

fn kill_if_same(identity: Identity) -> bool {
    let Some(pid) = i32::try_from(identity.pid).ok().and_then(Pid::from_raw) else { return false };
    // Opened before the comparison: from here on the number cannot come to mean another process.
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    Identity::of(identity.pid).is_ok_and(|now| now == identity)
        && pidfd_send_signal(pidfd, Signal::KILL).is_ok()
}

fn identify(child: &Child) -> io::Result<(Identity, OwnedFd)> {
    let gone = || io::Error::new(io::ErrorKind::NotFound, "it ended at once");
    let pid = child.id().ok_or_else(gone)?;
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(gone)?;
    Ok((Identity::of(pid)?, pidfd_open(raw, PidfdFlags::empty())?))
}

/// Deletes a directory when dropped.
struct DirGuard(Option<PathBuf>);

impl Drop for DirGuard {
    fn drop(&mut self) {
        if let Some(dir) = &self.0
            && let Err(error) = fs::remove_dir_all(dir)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %dir.display(), %error, "cannot delete a run directory");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{IDENTITY_FILE, Identity, kill_leftovers};

    #[test]
    fn a_leftover_is_killed_only_where_its_start_time_is_the_recorded_one() {
        let run_dir = tempfile::tempdir().unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        let record = |identity: Identity| {
            std::fs::create_dir_all(run_dir.path().join("sb-0123456789ab")).unwrap();
            let text = serde_json::to_vec(&identity).unwrap();
            std::fs::write(run_dir.path().join("sb-0123456789ab").join(IDENTITY_FILE), text).unwrap();
        };
        record(Identity { start_ticks: identity.start_ticks + 1, ..identity });
        assert_eq!(kill_leftovers(run_dir.path()).unwrap(), 0);
        assert!(child.try_wait().unwrap().is_none());
        record(identity);
        assert_eq!(kill_leftovers(run_dir.path()).unwrap(), 1);
        assert!(!child.wait().unwrap().success());
        std::fs::create_dir(run_dir.path().join("somebody-elses")).unwrap();
        kill_leftovers(run_dir.path()).unwrap();
        let left: Vec<_> =
            std::fs::read_dir(run_dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["somebody-elses"]);
    }
}
