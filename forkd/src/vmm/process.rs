//! A Firecracker process: started or adopted, identified, ended.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::VmmError;
use super::confine::Confinement;
use super::console::Console;
use super::detach::Detach;
use super::firecracker::Firecracker;
use super::identity::{Identity, pidfd_of};

const SOCKET_FILE: &str = "api.sock";
const LOG_FILE: &str = "firecracker.log";
const IDENTITY_FILE: &str = "process.json";

/// How long a fresh process may take to open its API socket.
const LISTEN_DEADLINE: Duration = Duration::from_secs(5);
/// How long a killed process may take to be gone; the kernel frees its memory first.
const DEATH_DEADLINE: Duration = Duration::from_secs(10);

/// A running Firecracker and the directory it was given. Dropping it kills the process and deletes the
/// directory, unless it was told to [outlive the daemon](Process::outlive_the_daemon).
#[derive(Debug)]
pub struct Process {
    identity: Identity,
    dir: PathBuf,
    pidfd: OwnedFd,
    // The exit status, as far as it is known, once it has ended.
    ended: watch::Receiver<Option<String>>,
    outlives: AtomicBool,
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
        let (console, ends) = Console::create(&dir).map_err(failed("make the console in", &dir))?;
        let mut command = Command::new(&firecracker.path);
        command
            .arg("--api-sock")
            .arg(dir.join(SOCKET_FILE))
            .args(["--id", id, "--level", "Warn", "--log-path"])
            .arg(&log_path)
            .current_dir(&dir)
            .stdin(ends.input)
            .stdout(ends.output)
            .stderr(log)
            .in_own_session();
        confinement.apply(&mut command);
        let child = command.spawn().map_err(failed("start", &firecracker.path))?;
        // Its closure holds the confinement too.
        drop(command);
        confinement.hold();
        let identified = identify(&child).map_err(failed("identify", &firecracker.path));
        let ended = watch_child(child, confinement);
        let (identity, pidfd) = identified?;
        guard.0 = None;
        let process = Self { identity, dir, pidfd, ended, outlives: AtomicBool::new(false) };
        let dir = &process.dir;
        let text = serde_json::to_vec(&identity).map_err(|error| failed("encode", dir)(error.into()))?;
        fs::write(dir.join(IDENTITY_FILE), text).map_err(failed("write", dir))?;
        process.wait_for_api().await?;
        Ok((process, console))
    }

    /// Takes over a process that another daemon started in `dir`; `None` where it has ended, or where the number
    /// is another process's.
    pub fn adopt(
        dir: &Path,
        identity: Identity,
        confinement: Confinement,
    ) -> io::Result<Option<(Self, Console)>> {
        let Some(pidfd) = identity.open() else { return Ok(None) };
        let console = Console::open(dir)?;
        confinement.hold();
        let ended = watch_stranger(pidfd.try_clone()?, confinement)?;
        let process = Self { identity, dir: dir.to_owned(), pidfd, ended, outlives: AtomicBool::new(true) };
        Ok(Some((process, console)))
    }

    /// Lets the process run on when this is dropped.
    pub fn outlive_the_daemon(&self) {
        self.outlives.store(true, Ordering::Relaxed);
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
        self.outlives.store(false, Ordering::Relaxed);
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
        if self.outlives.load(Ordering::Relaxed) {
            return;
        }
        self.send_kill();
        DirGuard(Some(std::mem::take(&mut self.dir)));
    }
}

/// Ends what runs in `dir`, where it is what was started there, and deletes the directory. Returns whether
/// there was something to kill.
///
/// Only a process is killed that has the recorded start time, or that has this directory's API socket on its
/// command line: a daemon may have died between starting it and recording it.
pub fn clear(dir: &Path) -> io::Result<bool> {
    let recorded = fs::read(dir.join(IDENTITY_FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let process = match recorded {
        Some(identity) => Identity::open(identity),
        None => find_unrecorded(dir)?,
    };
    let killed = process.is_some_and(|pidfd| pidfd_send_signal(pidfd, Signal::KILL).is_ok());
    fs::remove_dir_all(dir)?;
    Ok(killed)
}

fn find_unrecorded(dir: &Path) -> io::Result<Option<OwnedFd>> {
    let socket = dir.join(SOCKET_FILE);
    let serves_it = |pid: u32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut arguments = arguments.split(|byte| *byte == 0);
        let socket = socket.as_os_str().as_encoded_bytes();
        arguments.any(|argument| argument == b"--api-sock") && arguments.next() == Some(socket)
    };
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Opened before the look, so that it is the process that was looked at.
        if let Ok(pidfd) = pidfd_of(pid)
            && serves_it(pid)
        {
            return Ok(Some(pidfd));
        }
    }
    Ok(None)
}

