//! The watched programs: compiled when a test needs them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use probes::offcpu::{Options, Session};
use reports::offcpu::{OffCpu, Stack};
use rustix::thread::CapabilitySet;
use tempfile::TempDir;
use testkit::without_capabilities;

const RUST_CHAIN: &str = "FORKD_TEST_RUST_CHAIN";
const WINDOW: Duration = Duration::from_millis(250);

/// A running program; dropping it ends it.
pub struct Program {
    child: Child,
    folder: TempDir,
}

impl Program {
    /// Compiles `program.c` for a kind of chain, and starts it.
    pub fn c(kind: &str, flags: &[&str]) -> Self {
        let folder = Self::compile(kind, flags);
        Self::start(&mut Command::new(folder.path().join("chain")), folder)
    }

    /// The same, with the symbols in a file of their own beside it.
    pub fn stripped(kind: &str, flags: &[&str]) -> Self {
        let folder = Self::compile_stripped(kind, flags);
        Self::start(&mut Command::new(folder.path().join("chain")), folder)
    }

    /// The same, on a file system that is mounted for this program alone.
    pub fn in_own_mounts(kind: &str, flags: &[&str]) -> Self {
        const MOVE_AND_RUN: &str = "mount -t tmpfs tmpfs mounted && mv chain chain.debug mounted && \
                                    exec \"$PWD/mounted/chain\"";
        let folder = Self::compile_stripped(kind, flags);
        let mount = folder.path().join("mounted");
        fs::create_dir(&mount).unwrap();
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "sh", "-c", MOVE_AND_RUN]).current_dir(folder.path());
        let program = Self::start(&mut unshare, folder);
        let begun = Instant::now();
        while fs::read_to_string(format!("/proc/{}/comm", program.pid())).unwrap() != "chain\n" {
            assert!(begun.elapsed() < Duration::from_secs(10), "it does not start");
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(fs::read_dir(mount).unwrap().count(), 0, "the mount is seen from outside");
        assert!(!program.executable().exists());
        program
    }

    /// The same, with the symbols in a file that no binary leads to; gives what that holds as well.
    pub fn without_its_debug_file(kind: &str, flags: &[&str]) -> (Self, Vec<u8>) {
        let folder = Self::compile_stripped(kind, flags);
        let path = folder.path().join("chain.debug");
        let contents = fs::read(&path).unwrap();
        fs::remove_file(path).unwrap();
        (Self::start(&mut Command::new(folder.path().join("chain")), folder), contents)
    }

    fn compile_stripped(kind: &str, flags: &[&str]) -> TempDir {
        let folder = Self::compile(kind, flags);
        for arguments in [
            ["--only-keep-debug", "chain", "chain.debug"],
            ["--strip-all", "chain", "chain"],
            ["--add-gnu-debuglink=chain.debug", "chain", "chain"],
        ] {
            let done = Command::new("objcopy").args(arguments).current_dir(folder.path()).status();
            assert!(done.unwrap().success(), "{arguments:?}");
        }
        folder
    }

    fn compile(kind: &str, flags: &[&str]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/unwind/program.c");
        let mut compiler = Command::new("cc");
        compiler.arg(format!("-DKIND=\"{kind}\"")).args([
            "-O2",
            "-fno-optimize-sibling-calls",
            "-pthread",
            "-Wl,--build-id",
        ]);
        let compiled = compiler.args(flags).arg("-o").arg(folder.path().join("chain")).arg(source).output();
        let compiled = compiled.unwrap();
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        folder
    }

    /// This test program itself, in a Rust chain.
    pub fn rust() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        Self::start(command.env(RUST_CHAIN, "1"), tempfile::tempdir().unwrap())
    }

    /// Its folder, which goes with it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Any program, with a folder that goes with it.
    pub fn start(command: &mut Command, folder: TempDir) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        thread::sleep(Duration::from_millis(100));
        Self { child: child.unwrap(), folder }
    }

    /// Where it was compiled to.
    pub fn executable(&self) -> PathBuf {
        self.folder.path().join("chain")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Watches it for a while.
    pub fn record(&self) -> OffCpu {
        let session = Session::attach(self.child.id(), Options::default()).unwrap();
        thread::sleep(WINDOW);
        session.finish().unwrap()
    }

    /// The same by the command, which has not got these capabilities.
    pub fn record_without(&self, missing: CapabilitySet) -> OffCpu {
        let mut probe = Command::new(env!("CARGO_BIN_EXE_forkd-probe"));
        let duration = format!("{}ms", WINDOW.as_millis());
        probe.args(["offcpu", "--format", "json", "--duration", &duration, "--pid", &self.pid().to_string()]);
        let output = without_capabilities(&mut probe, missing).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The user stacks of a report, outermost frame first, `;` between frames.
pub fn chains(report: &OffCpu) -> BTreeSet<String> {
    report.stacks.iter().filter(|stack| !stack.user.is_empty()).map(chain).collect()
}

/// Outermost frame first.
pub fn chain(stack: &Stack) -> String {
    let frames: Vec<&str> = stack.user.iter().rev().map(String::as_str).collect();
    frames.join(";")
}

pub fn is_rust_chain() -> bool {
    std::env::var_os(RUST_CHAIN).is_some()
}

pub fn play_rust_chain() -> ! {
    loop {
        std::hint::black_box(outer(1));
    }
}

#[inline(never)]
fn outer(n: u64) -> u64 {
    middle(std::hint::black_box(n + 1)) + 1
}

#[inline(never)]
fn middle(n: u64) -> u64 {
    inner(std::hint::black_box(n + 1)) + 1
}

#[inline(never)]
fn inner(n: u64) -> u64 {
    thread::sleep(Duration::from_millis(5));
    std::hint::black_box(n)
}
