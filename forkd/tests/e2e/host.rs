//! A daemon of its own for one test, and the guest's commands as functions.

use std::error::Error;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use forkd::api::{
    Branch, BranchRequest, ConsoleAnswer, ConsoleRequest, CreateSandboxes, CreateSnapshot, Sandbox, Snapshot,
};
use forkd::http_client::{Answer, CallError, Endpoint, HttpClient};
use hyper::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use testkit::Need;
use tokio::runtime::Runtime;

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What every test of this file's daemon needs.
pub const NEEDS: &[Need] = &[Need::Root, Need::Kvm, Need::Firecracker];
/// The same, and an ext4 file system on a loop device.
pub const NEEDS_LOOP: &[Need] = &[Need::Root, Need::Kvm, Need::Firecracker, Need::LoopExt4];

/// Memory of the test guests.
pub const MEM_MIB: u32 = 32;
/// Given to every call: a test that hangs fails.
const DEADLINE: Duration = Duration::from_secs(60);

/// A running daemon; dropping it ends it and deletes its files.
pub struct Host {
    pub dir: tempfile::TempDir,
    root: PathBuf,
    arguments: Vec<String>,
    daemon: Child,
    client: HttpClient,
    runtime: Runtime,
}

impl Host {
    /// A daemon with its snapshots in a temporary directory.
    pub fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("forkd-e2e-").tempdir()?;
        let root = dir.path().join("snapshots");
        Self::start_at(dir, root)
    }

    /// A daemon with its snapshots in `root`.
    pub fn start_at(dir: tempfile::TempDir, root: PathBuf) -> Result<Self> {
        Self::start_with(dir, root, &[])
    }

    /// The same, with more arguments to `forkd serve`.
    pub fn start_with(dir: tempfile::TempDir, root: PathBuf, arguments: &[&str]) -> Result<Self> {
        let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        let daemon = spawn_daemon(dir.path(), &root, &arguments)?;
        let client = HttpClient::new(Endpoint::Unix(dir.path().join("sock")));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut host = Self { dir, root, arguments, daemon, client, runtime };
        host.wait_until_healthy()?;
        Ok(host)
    }

    /// Where the daemon keeps its snapshots.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The daemon's own socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    /// The daemon's process id.
    pub fn daemon_pid(&self) -> u32 {
        self.daemon.id()
    }

    /// Kills the daemon as a crash would, and starts another in its place.
    pub fn crash_and_restart(&mut self) -> Result<()> {
        self.daemon.kill()?;
        self.daemon.wait()?;
        self.restart()
    }

    /// Starts another daemon in the place of one that has ended; `wait` for that first.
    pub fn restart(&mut self) -> Result<()> {
        self.daemon.wait()?;
        self.daemon = spawn_daemon(self.dir.path(), &self.root, &self.arguments)?;
        self.client = HttpClient::new(Endpoint::Unix(self.socket()));
        self.wait_until_healthy()
    }

    /// Waits until the daemon has ended.
    pub fn wait(&mut self) -> Result<()> {
        Ok(self.daemon.wait().map(drop)?)
    }

    /// Sends the daemon a signal.
    pub fn signal_daemon(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.daemon), signal)?)
    }

    /// The run directory of a sandbox.
    pub fn run_dir(&self, id: &str) -> PathBuf {
        self.dir.path().join("vms").join(id)
    }

    fn wait_until_healthy(&mut self) -> Result<()> {
        let begun = Instant::now();
        while let Err(error) = self.call::<Value>(Method::GET, "/healthz", None::<&Value>) {
            if let Some(status) = self.daemon.try_wait()? {
                return Err(format!("the daemon ended ({status}): {}", self.log()).into());
            }
            if begun.elapsed() > DEADLINE {
                return Err(error.into());
            }
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// What the daemon has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> std::result::Result<T, CallError> {
        self.runtime.block_on(self.client.json(method, path, body, DEADLINE))
    }

    /// Boots the built-in guest and snapshots it.
    pub fn boot(&self, tag: &str) -> Result<Snapshot> {
        let request = CreateSnapshot { tag: tag.into(), mem_mib: Some(MEM_MIB), ..CreateSnapshot::default() };
        Ok(self.call(Method::POST, "/v1/snapshots", Some(&request))?)
    }

    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        Ok(self.call(Method::GET, "/v1/snapshots", None::<&Value>)?)
    }

    pub fn fork(&self, tag: &str) -> Result<Sandbox> {
        let request = CreateSandboxes::new(tag, 1);
        let mut forked: Vec<Sandbox> = self.call(Method::POST, "/v1/sandboxes", Some(&request))?;
        forked.pop().ok_or_else(|| "the daemon forked nothing".into())
    }

    pub fn sandbox(&self, id: &str) -> Result<Sandbox> {
        Ok(self.call(Method::GET, &format!("/v1/sandboxes/{id}"), None::<&Value>)?)
    }

    pub fn end(&self, id: &str) -> Result<()> {
        Ok(self.call(Method::DELETE, &format!("/v1/sandboxes/{id}"), None::<&Value>)?)
    }

    pub fn branch(&self, id: &str, request: &BranchRequest) -> std::result::Result<Branch, CallError> {
        self.call(Method::POST, &format!("/v1/sandboxes/{id}/branch"), Some(request))
    }

    /// Sends the guest one command and returns its answer line, without `ok ` and the command's own words.
    pub fn guest(&self, id: &str, command: &str) -> Result<String> {
        let echoed = match command.split_once(' ') {
            Some(("sum", _)) | None => format!("ok {command} "),
            Some(_) => format!("ok {command}"),
        };
        let request = ConsoleRequest {
            write: format!("{command}\n"),
            until: Some("\n".into()),
            timeout_ms: Some(20_000),
        };
        let path = format!("/v1/sandboxes/{id}/console");
        let answer: ConsoleAnswer = self.call(Method::POST, &path, Some(&request))?;
        match answer.output.strip_prefix(&echoed) {
            Some(rest) if answer.matched => Ok(rest.trim_end().to_owned()),
            _ => Err(format!("'{command}' was answered with {answer:?}").into()),
        }
    }

    /// The guest's heartbeat.
    pub fn beat(&self, id: &str) -> Result<u64> {
        Ok(self.guest(id, "beat")?.parse()?)
    }

    /// Fails unless the guest's heartbeat advances.
    pub fn require_running(&self, id: &str) -> Result<()> {
        let before = self.beat(id)?;
        sleep(Duration::from_millis(100));
        let after = self.beat(id)?;
        if after > before { Ok(()) } else { Err(format!("{id}: the heartbeat stands at {after}").into()) }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.signal_daemon(Signal::TERM);
        let _ = self.daemon.wait();
        // Where the daemon was not there to end them.
        for pid in firecrackers_below(self.dir.path()).unwrap_or_default() {
            let _ = Pid::from_raw(pid as i32).map(|pid| kill_process(pid, Signal::KILL));
        }
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
    }
}