/// Whether a run directory of this name is one that a daemon makes: `sb-` and twelve hexadecimal digits.
pub fn is_sandbox_id(name: &str) -> bool {
    name.strip_prefix("sb-")
        .is_some_and(|id| id.len() == 12 && id.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

fn identify(child: &Child) -> io::Result<(Identity, OwnedFd)> {
    let pid = child.id().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it ended at once"))?;
    Ok((Identity::of(pid)?, pidfd_of(pid)?))
}

/// Waits for a process that this one started.
fn watch_child(mut child: Child, confinement: Confinement) -> watch::Receiver<Option<String>> {
    let (report_end, ended) = watch::channel(None);
    tokio::spawn(async move {
        let status = child.wait().await;
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        report_end.send_replace(Some(with_cause(status, confinement)));
    });
    ended
}

/// How a process ended, and why, where that is the doing of its limits. It holds its confinement no more.
fn with_cause(status: String, confinement: Confinement) -> String {
    let cause = confinement.cause_of_death();
    confinement.release();
    cause.map_or(status.clone(), |cause| format!("{status}: {cause}"))
}

/// Waits for a process that another one started, whose exit status only that one could have learned.
fn watch_stranger(pidfd: OwnedFd, confinement: Confinement) -> io::Result<watch::Receiver<Option<String>>> {
    // SAFETY: the AsyncFd owns the descriptor, which stays open and the same until it is dropped.
    let pidfd = unsafe { AsyncFd::register(pidfd) }?;
    let (report_end, ended) = watch::channel(None);
    tokio::spawn(async move {
        let status = match pidfd.readable().await {
            Ok(_) => "status unknown: another daemon started it".to_owned(),
            Err(error) => error.to_string(),
        };
        report_end.send_replace(Some(with_cause(status, confinement)));
    });
    Ok(ended)
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

    use super::{IDENTITY_FILE, Identity, clear, is_sandbox_id};

    #[test]
    fn a_leftover_is_killed_only_where_its_start_time_is_the_recorded_one() {
        let run_dir = tempfile::tempdir().unwrap();
        let dir = run_dir.path().join("sb-0123456789ab");
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        let record = |identity: Identity| {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join(IDENTITY_FILE), serde_json::to_vec(&identity).unwrap()).unwrap();
        };
        record(Identity { start_ticks: identity.start_ticks + 1, ..identity });
        assert!(!clear(&dir).unwrap());
        assert!(!dir.exists() && child.try_wait().unwrap().is_none());
        record(identity);
        assert!(clear(&dir).unwrap());
        assert!(!dir.exists() && !child.wait().unwrap().success());
    }

    #[test]
    fn a_leftover_without_a_record_is_known_by_the_socket_on_its_command_line() {
        let run_dir = tempfile::tempdir().unwrap();
        let dir = run_dir.path().join("sb-0123456789ab");
        std::fs::create_dir(&dir).unwrap();
        let sleeper = |arguments: &[&std::ffi::OsStr]| {
            let mut shell = Command::new("sh");
            shell.args(["-c", "read line", "firecracker"]).args(arguments);
            shell.stdin(std::process::Stdio::piped()).spawn().unwrap()
        };
        let socket = dir.join("api.sock");
        let mut other = sleeper(&[socket.as_os_str()]);
        let mut ours = sleeper(&["--api-sock".as_ref(), socket.as_os_str()]);
        // Until the exec the command line is that of this test.
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert!(clear(&dir).unwrap());
        assert!(!ours.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn only_what_a_daemon_makes_is_taken_for_a_run_directory() {
        assert!(is_sandbox_id("sb-0123456789ab"));
        for name in ["sb-", "sb-0123456789ag", "sb-0123456789abc", "somebody-elses", ".lock", "0123456789ab"]
        {
            assert!(!is_sandbox_id(name), "{name}");
        }
    }
}
