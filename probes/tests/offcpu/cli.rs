//! Through the command line.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use reports::offcpu::{OffCpu, State};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::CapabilitySet;
use testkit::{Outcome, without_capabilities};

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

/// Waits until a started probe records: it has its reader by then.
fn wait_for_recording(child: &Child) {
    let is_reader = |task: &fs::DirEntry| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm == "forkd-drain\n")
    };
    let tasks = format!("/proc/{}/task", child.id());
    let begun = Instant::now();
    while !fs::read_dir(&tasks).unwrap().filter_map(Result::ok).any(|task| is_reader(&task)) {
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not begin to record");
        thread::sleep(Duration::from_millis(10));
    }
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

pub fn ordinary_user() -> Outcome {
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

/// As root, and with everything but what is named: each that there is is not enough.
pub fn without_one_capability() -> Outcome {
    let subject = Subject::start("parked");
    let (folder, pid) = (tempfile::tempdir()?, subject.pid().to_string());
    let recording = folder.path().join("recording");
    let recording = recording.to_str().ok_or("path")?;
    // Either of the two is part of CAP_SYS_ADMIN as well.
    let all = CapabilitySet::SYS_ADMIN | CapabilitySet::BPF | CapabilitySet::PERFMON;
    for (missing, name) in [
        (all - CapabilitySet::PERFMON, "it lacks CAP_BPF;"),
        (all - CapabilitySet::BPF, "it lacks CAP_PERFMON;"),
        (all, "it lacks CAP_BPF and CAP_PERFMON;"),
    ] {
        for command in ["offcpu", "futex", "syscalls", "io", "wbt", "explain", "record"] {
            let mut probe = Command::new(env!("CARGO_BIN_EXE_forkd-probe"));
            probe.args([command, "--pid", &pid, "--duration", "100ms"]);
            if command == "record" {
                probe.args(["-o", recording]);
            }
            let output = without_capabilities(&mut probe, missing).output()?;
            assert_refused(&output, 3, name);
            assert_refused(&output, 3, "`forkd-probe stacks`");
        }
    }
    assert_eq!(fs::read_dir(folder.path())?.count(), 0, "a recording that was refused left its file");
    Ok(())
}

/// A copy of the probe where every user may run it: the build directory may be closed to others.
fn examined_by(user: u32) -> Result<reports::doctor::Doctor, Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let copy = folder.path().join("forkd-probe");
    fs::copy(env!("CARGO_BIN_EXE_forkd-probe"), &copy)?;
    let arguments = ["doctor", "--format", "json"];
    let output = Command::new(copy).args(arguments).uid(user).gid(user).current_dir("/").output()?;
    assert!(output.status.success(), "{output:?}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

pub fn doctor() -> Outcome {
    let works = |report: &reports::doctor::Doctor, name: &str| {
        let trial = report.commands.iter().chain(&report.attach).find(|trial| trial.name == name);
        trial.map(|trial| (trial.works, trial.note.clone().unwrap_or_default()))
    };
    let root = examined_by(0).map_err(|error| error.to_string())?;
    for command in ["offcpu", "futex", "syscalls", "oncpu", "stacks", "tp_btf"] {
        assert!(works(&root, command).is_some_and(|(works, _)| works), "{command}: {root:#?}");
    }
    let nobody = examined_by(65534).map_err(|error| error.to_string())?;
    let (offcpu, why) = works(&nobody, "offcpu").ok_or("no offcpu")?;
    assert!(!offcpu && why.contains("CAP_BPF and CAP_PERFMON"), "{nobody:#?}");
    let (stacks, note) = works(&nobody, "stacks").ok_or("no stacks")?;
    assert!(stacks && note.contains("CAP_SYS_ADMIN"), "{nobody:#?}");
    Ok(())
}

pub fn ends_early() -> Outcome {
    let mut subject = Subject::start("ends");
    let child = start(subject.pid(), &["--duration", "60s", "--format", "json"]);
    wait_for_recording(&child);
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
    wait_for_recording(&child);
    thread::sleep(Duration::from_millis(200));
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

pub fn asked_rung() -> Outcome {
    let subject = Subject::start("naps");
    for (format, says) in [("json", "\"raw_tp/sched_switch\""), ("table", "raw_tp/"), ("svg", "raw_tp/")] {
        let arguments = ["--attach", "raw_tracepoint", "--duration", "150ms", "--format", format];
        let output = start(subject.pid(), &arguments).wait_with_output()?;
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains(says), "{format}: {output:?}");
    }
    let output = probe(&["--pid", "1", "--attach", "ftrace"]).output()?;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("one of tp_btf"), "{output:?}");
    Ok(())
}

fn report(output: &Output) -> Result<OffCpu, serde_json::Error> {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout)
}

