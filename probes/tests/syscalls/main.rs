//! Recordings of the system calls of programs that count and time their own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

#[path = "../offcpu/subject.rs"]
#[expect(dead_code, reason = "the other binary plays the other roles")]
mod subject;

use std::fs::File;
use std::io::Read;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use probes::recording::Options;
use probes::syscalls::Session;
use probes::target::Target;
use reports::syscalls::{Call, Syscalls, Thread};
use testkit::{Need, Outcome, Test};

use subject::{Subject, command, ready_and_wait, say, spawn};

const BPF: &[Need] = &[Need::Root, Need::Btf];
const NAPS: u64 = 20;
const PARENTS: u64 = 1000;
const MISSING: u64 = 5;

fn main() -> ExitCode {
    if let Some(role) = subject::role() {
        play(&role);
        return ExitCode::SUCCESS;
    }
    let bpf = |name, run| Test { name, needs: BPF, run };
    testkit::run(vec![
        bpf("syscalls::counts_errors_and_times_are_the_programs_own", own_count),
        bpf("syscalls::call_through_the_whole_window_is_clamped_at_both_ends", whole_window),
        bpf("syscalls::threads_time_is_whole", whole),
        bpf("syscalls::command_is_counted_from_its_first_call", first_call),
        bpf("syscalls::forced_loss_marks_what_it_touches", forced_loss),
    ])
}

fn play(role: &str) {
    match role {
        "calls" => {
            spawn("caller", || {
                say("ready");
                command();
                say(&calls());
                command();
            })
            .join()
            .unwrap();
        }
        "reads" => {
            let (mut from, _to) = std::io::pipe().unwrap();
            spawn("reader", move || {
                let _ = from.read(&mut [0]);
            });
            spawn("spinner", || {
                loop {
                    std::hint::spin_loop();
                }
            });
            ready_and_wait();
        }
        "hurries" => {
            spawn("hurrier", || {
                loop {
                    let _ = rustix::process::getppid();
                }
            });
            ready_and_wait();
        }
        unknown => panic!("no role {unknown}"),
    }
}

/// Sleeps, asks and fails known numbers of times; tells the nanoseconds that the sleeps took.
fn calls() -> String {
    let begun = Instant::now();
    for _ in 0..NAPS {
        thread::sleep(Duration::from_millis(10));
    }
    let slept_ns = begun.elapsed().as_nanos();
    for _ in 0..PARENTS {
        let _ = rustix::process::getppid();
    }
    for _ in 0..MISSING {
        assert!(File::open("/no/such/file").is_err());
    }
    slept_ns.to_string()
}

fn attach(subject: &Subject, options: &Options) -> Session {
    Session::attach(vec![Target::find(subject.pid(), false).unwrap()], options).unwrap()
}

fn thread_named<'a>(report: &'a Syscalls, comm: &str) -> &'a Thread {
    let thread = report.threads.iter().find(|thread| thread.comm == comm);
    thread.unwrap_or_else(|| panic!("no {comm}: {report:#?}"))
}

fn call_named<'a>(thread: &'a Thread, name: &str) -> &'a Call {
    let call = thread.calls.iter().find(|call| call.name == name);
    call.unwrap_or_else(|| panic!("no {name}: {thread:#?}"))
}

fn assert_sound(report: &Syscalls) {
    for (cause, lost) in &report.loss {
        // A virtual machine may hide the switches of its host's service threads from its tracepoints.
        assert!(*lost == 0 || cause == "unpaired_switches", "{:?}", report.loss);
    }
}

