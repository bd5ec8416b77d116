//! Through the command line.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use reports::offcpu::OffCpu;
use rustix::process::{Pid, Signal, kill_process};
use testkit::Outcome;

use crate::subject::Subject;

fn probe(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forkd-probe"));
    command.arg("offcpu").args(arguments);
    command
}

fn start(pid: u32, arguments: &[&str]) -> Child {
    let pid = pid.to_string();
    let mut command = probe(&["--pid", &pid]);
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// One line on standard error that holds `words`, and this exit code.
fn assert_refused(output: &Output, code: i32, words: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains(words), "{said}");
    assert!(output.stdout.is_empty());
}

pub fn no_such_process() -> Outcome {
    // Above the kernel's limit for ids (PID_MAX_LIMIT, 4 Mi), so never in use.
    assert_refused(&probe(&["--pid", "4194305"]).output()?, 2, "no process 4194305");
    Ok(())
}

pub fn unwritable() -> Outcome {
    let output = probe(&["--pid", "1", "-o", "/no/such/folder/report.json"]).output()?;
    assert_refused(&output, 2, "/no/such/folder");
    Ok(())
}

pub fn thread_id() -> Outcome {
    let tid = thread::spawn(|| {
        let tid = rustix::thread::gettid().as_raw_nonzero();
        probe(&["--pid", &tid.to_string()]).output()
    });
    let output = tid.join().map_err(|_| "the thread panicked")??;
    assert_refused(&output, 2, &format!("is a thread of process {}", std::process::id()));
    Ok(())
}

pub fn without_capabilities() -> Outcome {
    let subject = Subject::start("parked");
    // A copy where every user may run it: the build directory may be closed to others.
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let copy = folder.path().join("forkd-probe");
    fs::copy(env!("CARGO_BIN_EXE_forkd-probe"), &copy)?;
    let mut command = Command::new(copy);
    // nobody: an ordinary user, as far as capabilities go
    command.args(["offcpu", "--pid", &subject.pid().to_string()]).uid(65534).gid(65534);
    assert_refused(&command.current_dir("/").output()?, 3, "CAP_BPF and CAP_PERFMON");
    Ok(())
}

pub fn ends_early() -> Outcome {
    let mut subject = Subject::start("ends");
    let child = start(subject.pid(), &["--duration", "60s", "--format", "json"]);
    thread::sleep(Duration::from_millis(700));
    subject.go();
    let begun = Instant::now();
    let output = child.wait_with_output()?;
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("ended after"), "{output:?}");
    let report: OffCpu = serde_json::from_slice(&output.stdout)?;
    assert!(report.warnings.iter().any(|warning| warning.contains("ended after")));
    assert!(
        report.threads.iter().any(|thread| thread.comm == "ender" && thread.off_cpu_ns > 0),
        "{report:#?}"
    );
    Ok(())
}

pub fn interrupted() -> Outcome {
    let subject = Subject::start("naps");
    let child = start(subject.pid(), &["--duration", "60s", "--format", "json"]);
    thread::sleep(Duration::from_millis(700));
    let signalled = kill_process(Pid::from_child(&child), Signal::INT);
    let output = child.wait_with_output()?;
    signalled?;
    assert!(output.status.success(), "{output:?}");
    let report: OffCpu = serde_json::from_slice(&output.stdout)?;
    assert!(
        report.threads.iter().any(|thread| thread.comm == "napper" && thread.switches > 0),
        "{report:#?}"
    );
    Ok(())
}

pub fn closed_pipe() -> Outcome {
    let subject = Subject::start("naps");
    let mut child = start(subject.pid(), &["--duration", "200ms"]);
    drop(child.stdout.take());
    let output = child.wait_with_output()?;
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    Ok(())
}

pub fn formats() -> Outcome {
    let subject = Subject::start("naps");
    let folder = tempfile::tempdir()?;
    for (format, begins) in [("table", "Off-CPU"), ("folded", ""), ("svg", "<?xml"), ("json", "{")] {
        let path = folder.path().join(format);
        let child = start(
            subject.pid(),
            &["--duration", "150ms", "--format", format, "-o", path.to_str().ok_or("path")?],
        );
        let output = child.wait_with_output()?;
        assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
        let text = fs::read_to_string(&path)?;
        assert!(text.starts_with(begins) && text.contains("napper"), "{format}: {text}");
    }
    assert_eq!(fs::read_dir(folder.path())?.count(), 4, "nothing but the reports");
    Ok(())
}
