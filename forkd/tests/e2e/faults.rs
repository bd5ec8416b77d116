//! The source runs again, and a snapshot is there whole or not at all, whatever goes wrong.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use forkd::api::{BranchMode, BranchRequest, DataPath, SandboxState};
use forkd::http_client::CallError;
use guest::FIRST_PAGE;
use guest::model::Memory;
use hyper::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use testkit::{LoopExt4, Outcome, Test, run_command};

use crate::host::{Host, NEEDS, NEEDS_LOOP, Result, firecrackers_below, other_client, wait_for};

pub const TESTS: &[Test] = &[
    Test {
        name: "faults::a_full_disk_is_507_and_the_next_branch_is_full_and_exact",
        needs: NEEDS,
        run: full_disk,
    },
    Test { name: "faults::a_client_that_goes_away_leaves_no_guest_paused", needs: NEEDS, run: client_gone },
    Test {
        name: "faults::firecracker_killed_during_a_branch_leaves_no_tag",
        needs: NEEDS,
        run: firecracker_killed,
    },
    Test {
        name: "faults::a_disk_that_stands_still_delays_no_answer_and_no_guest",
        needs: NEEDS_LOOP,
        run: frozen_disk,
    },
    Test { name: "faults::a_guest_paused_by_somebody_else_stays_paused", needs: NEEDS, run: paused_by_user },
    Test { name: "faults::a_crashed_daemon_leaves_nothing_half_made", needs: NEEDS, run: crash },
    Test { name: "faults::a_daemon_told_to_kill_leaves_nothing_running", needs: NEEDS, run: stop },
    Test { name: "faults::all_files_are_for_the_owner_only", needs: NEEDS, run: private_files },
];

fn diff(tag: &str) -> BranchRequest {
    BranchRequest { tag: Some(tag.into()), mode: Some(BranchMode::Diff), ..BranchRequest::default() }
}

fn staged(host: &Host) -> Result<usize> {
    Ok(fs::read_dir(host.root().join(".staging"))?.count())
}

fn full_disk() -> Outcome {
    let dir = tempfile::tempdir()?;
    let root = dir.path().join("tmpfs");
    fs::create_dir(&root)?;
    let mut mount = Command::new("mount");
    // Room for the base and for one more image, and no room for a third.
    run_command(mount.args(["-t", "tmpfs", "-o", "size=90m", "tmpfs"]).arg(&root))?;
    let unmount = Unmount(&root);
    let host = Host::start_at(tempfile::tempdir()?, root.clone())?;
    host.boot("base")?;
    let source = host.fork("base")?.id;
    let mut memory = Memory::default();
    host.guest(&source, "dirty 1024 300 1")?;
    memory.dirty(FIRST_PAGE, 300, 1);
    host.branch(&source, &diff("b1"))?;
    for data_path in [DataPath::Naive, DataPath::Fallocate] {
        host.guest(&source, "dirty 2000 10 2")?;
        memory.dirty(2000, 10, 2);
        let request = BranchRequest { data_path: Some(data_path), ..diff("b2") };
        match host.branch(&source, &request) {
            Err(CallError::Refused { status, message }) => assert_eq!(status, 507, "{message}"),
            other => return Err(format!("a BRANCH on a full disk: {other:?}").into()),
        }
        host.require_running(&source)?;
        assert_eq!((staged(&host)?, host.snapshots()?.len()), (0, 2));
    }
    // Room again: the pages of the BRANCHes that failed must not be missing from this one.
    host.call::<()>(Method::DELETE, "/v1/snapshots/b1", None::<&()>)?;
    host.guest(&source, "dirty 2100 5 3")?;
    memory.dirty(2100, 5, 3);
    let branch = host.branch(&source, &diff("b3"))?;
    assert_eq!(branch.mode, BranchMode::Full);
    assert!(branch.warnings[0].contains("full instead of diff"), "{:?}", branch.warnings);
    let child = host.fork("b3")?.id;
    for (first, count) in [(FIRST_PAGE, 300), (2000, 150)] {
        let sum = host.guest(&child, &format!("sum {first} {count}"))?;
        assert_eq!(sum, format!("{:016x}", memory.sum(first, count)));
    }
    drop(host);
    drop(unmount);
    Ok(())
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        if let Err(error) = run_command(Command::new("umount").arg(self.0)) {
            eprintln!("left mounted: {error}");
        }
    }
}