fn own_count() -> Outcome {
    let mut subject = Subject::start("calls");
    let session = attach(&subject, &Options::default());
    subject.go();
    let own_ns: u64 = subject.answer().parse()?;
    let report = session.finish(&[])?;
    assert_sound(&report);
    let caller = thread_named(&report, "caller");
    let sleeps = call_named(caller, "clock_nanosleep");
    assert_eq!((sleeps.count, sleeps.wall.count()), (NAPS, NAPS));
    let wall_ns = sleeps.split.wall_ns();
    assert!(wall_ns <= own_ns && own_ns - wall_ns < own_ns / 20 + 2_000_000, "{wall_ns} of {own_ns}");
    // On a busy host it can lose its CPU when its timer has begun and its sleep has not.
    let off_cpu_ns = sleeps.split.asleep_ns + sleeps.split.run_queue_ns;
    assert!(off_cpu_ns >= NAPS * 10_000_000 && sleeps.split.asleep_ns > off_cpu_ns / 2, "{sleeps:#?}");
    assert!(sleeps.split.on_cpu_ns < sleeps.split.asleep_ns / 5, "{sleeps:#?}");
    let asks = call_named(caller, "getppid");
    assert_eq!((asks.count, asks.errors.len()), (PARENTS, 0));
    assert_eq!(asks.split.asleep_ns, 0, "{asks:#?}");
    assert_eq!(call_named(caller, "openat").errors, [("ENOENT".to_owned(), MISSING)].into());
    // It waited for the command in a read that had begun before.
    assert_eq!(call_named(caller, "read").in_flight_at_start, 1, "{caller:#?}");
    Ok(())
}

fn whole_window() -> Outcome {
    let subject = Subject::start("reads");
    let session = attach(&subject, &Options::default());
    thread::sleep(Duration::from_millis(200));
    let report = session.finish(&[])?;
    let read = call_named(thread_named(&report, "reader"), "read");
    assert_eq!((read.count, read.in_flight_at_start, read.in_flight_at_end), (1, 1, 1), "{read:#?}");
    assert_eq!((read.split.asleep_ns, read.max_ns), (report.window_ns, report.window_ns), "{read:#?}");
    Ok(())
}

fn whole() -> Outcome {
    let subject = Subject::start("reads");
    let session = attach(&subject, &Options::default());
    thread::sleep(Duration::from_millis(200));
    let report = session.finish(&[])?;
    assert_sound(&report);
    for thread in &report.threads {
        let inside_ns: u64 = thread.calls.iter().map(|call| call.split.wall_ns()).sum();
        assert_eq!(inside_ns + thread.outside.wall_ns(), report.window_ns, "{thread:#?}");
    }
    let spinner = thread_named(&report, "spinner");
    assert!(spinner.calls.is_empty(), "{spinner:#?}");
    assert_eq!(spinner.outside.asleep_ns, 0, "{spinner:#?}");
    Ok(())
}

/// The dynamic loader's first call comes before anything of the program itself.
fn first_call() -> Outcome {
    // A program that is not linked statically, as all of a small system may be.
    let ours = env!("CARGO_BIN_EXE_forkd-probe");
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("report.json");
    let mut command = Command::new(ours);
    command.args(["syscalls", "--format", "json", "--output"]).arg(&path).args(["--", ours, "--version"]);
    let output = command.output()?;
    assert!(output.status.success(), "{output:?}");
    let report: Syscalls = serde_json::from_slice(&std::fs::read(&path)?)?;
    let thread = report.threads.first().ok_or("no thread")?;
    assert!(call_named(thread, "brk").count >= 1 && call_named(thread, "mmap").count >= 1, "{thread:#?}");
    assert!(call_named(thread, "openat").count >= 2, "{thread:#?}");
    Ok(())
}

/// The smallest ring holds a few records; a thread that only calls overruns it between two passes.
fn forced_loss() -> Outcome {
    let subject = Subject::start("hurries");
    // Room for some hundred calls at the start, whenever the reader gets a CPU, and soon for no more.
    let session = attach(&subject, &Options { ring_bytes: 1 << 16, ..Options::default() });
    thread::sleep(Duration::from_millis(300));
    let report = session.finish(&[])?;
    assert!(report.loss["ring_full"] > 1000, "{:?}", report.loss);
    assert_eq!(report.loss["unaccounted"], 0);
    assert!(report.warnings.iter().any(|warning| warning.contains("--ring-mib")), "{:?}", report.warnings);
    let hurrier = thread_named(&report, "hurrier");
    let calls = call_named(hurrier, "getppid");
    assert!(calls.truncated > 0, "{hurrier:#?}");
    Ok(())
}