pub fn command() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("report.json");
    let path = path.to_str().ok_or("path")?;
    let output = probe(&["--format", "json", "-o", path, "--", "sh", "-c", "echo said; sleep 0.1; exit 3"])
        .output()?;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"said\n", "what the command says is its own");
    let report: OffCpu = serde_json::from_slice(&fs::read(path)?)?;
    assert!(report.warnings.iter().any(|warning| warning.contains("exit code 3")), "{report:#?}");
    let thread = report.threads.iter().find(|thread| thread.comm == "sh").ok_or("no sh")?;
    assert!(thread.off_cpu_ns >= 100_000_000 && thread.on_cpu_ns > 0, "{thread:?}");
    // It was held, and seen to be: nothing of it came before the recording.
    assert!(report.stacks.iter().any(|stack| stack.state == State::Stopped), "{report:#?}");
    Ok(())
}

pub fn command_that_outlives_its_window() -> Outcome {
    let output = probe(&["--duration", "200ms", "--format", "json", "--", "sleep", "60"]).output()?;
    let report = report(&output)?;
    assert!(report.warnings.iter().any(|warning| warning.contains("ended with signal 15")), "{report:#?}");
    let gone = fs::read_dir(format!("/proc/{}", report.pid)).is_err();
    assert!(gone, "nothing is left running");
    Ok(())
}

pub fn command_that_is_not_there() -> Outcome {
    assert_refused(&probe(&["--", "/no/such/program"]).output()?, 2, "cannot run /no/such/program");
    assert_refused(&probe(&[]).output()?, 2, "nobody to watch");
    Ok(())
}

pub fn several_processes() -> Outcome {
    let (naps, pipes) = (Subject::start("naps"), Subject::start("pipes"));
    let other = pipes.pid().to_string();
    let child = start(naps.pid(), &["--pid", &other, "--duration", "300ms", "--format", "json"]);
    let report = report(&child.wait_with_output()?)?;
    let pid_of =
        |comm: &str| report.threads.iter().find(|thread| thread.comm == comm).map(|thread| thread.pid);
    assert_eq!(pid_of("napper"), Some(naps.pid()), "{report:#?}");
    assert_eq!(pid_of("ping"), Some(pipes.pid()), "{report:#?}");
    assert_eq!(report.processes.len(), 2);
    Ok(())
}

pub fn filters() -> Outcome {
    let subject = Subject::start("pipes");
    let threads = fs::read_dir(format!("/proc/{}/task", subject.pid()))?;
    let mut tids = threads.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_ping = |tid: &String| {
        fs::read_to_string(format!("/proc/{}/task/{tid}/comm", subject.pid()))
            .is_ok_and(|comm| comm == "ping\n")
    };
    let ping = tids.find(is_ping).ok_or("no ping")?;
    let arguments = [
        "--tid",
        &ping,
        "--duration",
        "300ms",
        "--format",
        "json",
        "--state",
        "interruptible",
        "--min-us",
        "5000",
    ];
    let report = report(&probe(&arguments).output()?)?;
    assert_eq!(report.threads.len(), 1, "{report:#?}");
    // ping sleeps 10 ms before each answer, and waits for pong, mostly for microseconds.
    assert!(report.stacks.iter().any(|stack| stack.kernel.iter().any(|frame| frame.contains("nanosleep"))));
    for stack in &report.stacks {
        assert_eq!(stack.state, State::Interruptible, "{report:#?}");
        assert!(stack.ns >= stack.count * 5_000_000, "{report:#?}");
    }
    Ok(())
}

/// The sleeper's id in its own namespace is one that no process of this host has.
pub fn inside_a_namespace() -> Outcome {
    let limit: u32 = fs::read_to_string("/proc/sys/kernel/pid_max")?.trim().parse()?;
    let script = format!("echo {} > /proc/sys/kernel/ns_last_pid; sleep 60 & echo $!; wait", limit - 20);
    let mut child = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "sh", "-c", &script])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut inside = String::new();
    let stdout = child.stdout.take().ok_or("no output")?;
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut inside)?;
    let output = probe(&["--pid", inside.trim(), "--duration", "100ms"]).output();
    child.kill()?;
    child.wait()?;
    assert_refused(&output?, 2, "inside a pid namespace of its own");
    Ok(())
}
