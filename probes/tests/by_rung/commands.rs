//! What each command must find, whichever way it sees switches.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::process::Command;

use probes::recording::SwitchRung;
use reports::explain::Explain;
use reports::futex::{Futex, Verdict};
use reports::offcpu::{OffCpu, State};
use reports::syscalls::Syscalls;
use reports::wbt::Wbt;
use serde::de::DeserializeOwned;
use testkit::Outcome;

use crate::subject::Subject;

/// Long enough for dozens of naps, also on an emulated machine.
const WINDOW: &str = "800ms";

/// Runs the tool, and gives what it printed.
fn probe(arguments: &[&str]) -> Result<Vec<u8>, Box<dyn Error>> {
    let output = Command::new(env!("CARGO_BIN_EXE_forkd-probe")).args(arguments).output()?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
    }
}

/// What a command reports of the program by one rung, and the rung alone.
fn report<T: DeserializeOwned>(
    command: &str,
    rung: SwitchRung,
    arguments: &[&str],
) -> Result<(T, Subject), Box<dyn Error>> {
    let subject = Subject::start("by-rung");
    let pid = subject.pid().to_string();
    let mut words =
        vec![command, "--pid", &pid, "--attach", rung.name(), "--duration", WINDOW, "--format", "json"];
    words.extend(arguments);
    Ok((serde_json::from_slice(&probe(&words)?)?, subject))
}

/// The beginning of the hooks' names.
const fn kind(rung: SwitchRung) -> &'static str {
    match rung {
        SwitchRung::TpBtf => "tp_btf/sched_switch",
        SwitchRung::RawTracepoint => "raw_tp/sched_switch",
        SwitchRung::Tracepoint => "tracepoint/sched:sched_switch",
        SwitchRung::Fentry => "fentry/finish_task_switch",
        SwitchRung::Kprobe => "kprobe/finish_task_switch",
    }
}

#[track_caller]
fn assert_seen_by(rung: SwitchRung, hooks: &[String], loss: &BTreeMap<String, u64>) {
    assert!(hooks.iter().any(|hook| hook.starts_with(kind(rung))), "{rung}: {hooks:?}");
    for other in SwitchRung::ALL.into_iter().filter(|other| *other != rung) {
        assert!(!hooks.iter().any(|hook| hook.starts_with(kind(other))), "{rung}: {hooks:?}");
    }
    // A kernel may hide the switches of some threads from its own tracepoints. Programs that run as events of perf are
    // turned away, and counted, while a call of the recorder's to a BPF map is preempted (`trace_call_bpf` and
    // `bpf_disable_instrumentation`): often on an emulated machine.
    let is_turned_away = matches!(rung, SwitchRung::Tracepoint | SwitchRung::Kprobe);
    let is_excused =
        |cause: &str| cause == "unpaired_switches" || (is_turned_away && cause == "recursion_misses");
    assert!(loss.iter().all(|(cause, lost)| *lost == 0 || is_excused(cause)), "{loss:?}");
}

/// The napper sleeps for nearly the whole window, and its stacks say in what.
#[track_caller]
fn assert_naps(rung: SwitchRung, report: &OffCpu) {
    assert_seen_by(rung, std::slice::from_ref(&report.attach), &report.loss);
    let napper = report.threads.iter().find(|thread| thread.comm == "napper").unwrap();
    assert!(napper.switches > 5 && napper.off_cpu_ns > report.window_ns / 2, "{report:#?}");
    let known_ns = napper.off_cpu_ns + napper.on_cpu_ns + napper.unknown_ns;
    assert!(known_ns <= report.window_ns && napper.on_cpu_ns > 0, "{report:#?}");
    let asleep = report.stacks.iter().filter(|stack| {
        let is_nap = stack.kernel.iter().any(|frame| frame.contains("nanosleep"));
        stack.tid == napper.tid && stack.state == State::Interruptible && is_nap && !stack.user.is_empty()
    });
    let asleep_ns: u64 = asleep.map(|stack| stack.ns).sum();
    assert!(asleep_ns > report.window_ns / 2, "{asleep_ns} ns asleep: {report:#?}");
}

pub fn offcpu(rung: SwitchRung) -> Outcome {
    let (report, _) = report("offcpu", rung, &[])?;
    assert_naps(rung, &report);
    Ok(())
}