/// Asks for a BRANCH over a connection of its own and does not wait for the answer.
fn ask_for_branch(host: &Host, id: &str, tag: &str) -> Result<UnixStream> {
    let body = format!("{{\"tag\":\"{tag}\"}}");
    let mut stream = UnixStream::connect(host.socket())?;
    write!(
        stream,
        "POST /v1/sandboxes/{id}/branch HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    Ok(stream)
}

fn client_gone() -> Outcome {
    let host = Host::start()?;
    host.boot("base")?;
    let source = host.fork("base")?.id;
    let stream = ask_for_branch(&host, &source, "orphan")?;
    wait_for("the BRANCH to begin", || Ok(host.sandbox(&source)?.state == SandboxState::Branching))?;
    drop(stream);
    wait_for("the snapshot", || Ok(host.snapshots()?.iter().any(|snapshot| snapshot.tag == "orphan")))?;
    host.require_running(&source)?;
    host.require_running(&host.fork("orphan")?.id)?;
    Ok(())
}

fn firecracker_killed() -> Outcome {
    let host = Host::start()?;
    host.boot("base")?;
    let source = host.fork("base")?;
    let _stream = ask_for_branch(&host, &source.id, "half")?;
    wait_for("the BRANCH to begin", || Ok(host.sandbox(&source.id)?.state == SandboxState::Branching))?;
    kill_process(Pid::from_raw(source.pid as i32).ok_or("no pid")?, Signal::KILL)?;
    wait_for("the sandbox to be dead", || Ok(host.sandbox(&source.id)?.state == SandboxState::Dead))?;
    wait_for("the staging directory to go", || Ok(staged(&host)? == 0))?;
    assert_eq!(host.snapshots()?.len(), 1);
    match host.branch(&source.id, &diff("b")) {
        Err(CallError::Refused { status, message }) => {
            assert_eq!(status, 409);
            assert!(message.contains("is dead: Firecracker ended"), "{message}");
        }
        other => return Err(format!("a BRANCH of a dead sandbox: {other:?}").into()),
    }
    host.end(&source.id)?;
    Ok(())
}

/// Thaws a frozen file system when dropped.
struct Frozen<'a>(&'a Path);

impl<'a> Frozen<'a> {
    fn freeze(point: &'a Path) -> Result<Self> {
        run_command(Command::new("fsfreeze").arg("-f").arg(point))?;
        Ok(Self(point))
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = run_command(Command::new("fsfreeze").arg("-u").arg(self.0));
    }
}

