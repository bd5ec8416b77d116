//! `forkd doctor` on this host, and with things taken away from it.

use std::process::{Command, Output};

use forkd::doctor::{Examination, Level};
use testkit::{Outcome, Test};

use crate::host::{NEEDS, Result};

pub const TESTS: &[Test] = &[Test {
    name: "doctor::where_microvms_run_it_says_so_and_what_is_taken_away_is_missing",
    needs: NEEDS,
    run,
}];

fn doctor(arguments: &[&str]) -> Result<Output> {
    let dir = tempfile::tempdir()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_forkd"));
    command.arg("doctor").arg("--snapshot-root").arg(dir.path().join("snapshots"));
    command.arg("--run-dir").arg(dir.path().join("vms")).args(arguments);
    let output = command.output()?;
    assert_eq!(std::fs::read_dir(dir.path())?.count(), 0, "something is left");
    Ok(output)
}

fn level(examination: &Examination, name: &str) -> Result<Level> {
    let check = examination.checks.iter().find(|check| check.name == name);
    Ok(check.ok_or_else(|| format!("no check of {name}"))?.level)
}

fn run() -> Outcome {
    let firecracker = testkit::firecracker().ok_or("no firecracker")?;
    let firecracker = firecracker.to_str().ok_or("a path")?;
    let output = doctor(&["--json", "--firecracker", firecracker])?;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let examination: Examination = serde_json::from_slice(&output.stdout)?;
    assert!(examination.can_serve);
    for name in ["kernel", "KVM", "snapshot root", "run directory", "data and holes"] {
        assert_eq!(level(&examination, name)?, Level::Ok, "{name}");
    }
    for check in &examination.checks {
        assert_eq!(check.mend.is_some(), check.level != Level::Ok, "{check:?}");
    }

    let text = String::from_utf8(doctor(&["--firecracker", firecracker])?.stdout)?;
    assert!(!text.contains('\x1b') && text.contains("\nok      KVM "), "{text}");

    let output = doctor(&["--json", "--firecracker", "/bin/true"])?;
    assert_eq!(output.status.code(), Some(3));
    let examination: Examination = serde_json::from_slice(&output.stdout)?;
    assert!(!examination.can_serve);
    assert_eq!(level(&examination, "Firecracker")?, Level::Missing);
    assert!(String::from_utf8_lossy(&output.stderr).contains("for want of: Firecracker"));
    Ok(())
}