pub fn record(rung: SwitchRung) -> Outcome {
    let subject = Subject::start("by-rung");
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("recording");
    let (file, pid) = (file.to_str().ok_or("path")?, subject.pid().to_string());
    probe(&["record", "--pid", &pid, "--attach", rung.name(), "--duration", WINDOW, "-o", file])?;
    let bytes = probe(&["report", file, "--as", "offcpu", "--format", "json"])?;
    assert_naps(rung, &serde_json::from_slice(&bytes)?);
    Ok(())
}

pub fn futex(rung: SwitchRung) -> Outcome {
    let (report, _): (Futex, _) = report("futex", rung, &[])?;
    assert_seen_by(rung, &report.attach, &report.loss);
    let of_lock = |name: &str| name.starts_with("lock-");
    let word = report.words.iter().find(|word| word.waiters.iter().any(|waiter| of_lock(&waiter.comm)));
    let word = word.ok_or("nobody waited for the lock")?;
    assert_eq!(word.verdict, Verdict::Contention, "{word:#?}");
    let asleep_ns: u64 = word.waiters.iter().map(|waiter| waiter.asleep_ns).sum();
    assert!(asleep_ns > report.window_ns / 4, "{word:#?}");
    assert!(word.wakers.iter().any(|waker| of_lock(&waker.comm)), "{word:#?}");
    Ok(())
}

pub fn syscalls(rung: SwitchRung) -> Outcome {
    let (report, _): (Syscalls, _) = report("syscalls", rung, &[])?;
    assert_seen_by(rung, &report.attach, &report.loss);
    let napper = report.threads.iter().find(|thread| thread.comm == "napper").ok_or("no napper")?;
    let nap = napper.calls.iter().find(|call| call.name == "clock_nanosleep").ok_or("no naps")?;
    assert!(nap.count > 5 && nap.split.asleep_ns > report.window_ns / 2, "{nap:#?}");
    Ok(())
}

pub fn explain(rung: SwitchRung) -> Outcome {
    let subject = Subject::start("by-rung");
    let (pid, tid) = (subject.pid().to_string(), thread_named(subject.pid(), "napper")?);
    let bytes = probe(&[
        "explain",
        "--pid",
        &pid,
        "--tid",
        &tid,
        "--attach",
        rung.name(),
        "--duration",
        WINDOW,
        "--format",
        "json",
    ])?;
    let explain: Explain = serde_json::from_slice(&bytes)?;
    assert_seen_by(rung, &explain.attach, &explain.loss);
    let causes_ns: u64 = explain.causes.iter().map(|cause| cause.ns).sum();
    assert_eq!(causes_ns + explain.unexplained_ns, explain.window_ns);
    let timer = explain.causes.iter().find(|cause| cause.cause == "timer").ok_or("no timer")?;
    assert!(timer.ns > explain.window_ns / 2, "{explain:#?}");
    Ok(())
}

pub fn explain_by_tracepoint() -> Outcome {
    let subject = Subject::start("by-rung");
    let pid = subject.pid().to_string();
    let error = probe(&["explain", "--pid", &pid, "--attach", "tracepoint", "--duration", WINDOW]).err();
    let said = error.map(|error| error.to_string()).unwrap_or_default();
    assert!(said.contains("the whole machine cannot be recorded by `tracepoint`"), "{said}");
    Ok(())
}

/// Nobody is held back here: that the command records, and how, is what is asked.
pub fn wbt(rung: SwitchRung) -> Outcome {
    let (report, subject): (Wbt, _) = report("wbt", rung, &[])?;
    assert_seen_by(rung, &report.attach, &report.loss);
    assert_eq!(report.processes.iter().map(|process| process.pid).collect::<Vec<_>>(), [subject.pid()]);
    assert!(report.window_ns > 500_000_000 && report.waits.is_empty(), "{report:#?}");
    Ok(())
}

fn thread_named(pid: u32, name: &str) -> Result<String, Box<dyn Error>> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        if fs::read_to_string(task.path().join("comm"))?.trim_end() == name {
            return Ok(task.file_name().to_string_lossy().into_owned());
        }
    }
    Err(format!("process {pid} has no thread {name}").into())
}
