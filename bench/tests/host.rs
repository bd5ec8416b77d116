//! What a run puts on a host goes away again: with its guard, and after a kill with the next run.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use bench::Error;
use bench::cell::FileSystem;
use bench::host::{device, facts, mountinfo};
use bench::site::Programs;
use bench::site::daemon::Daemon;
use bench::site::mount::Mounted;
use bench::work::{Recorded, Work};
use testkit::{Need, Outcome, Test, run};

const MIB: u64 = 1 << 20;
/// Set for the copy of this program that takes the part of the killed run.
const VICTIM: &str = "FORKD_BENCH_TEST_VICTIM";

fn main() -> ExitCode {
    if let Some(folder) = std::env::var_os(VICTIM) {
        be_the_victim(&PathBuf::from(folder));
    }
    const LOOP: &[Need] = &[Need::Root, Need::LoopExt4];
    let test = |name, needs, run| Test { name, needs, run };
    run(vec![
        test("host::an_ext4_goes_with_its_guard", LOOP, an_ext4_goes_with_its_guard),
        test("host::a_tmpfs_goes_with_its_guard", &[Need::Root], a_tmpfs_goes_with_its_guard),
        test("host::a_failed_mkfs_leaves_no_image", LOOP, a_failed_mkfs_leaves_no_image),
        test("host::the_next_run_clears_what_a_killed_one_left", LOOP, the_next_run_clears),
        test("host::two_runs_do_not_share_a_folder", &[], two_runs_do_not_share_a_folder),
        test("host::a_daemon_that_cannot_start_says_why", &[], a_daemon_that_cannot_start_says_why),
    ])
}

fn real_tempdir() -> std::io::Result<(tempfile::TempDir, PathBuf)> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().canonicalize()?;
    Ok((folder, path))
}

fn assert_nothing_left(folder: &Path) -> Outcome {
    let mounts = mountinfo::below(folder)?;
    assert!(mounts.is_empty(), "{mounts:?}");
    // The kernel detaches a loop device shortly after the unmount.
    for _ in 0..100 {
        if device::loops_below(folder).is_empty() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("still attached: {:?}", device::loops_below(folder));
}

fn an_ext4_goes_with_its_guard() -> Outcome {
    let (_folder, path) = real_tempdir()?;
    let (image, point) = (path.join("a.img"), path.join("a b"));
    let mounted = Mounted::on_loop(FileSystem::Ext4, &[], &image, &point, 64 * MIB)?;
    let root = facts::root("ext4-loop", &point)?;
    assert_eq!(root.file_system, "ext4");
    let device = root.device.ok_or("no device below it")?;
    assert!(device.name.starts_with("loop"), "{device:?}");
    fs::write(point.join("file"), b"content")?;
    drop(mounted);
    assert!(!image.exists());
    assert_nothing_left(&path)
}

fn a_tmpfs_goes_with_its_guard() -> Outcome {
    let (_folder, path) = real_tempdir()?;
    let point = path.join("t");
    let mounted = Mounted::tmpfs(&point, 4 * MIB)?;
    let root = facts::root("tmpfs", &point)?;
    assert_eq!((root.file_system.as_str(), root.device), ("tmpfs", None));
    assert!(fs::write(point.join("too big"), vec![0; 5 << 20]).is_err(), "the size limit does not hold");
    drop(mounted);
    assert_nothing_left(&path)
}

fn a_failed_mkfs_leaves_no_image() -> Outcome {
    let (_folder, path) = real_tempdir()?;
    let image = path.join("a.img");
    let failed = Mounted::on_loop(FileSystem::Ext4, &[], &image, &path.join("a"), 0);
    assert!(matches!(failed, Err(Error::Tool { .. })), "{failed:?}");
    assert!(!image.exists());
    assert_nothing_left(&path)
}

fn the_next_run_clears() -> Outcome {
    let (_folder, path) = real_tempdir()?;
    let (mut victim, sleeper) = start_victim(&path)?;
    victim.kill()?;
    victim.wait()?;
    assert_eq!(mountinfo::below(&path)?.len(), 2, "the victim was to leave two mounts");
    assert!(sleeper.lives(), "the victim was to leave a process");
    let (work, cleared) = Work::take(&path)?;
    assert_eq!(cleared.len(), 3, "{cleared:?}");
    assert!(!sleeper.lives());
    assert!(!path.join("site").exists());
    assert_nothing_left(&path)?;
    drop(work);
    assert_eq!(Work::take(&path)?.1, Vec::<String>::new(), "a second look finds nothing");
    Ok(())
}

fn start_victim(folder: &Path) -> Result<(Child, Recorded), Box<dyn std::error::Error>> {
    let mut victim =
        Command::new(std::env::current_exe()?).env(VICTIM, folder).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(victim.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    let sleeper = Recorded::of(line.trim().parse()?).ok_or("the victim's process is gone")?;
    Ok((victim, sleeper))
}

/// Sets up a site as a run does, says the pid of a process in it, and waits to be killed.
fn be_the_victim(folder: &Path) -> ! {
    let (work, _) = Work::take(folder).expect("the folder is free");
    let site = work.site().expect("the folder can be written");
    let root = Mounted::on_loop(FileSystem::Ext4, &[], &site.join("root.img"), &site.join("root"), 64 * MIB)
        .expect("an ext4");
    let inner = Mounted::tmpfs(&site.join("root/inner"), MIB).expect("a tmpfs");
    let sleeper = Command::new("sleep").arg("1000").stdout(Stdio::null()).spawn().expect("sleep runs");
    work.record(sleeper.id()).expect("the folder can be written");
    println!("{}", sleeper.id());
    std::thread::sleep(Duration::from_secs(60));
    drop((inner, root, work));
    std::process::exit(1)
}

fn two_runs_do_not_share_a_folder() -> Outcome {
    let (_folder, path) = real_tempdir()?;
    let (first, _) = Work::take(&path)?;
    let second = Work::take(&path);
    assert!(matches!(second, Err(Error::Missing(_))), "{second:?}");
    drop(first);
    Work::take(&path)?;
    Ok(())
}

fn a_daemon_that_cannot_start_says_why() -> Outcome {
    let (_folder, path) = real_tempdir()?;
    let (work, _) = Work::take(&path)?;
    let forkd = path.join("forkd");
    fs::write(&forkd, "#!/bin/sh\necho 'no such thing' >&2\nexit 3\n")?;
    fs::set_permissions(&forkd, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let programs = Programs { forkd, firecracker: PathBuf::from("/nonexistent"), serve_args: Vec::new() };
    let site = work.site()?;
    let daemon = Daemon::start(&work, &programs, &site, &site)?;
    let api = bench::api::Api::new(forkd::http_client::Endpoint::Unix(daemon.socket().to_owned()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let failed = runtime.block_on(daemon.wait_until_ready(&api)).err().ok_or("it answered")?;
    assert_eq!(failed.to_string(), "the daemon ended at start; the end of its log: no such thing");
    Ok(())
}