fn frozen_disk() -> Outcome {
    const BRANCHES: usize = 12;
    let dir = tempfile::tempdir()?;
    let ext4 = LoopExt4::mount(dir.path(), 1024, "")?;
    let point = ext4.path();
    // By default a machine with one processor takes fewer at once.
    let all_at_once = ["--max-branches", &BRANCHES.to_string()];
    let host = Host::start_with(tempfile::tempdir()?, point.join("snapshots"), &all_at_once)?;
    host.boot("base")?;
    let sources = (0..BRANCHES).map(|_| Ok(host.fork("base")?.id)).collect::<Result<Vec<_>>>()?;
    let frozen = Frozen::freeze(&point)?;
    // More of them than the daemon has threads for connections: each waits for the disk before its pause.
    let asked = sources.iter().enumerate();
    let streams =
        asked.map(|(n, id)| ask_for_branch(&host, id, &format!("b{n}"))).collect::<Result<Vec<_>>>()?;
    sleep(Duration::from_millis(300));
    let begun = Instant::now();
    for id in &sources {
        host.require_running(id)?;
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(host.snapshots()?.len(), 1, "a BRANCH was published on a frozen disk");
    drop(frozen);
    for stream in streams {
        stream.set_read_timeout(Some(Duration::from_secs(60) * testkit::slowness()))?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }
    assert_eq!(host.snapshots()?.len(), 1 + BRANCHES);
    for id in &sources {
        host.require_running(id)?;
    }
    Ok(())
}

fn paused_by_user() -> Outcome {
    let host = Host::start()?;
    host.boot("base")?;
    let source = host.fork("base")?.id;
    let socket = host.dir.path().join("vms").join(&source).join("api.sock");
    let paused = other_client(socket.clone(), Method::PATCH, "/vm", &json!({ "state": "Paused" }))?;
    assert_eq!(paused.status, 204);
    match host.branch(&source, &diff("b")) {
        Err(CallError::Refused { status, message }) => {
            assert_eq!(status, 409);
            assert!(message.contains("is paused, not running"), "{message}");
        }
        other => return Err(format!("a BRANCH of a paused guest: {other:?}").into()),
    }
    let answer = other_client(socket, Method::GET, "/", &Value::Null)?;
    assert!(String::from_utf8_lossy(&answer.body).contains("\"Paused\""), "{answer:?}");
    Ok(())
}

fn crash() -> Outcome {
    let mut host = Host::start()?;
    host.boot("base")?;
    let source = host.fork("base")?;
    // Crashed in the middle of a BRANCH, where it is easiest to leave something.
    let _stream = ask_for_branch(&host, &source.id, "half")?;
    wait_for("the BRANCH to begin", || Ok(host.sandbox(&source.id)?.state == SandboxState::Branching))?;
    host.crash_and_restart()?;
    assert_eq!(staged(&host)?, 0);
    host.require_running(&source.id)?;
    let tags: Vec<String> = host.snapshots()?.into_iter().map(|snapshot| snapshot.tag).collect();
    assert_eq!(tags, ["base"]);
    host.require_running(&host.fork("base")?.id)?;
    Ok(())
}

fn stop() -> Outcome {
    let host = Host::start()?;
    host.boot("base")?;
    host.fork("base")?;
    let run_dir = host.dir.path().join("vms");
    assert_eq!(firecrackers_below(&run_dir)?.len(), 1);
    let kept = host.dir.path().to_owned();
    let daemon = host.daemon_pid();
    kill_process(Pid::from_raw(daemon as i32).ok_or("no pid")?, Signal::TERM)?;
    wait_for("the microVMs to go", || Ok(firecrackers_below(&kept)?.is_empty()))?;
    wait_for("the run directories to go", || {
        Ok(fs::read_dir(&run_dir)?.all(|entry| entry.is_ok_and(|entry| entry.file_name() == ".lock")))
    })?;
    wait_for("the socket to go", || Ok(!host.socket().exists()))?;
    Ok(())
}

fn private_files() -> Outcome {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::start()?;
    host.boot("base")?;
    let source = host.fork("base")?.id;
    host.branch(&source, &BranchRequest { tag: Some("b".into()), ..BranchRequest::default() })?;
    let mut pending = vec![host.root().to_owned(), host.dir.path().join("vms"), host.socket()];
    while let Some(path) = pending.pop() {
        let metadata = fs::symlink_metadata(&path)?;
        assert_eq!(metadata.permissions().mode() & 0o077, 0, "{}", path.display());
        if metadata.is_dir() {
            pending.extend(
                fs::read_dir(&path)?
                    .map(|entry| entry.map(|entry| entry.path()))
                    .collect::<std::io::Result<Vec<_>>>()?,
            );
        }
    }
    Ok(())
}
