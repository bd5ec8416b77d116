//! The battery's scenarios on real microVMs: each verdict is the right one.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use bench::host::mountinfo;
use testkit::{Finder, Need, Outcome, Test, run};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const VM: &[Need] = &[Need::Root, Need::Kvm, Need::Firecracker, Need::LoopExt4, Need::Btf];
const FUSE: &[Need] =
    &[Need::Root, Need::Kvm, Need::Firecracker, Need::LoopExt4, Need::Btf, Need::Other(Finder(fuse))];
const IDLE: &[Need] =
    &[Need::Root, Need::Kvm, Need::Firecracker, Need::LoopExt4, Need::Btf, Need::Other(Finder(idle))];

fn main() -> ExitCode {
    let test = |name, run| Test { name, needs: VM, run };
    let when_idle = |name, run| Test { name, needs: IDLE, run };
    run(vec![
        test("battery::a_lock_held_by_another_thread_is_named", || scenario("futex")),
        test("battery::a_sleep_is_named", || scenario("timer")),
        test("battery::page_faults_are_named", || scenario("page-faults")),
        when_idle("battery::a_sleep_and_a_lock_are_told_apart", || scenario("timer+futex")),
        test("battery::nothing_injected_names_no_injection", || scenario("null")),
        test("battery::a_cpu_quota_is_named", || scenario("cpu-quota")),
        test("battery::a_stop_by_a_signal_is_named", || scenario("sigstop")),
        test("battery::the_freezer_is_named", || scenario("freezer")),
        test("battery::the_copy_of_many_pages_is_named", || scenario("large-dirty-set")),
        test("battery::a_slow_disk_is_named", || scenario("slow-disk")),
        test("battery::a_journal_that_others_fill_is_named", || scenario("journal-commit")),
        Test { name: "battery::a_slow_fuse_is_named", needs: FUSE, run: || scenario("slow-fuse") },
        when_idle("battery::a_stop_and_a_slow_fuse_are_told_apart", || scenario("sigstop+fuse")),
        when_idle("battery::a_rival_for_the_cpu_is_named", || scenario("shared-cpu")),
        when_idle("battery::swapping_in_is_named", || scenario("zram-swap")),
        when_idle("battery::the_writeback_throttle_is_named", || scenario("wbt")),
        when_idle("battery::a_neighbour_that_writes_is_named", || scenario("neighbour-writes")),
        when_idle("battery::a_neighbour_that_reads_is_named", || scenario("neighbour-reads")),
        when_idle("battery::a_memory_limit_is_named", || scenario("memory-limit")),
        test("battery::an_unknown_scenario_is_refused_with_the_names", unknown),
    ])
}

fn fuse() -> Option<String> {
    (!Path::new("/dev/fuse").exists()).then(|| "needs /dev/fuse (modprobe fuse)".to_owned())
}

/// In these windows other work on the host is as long as what is injected.
fn idle() -> Option<String> {
    let is_idle = std::env::var_os("FORKD_IDLE_HOST").is_some_and(|value| value == "1");
    (!is_idle).then(|| "needs a host without other work, which FORKD_IDLE_HOST=1 promises".to_owned())
}

fn battery(folder: &Path, scenario: &str) -> Result<std::process::Output> {
    let own = Path::new(env!("CARGO_BIN_EXE_forkd-bench"));
    for program in ["forkd", "forkd-probe"] {
        if !own.with_file_name(program).is_file() {
            return Err(format!("{program} is missing beside forkd-bench: cargo build").into());
        }
    }
    let mut command = Command::new(own);
    command.args(["battery", "--scenario", scenario]).arg("--work-dir").arg(folder.join("work"));
    Ok(command.output()?)
}

fn folder() -> Result<(tempfile::TempDir, PathBuf)> {
    let folder = tempfile::Builder::new().prefix("forkd-battery-test-").tempdir_in("/var/tmp")?;
    let path = folder.path().canonicalize()?;
    Ok((folder, path))
}

fn scenario(name: &str) -> Outcome {
    let (_folder, path) = folder()?;
    let output = battery(&path, name)?;
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}{errors}");
    let last = said.lines().last().unwrap_or_default();
    assert!(!last.starts_with("0 passed") && last.ends_with(" passed, 0 failed"), "{said}{errors}");
    assert!(said.lines().all(|line| line.chars().count() <= 80 || line.starts_with("skipped")), "{said}");
    let mounts = mountinfo::below(&path)?;
    assert!(mounts.is_empty(), "{mounts:?}");
    Ok(())
}

fn unknown() -> Outcome {
    let (_folder, path) = folder()?;
    let output = battery(&path, "wbt,nonsense")?;
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("'nonsense'") && errors.contains("journal-commit"), "{errors}");
    Ok(())
}
