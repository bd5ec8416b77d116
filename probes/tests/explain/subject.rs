//! The program that is explained, and the tool that explains it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use reports::explain::Explain;
use tempfile::TempDir;

/// Names the program where it was compiled elsewhere: a machine to test on need not have a compiler.
const COMPILED: &str = "FORKD_TEST_EXPLAIN_SUBJECT";

/// For windows that come many times a second on any machine: without them, the test fails and does not hang.
pub const IN_TIME: [&str; 2] = ["--duration", "2m"];

/// A running program; dropping it ends it.
pub struct Subject {
    child: Child,
    _folder: TempDir,
}

impl Subject {
    /// Compiles the program, and has it do `what` in its windows, with a file below `parent`.
    pub fn start(what: &str, parent: Option<&Path>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = std::env::var_os(COMPILED).map_or_else(|| compile(folder.path()), PathBuf::from);
        let file: PathBuf = parent.unwrap_or(folder.path()).join("written");
        let child = Command::new(&program).arg(what).arg(file).stdin(Stdio::null()).spawn().unwrap();
        Self { child, _folder: folder }
    }

    /// Runs `forkd-probe explain` on it.
    pub fn explain(&self, arguments: &[&str]) -> Output {
        let pid = self.child.id().to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_forkd-probe"));
        command.args(["explain", "--pid", &pid]).args(arguments).output().unwrap()
    }

    /// The same, with the program killed as soon as its time is recorded.
    pub fn explain_its_end(&mut self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forkd-probe"));
        command.args(["explain", "--pid", &self.pid().to_string()]).args(arguments);
        let probe = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Its reader starts once everything is attached; the window opens right after it.
        wait(|| has_thread(probe.id(), "forkd-explain").then_some(()));
        thread::sleep(Duration::from_millis(500));
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        probe.wait_with_output().unwrap()
    }

    /// The id of its thread of that name.
    pub fn thread(&self, name: &str) -> u32 {
        wait(|| Some(threads(self.pid()).into_iter().find(|(_, known)| known == name)?.0))
    }

    /// The slowest of its first windows.
    pub fn slowest(&self) -> Explain {
        let arguments = ["--window-fn", "the_window", "--windows", "3", "--format", "json"];
        let output = self.explain(&[&arguments[..], &IN_TIME].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let explain: Explain = serde_json::from_slice(&output.stdout).unwrap();
        assert_whole(&explain);
        assert!(!explain.window.clamped, "{explain:#?}");
        explain
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Until there is one; fails after two minutes.
fn wait<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "what was waited for did not come");
        thread::sleep(Duration::from_millis(10));
    }
}

fn has_thread(pid: u32, name: &str) -> bool {
    threads(pid).iter().any(|(_, known)| known == name)
}

/// Ids and names.
fn threads(pid: u32) -> Vec<(u32, String)> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let thread = |entry: std::fs::DirEntry| {
        let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        Some((entry.file_name().to_str()?.parse().ok()?, name.trim_end().to_owned()))
    };
    entries.filter_map(thread).collect()
}

fn compile(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/explain/subject.c");
    let program = folder.join("subject");
    let mut compiler = Command::new("cc");
    let compiled = compiler.args(["-O1", "-pthread", "-o"]).arg(&program).arg(source).output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    program
}

/// Segments tile the window, and causes and the rest sum to it.
pub fn assert_whole(explain: &Explain) {
    let mut at_ns = explain.window.start_ns;
    for segment in &explain.segments {
        assert_eq!(segment.start_ns, at_ns, "{explain:#?}");
        at_ns = segment.end_ns;
    }
    assert_eq!(at_ns, explain.window.end_ns);
    let causes_ns: u64 = explain.causes.iter().map(|cause| cause.ns).sum();
    assert_eq!(causes_ns + explain.unexplained_ns, explain.window_ns);
}

/// A cause's time, in milliseconds.
pub fn cause_ms(explain: &Explain, cause: &str) -> u64 {
    explain.causes.iter().find(|known| known.cause == cause).map_or(0, |known| known.ns / 1_000_000)
}