/// Until the condition holds; fails after twenty seconds, or what is as long on a slow machine.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let (begun, patience) = (Instant::now(), Duration::from_secs(20) * testkit::slowness());
    while !condition()? {
        if begun.elapsed() > patience {
            return Err(format!("waited {} s for {what}", patience.as_secs()).into());
        }
        sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// One call by another client than the test's own, to any Unix socket.
pub fn other_client(
    socket: PathBuf,
    method: Method,
    path: &str,
    body: &impl Serialize,
) -> std::result::Result<Answer, CallError> {
    let client = HttpClient::new(Endpoint::Unix(socket));
    // Both cannot fail on a host that could start the daemon.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let body = (method != Method::GET).then(|| serde_json::to_vec(body).expect("a request is JSON").into());
    runtime.block_on(client.call(method, path, body, DEADLINE))
}

/// Unless `arguments` say otherwise: with the tests' Firecracker, and its sandboxes end with it.
fn spawn_daemon(dir: &Path, root: &Path, arguments: &[String]) -> Result<Child> {
    let log = File::options().create(true).append(true).open(dir.join("log"))?;
    let firecracker = testkit::firecracker().ok_or("no firecracker")?;
    Ok(Command::new(env!("CARGO_BIN_EXE_forkd"))
        .env("FORKD_FIRECRACKER", firecracker)
        .env("FORKD_ON_EXIT", "kill")
        .arg("serve")
        .arg("--socket")
        .arg(dir.join("sock"))
        .arg("--run-dir")
        .arg(dir.join("vms"))
        .arg("--snapshot-root")
        .arg(root)
        .arg("--data-dir")
        .arg(dir.join("data"))
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()?)
}

/// The guest memory of a running Firecracker that was restored from `memory.bin`, as the guest sees it.
pub fn guest_memory(pid: u32) -> Result<Vec<u8>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let line = maps.lines().find(|line| line.contains("memory.bin")).ok_or("no mapping of memory.bin")?;
    let (start, end) = line.split_once(' ').and_then(|(range, _)| range.split_once('-')).ok_or("no range")?;
    let (start, end) = (u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?);
    let mut memory = vec![0; (end - start) as usize];
    File::open(format!("/proc/{pid}/mem"))?.read_exact_at(&mut memory, start)?;
    Ok(memory)
}

/// The processes that run Firecracker on behalf of `dir`.
pub fn firecrackers_below(dir: &Path) -> Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse() else { continue };
        let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        if cwd.starts_with(dir) {
            pids.push(pid);
        }
    }
    Ok(pids)
}
