//! Samples of programs whose threads are known to spin, to sleep and to be in the kernel.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

#[path = "../offcpu/subject.rs"]
#[expect(dead_code, reason = "the other binary plays the other roles")]
mod subject;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use probes::oncpu::Session;
use probes::target::Target;
use reports::oncpu::{OnCpu, Thread};
use testkit::{Need, Outcome, Test};

use subject::{Subject, ready_and_wait, spawn};

/// An ordinary user, as far as rights go.
const NOBODY: u32 = 65534;

fn main() -> ExitCode {
    if let Some(role) = subject::role() {
        play(&role);
        return ExitCode::SUCCESS;
    }
    let root = |name, run| Test { name, needs: &[Need::Root], run };
    testkit::run(vec![
        root("oncpu::samples_are_as_many_as_the_cpu_time_says", as_expected),
        root("oncpu::user_and_kernel_frames_are_whole", frames),
        root("oncpu::samples_without_room_are_counted_and_the_thread_is_called_blind", lost),
        root("oncpu::ordinary_user_is_told_what_would_allow_it", ordinary_user),
        root("oncpu::every_format_is_written", formats),
    ])
}

fn play(role: &str) {
    match role {
        "works" => {
            spawn("spinner", spin_for_ever);
            spawn("reader", || {
                let mut zeros = File::open("/dev/zero").unwrap();
                let mut bytes = vec![0; 1 << 20];
                loop {
                    zeros.read_exact(&mut bytes).unwrap();
                }
            });
            spawn("sleeper", || {
                loop {
                    thread::sleep(Duration::from_secs(1));
                }
            });
            ready_and_wait();
        }
        "spins" => {
            spawn("spinner", spin_for_ever);
            ready_and_wait();
        }
        unknown => panic!("no role {unknown}"),
    }
}

#[inline(never)]
fn spin_for_ever() {
    loop {
        std::hint::spin_loop();
    }
}

fn record(role: &str, frequency_hz: u64, window: Duration) -> OnCpu {
    let subject = Subject::start(role);
    let target = Target::find(subject.pid(), false).unwrap();
    let session = Session::attach(vec![target], frequency_hz).unwrap();
    thread::sleep(window);
    session.finish(&[]).unwrap()
}

fn thread_named<'a>(report: &'a OnCpu, comm: &str) -> &'a Thread {
    let thread = report.threads.iter().find(|thread| thread.comm == comm);
    thread.unwrap_or_else(|| panic!("no {comm}: {:#?}", report.threads))
}

fn as_expected() -> Outcome {
    let report = record("works", 499, Duration::from_secs(2));
    assert!(report.loss.values().all(|lost| *lost == 0), "{:?}", report.loss);
    for comm in ["spinner", "reader"] {
        let thread = thread_named(&report, comm);
        assert!(thread.expected > 30, "{thread:#?}");
        assert!(!thread.blind && thread.samples * 4 < thread.expected * 5 + 40, "{thread:#?}");
    }
    let samples: u64 = report.events.iter().map(|event| event.samples).sum();
    assert_eq!(samples, report.threads.iter().map(|thread| thread.samples).sum::<u64>());
    let sleeper = report.threads.iter().find(|thread| thread.comm == "sleeper");
    assert!(sleeper.is_none_or(|sleeper| sleeper.samples <= 1), "{sleeper:#?}");
    Ok(())
}

fn frames() -> Outcome {
    let report = record("works", 499, Duration::from_secs(1));
    let most = |comm: &str| report.stacks.iter().find(|stack| stack.comm == comm);
    let spinner = most("spinner").ok_or("no spinner")?;
    assert!(spinner.kernel.is_empty(), "{spinner:#?}");
    assert!(spinner.user.iter().any(|frame| frame.contains("spin_for_ever")), "{spinner:#?}");
    assert!(spinner.user.last().is_some_and(|root| root != "[truncated]"), "{spinner:#?}");
    let reader = report.stacks.iter().find(|stack| stack.comm == "reader" && !stack.kernel.is_empty());
    let reader = reader.ok_or("the reader was never in the kernel")?;
    assert!(reader.kernel.iter().any(|frame| frame.contains("read")), "{reader:#?}");
    assert!(reader.user.len() > 3, "{reader:#?}");
    Ok(())
}

/// A ring has room for sixty samples with their stacks; ten thousand a second overrun it between two passes.
fn lost() -> Outcome {
    let report = record("spins", 10_000, Duration::from_secs(1));
    assert!(report.loss["lost_samples"] > 100, "{:?}", report.loss);
    let spinner = thread_named(&report, "spinner");
    assert!(spinner.blind && spinner.samples < spinner.expected, "{spinner:#?}");
    Ok(())
}

fn ordinary_user() -> Outcome {
    let paranoid: i32 = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid")?.trim().parse()?;
    let mut sleeper = Command::new("sleep").arg("60").uid(NOBODY).gid(NOBODY).current_dir("/").spawn()?;
    // A copy where every user may run it: the build directory may be closed to others.
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let copy = folder.path().join("forkd-probe");
    fs::copy(env!("CARGO_BIN_EXE_forkd-probe"), &copy)?;
    let pid = sleeper.id().to_string();
    let arguments = ["oncpu", "--pid", &pid, "--duration", "100ms"];
    let output = Command::new(copy).args(arguments).uid(NOBODY).gid(NOBODY).current_dir("/").output();
    sleeper.kill()?;
    sleeper.wait()?;
    let output = output?;
    let said = String::from_utf8_lossy(&output.stderr);
    if paranoid <= 0 {
        assert!(output.status.success(), "this host allows it to everybody: {said}");
        return Ok(());
    }
    assert_eq!((output.status.code(), said.lines().count()), (Some(3), 1), "{said}");
    assert!(said.contains(&format!("perf_event_paranoid is {paranoid}")), "{said}");
    assert!(said.contains("CAP_PERFMON") && said.contains("forkd-probe stacks"), "{said}");
    Ok(())
}

fn formats() -> Outcome {
    let subject = Subject::start("spins");
    for (format, holds) in
        [("table", "EXPECTED"), ("folded", "spin_for_ever"), ("svg", "<svg"), ("json", "forkd.oncpu/1")]
    {
        let pid = subject.pid().to_string();
        let arguments = ["oncpu", "--pid", &pid, "--duration", "500ms", "--format", format];
        let output = Command::new(env!("CARGO_BIN_EXE_forkd-probe")).args(arguments).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(holds), "{format}: {output:?}");
    }
    Ok(())
}
