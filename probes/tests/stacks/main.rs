//! Looks at programs whose threads are known to stand still, spin and sleep.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

#[path = "../offcpu/subject.rs"]
#[expect(dead_code, reason = "the other binary plays the other roles")]
mod subject;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use probes::stacks::Session;
use probes::target::Target;
use reports::stacks::{Source, Stacks, Thread};
use testkit::{Need, Outcome, Test};

use subject::Subject;

/// An ordinary user, as far as rights go.
const NOBODY: u32 = 65534;

fn main() -> ExitCode {
    if let Some(role) = subject::role() {
        subject::play(&role);
        return ExitCode::SUCCESS;
    }
    let root = |name, run| Test { name, needs: &[Need::Root], run };
    testkit::run(vec![
        root("stacks::sleeper_and_spinner_are_seen_as_what_they_are", known_threads),
        root("stacks::ordinary_user_sees_the_function_that_a_thread_sleeps_in", ordinary_user),
        root("stacks::every_format_is_written", formats),
    ])
}

fn look(role: &str, window: Duration) -> Stacks {
    let subject = Subject::start(role);
    let target = Target::find(subject.pid(), false).unwrap();
    let session = Session::start(vec![target], Duration::from_millis(5)).unwrap();
    thread::sleep(window);
    session.finish(&[]).unwrap()
}

fn thread_named<'a>(report: &'a Stacks, comm: &str) -> &'a Thread {
    let thread = report.threads.iter().find(|thread| thread.comm == comm);
    thread.unwrap_or_else(|| panic!("no {comm}: {report:#?}"))
}

fn known_threads() -> Outcome {
    let report = look("parked", Duration::from_millis(300));
    assert_eq!(report.source, Source::Stack, "{report:#?}");
    // A busy machine makes rounds late, and fewer.
    assert!(report.rounds > 10 && report.rounds <= 300 / 5 + 1, "{}", report.rounds);
    let parked = thread_named(&report, "parked");
    assert_eq!((parked.looks, parked.seen.len()), (report.rounds, 1), "{parked:#?}");
    let seen = &parked.seen[0];
    assert_eq!((seen.state, seen.call.as_deref()), ('S', Some("futex")), "{parked:#?}");
    assert!(seen.kernel.iter().any(|frame| frame.contains("futex")), "{parked:#?}");
    assert!(report.warnings.iter().any(|warning| warning.contains("a waiter")), "{:?}", report.warnings);
    let report = look("spins", Duration::from_millis(100));
    let spinner = thread_named(&report, "spinner");
    assert!(spinner.seen.iter().all(|seen| seen.state == 'R' && seen.call.is_none()), "{spinner:#?}");
    Ok(())
}

fn ordinary_user() -> Outcome {
    let mut sleeper = Command::new("sleep").arg("60").uid(NOBODY).gid(NOBODY).current_dir("/").spawn()?;
    // A copy where every user may run it: the build directory may be closed to others.
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let copy = folder.path().join("forkd-probe");
    fs::copy(env!("CARGO_BIN_EXE_forkd-probe"), &copy)?;
    let pid = sleeper.id().to_string();
    let arguments =
        ["stacks", "--pid", &pid, "--duration", "200ms", "--interval", "10ms", "--format", "json"];
    let output = Command::new(copy).args(arguments).uid(NOBODY).gid(NOBODY).current_dir("/").output();
    sleeper.kill()?;
    sleeper.wait()?;
    let output = output?;
    assert!(output.status.success(), "{output:?}");
    let report: Stacks = serde_json::from_slice(&output.stdout)?;
    assert_eq!(report.source, Source::Wchan, "{report:#?}");
    assert!(report.warnings.iter().any(|warning| warning.contains("needs CAP_SYS_ADMIN")), "{report:#?}");
    let frames = &thread_named(&report, "sleep").seen[0].kernel;
    assert!(frames.len() == 1 && frames[0].contains("nanosleep"), "{report:#?}");
    Ok(())
}

fn formats() -> Outcome {
    let subject = Subject::start("naps");
    for (format, holds) in [
        ("table", "warning: counts are looks"),
        ("folded", "napper-"),
        ("svg", "<svg"),
        ("json", "forkd.stacks/1"),
    ] {
        let pid = subject.pid().to_string();
        let arguments = ["stacks", "--pid", &pid, "--duration", "200ms", "--format", format];
        let output = Command::new(env!("CARGO_BIN_EXE_forkd-probe")).args(arguments).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(holds), "{format}: {output:?}");
    }
    Ok(())
}
