//! Namespaces, limits, pauses by the user, drives of their own, and where a snapshot may be restored.

use rustix::process::Signal;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use forkd::api::{
    BranchMode, BranchRequest, CreateSandboxes, Sandbox, SandboxState, Snapshot, SnapshotDetail,
};
use forkd::http_client::CallError;
use forkd::snapshot::manifest::Manifest;
use guest::FIRST_PAGE;
use guest::model::Memory;
use hyper::Method;
use serde_json::{Value, json};
use testkit::{Outcome, Test, run_command};

use crate::host::{Host, NEEDS, NEEDS_LOOP, Result, guest_memory, other_client, wait_for};

pub const TESTS: &[Test] = &[
    Test { name: "sandboxes::a_child_runs_in_the_namespace_it_was_given", needs: NEEDS, run: namespace },
    Test { name: "sandboxes::limits_hold_and_their_groups_go_with_the_sandbox", needs: NEEDS, run: limits },
    Test { name: "sandboxes::a_kill_for_want_of_memory_is_told_as_such", needs: NEEDS, run: out_of_memory },
    Test {
        name: "sandboxes::limits_outlive_a_crash_and_their_groups_go_with_the_sandbox",
        needs: NEEDS,
        run: crashed_groups,
    },
    Test { name: "sandboxes::each_child_says_when_it_ran", needs: NEEDS, run: running_after },
    Test { name: "sandboxes::a_branch_leaves_a_guest_that_its_user_paused", needs: NEEDS, run: user_pause },
    Test { name: "sandboxes::pauses_branches_and_kills_do_not_mix", needs: NEEDS, run: pause_race },
    Test { name: "sandboxes::a_child_has_the_drive_of_the_pause", needs: NEEDS, run: drives },
    Test { name: "sandboxes::a_changed_drive_is_refused_by_name", needs: NEEDS, run: damaged_drive },
    Test {
        name: "sandboxes::a_copied_drive_is_told_and_its_file_goes",
        needs: NEEDS_LOOP,
        run: copied_drive,
    },
    Test { name: "sandboxes::another_firecracker_or_cpu_needs_force", needs: NEEDS, run: other_origin },
    Test { name: "sandboxes::an_unsupported_firecracker_exits_3", needs: NEEDS, run: unsupported },
];

fn fork(host: &Host, request: &CreateSandboxes) -> std::result::Result<Vec<Sandbox>, CallError> {
    host.call(Method::POST, "/v1/sandboxes", Some(request))
}

fn refused<T: std::fmt::Debug>(answer: std::result::Result<T, CallError>, expected: u16) -> Result<String> {
    match answer {
        Err(CallError::Refused { status, message }) if status == expected => Ok(message),
        other => Err(format!("expected {expected}, got {other:?}").into()),
    }
}

/// A network namespace, deleted when dropped.
struct Namespace(String);

impl Namespace {
    fn add() -> Result<Self> {
        let name = format!("forkd-e2e-{}", std::process::id());
        run_command(Command::new("ip").args(["netns", "add", &name]))?;
        Ok(Self(name))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = run_command(Command::new("ip").args(["netns", "delete", &self.0])) {
            eprintln!("a network namespace is left: {error}");
        }
    }
}

fn namespace() -> Outcome {
    use std::os::unix::fs::MetadataExt;
    let host = Host::start()?;
    host.boot("base")?;
    let namespace = Namespace::add()?;
    for named in [namespace.0.clone(), format!("/run/netns/{}", namespace.0)] {
        let request = CreateSandboxes { netns: Some(named), ..CreateSandboxes::new("base", 2) };
        for child in fork(&host, &request)? {
            assert_eq!(child.netns.as_ref(), Some(&namespace.0));
            let expected = fs::metadata(format!("/run/netns/{}", namespace.0))?.ino();
            assert_eq!(fs::metadata(format!("/proc/{}/ns/net", child.pid))?.ino(), expected);
            host.require_running(&child.id)?;
            host.end(&child.id)?;
        }
    }
    let with = |netns: &str| CreateSandboxes { netns: Some(netns.into()), ..CreateSandboxes::new("base", 1) };
    let absent = refused(fork(&host, &with("forkd-no-such")), 409)?;
    assert!(absent.contains("no network namespace 'forkd-no-such'"), "{absent}");
    refused(fork(&host, &with("../../etc/passwd")), 400)?;
    refused(fork(&host, &with("/etc/passwd")), 400)?;
    File::create("/run/netns/forkd-e2e-file")?;
    let other = refused(fork(&host, &with("forkd-e2e-file")), 409);
    fs::remove_file("/run/netns/forkd-e2e-file")?;
    assert!(other?.contains("is no network namespace"));
    Ok(())
}

/// The directories below the cgroup mounts that are named after the sandbox.
fn groups_of(id: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = pending.pop() {
        // A group may go while it is looked at.
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name() == id {
                    found.push(entry.path());
                }
                pending.push(entry.path());
            }
        }
    }
    Ok(found)
}

fn first_line(groups: &[PathBuf], files: [&str; 2]) -> Result<String> {
    let found = groups.iter().flat_map(|group| files.map(|file| fs::read_to_string(group.join(file)).ok()));
    Ok(found.flatten().next().ok_or("no such file in the groups")?.trim().to_owned())
}

fn limits() -> Outcome {
    let host = Host::start()?;
    host.boot("base")?;
    let request = CreateSandboxes {
        memory_limit_mib: Some(96),
        cpu_quota: Some(0.25),
        ..CreateSandboxes::new("base", 1)
    };
    let child = fork(&host, &request)?.pop().ok_or("no child")?;
    assert_eq!((child.memory_limit_mib, child.cpu_quota), (Some(96), Some(0.25)));
    let groups = groups_of(&child.id)?;
    let limit = first_line(&groups, ["memory.limit_in_bytes", "memory.max"])?;
    assert_eq!(limit, (96 << 20).to_string());
    let quota = first_line(&groups, ["cpu.cfs_quota_us", "cpu.max"])?;
    assert_eq!(quota.split(' ').next(), Some("25000"));
    for group in &groups {
        let inside = fs::read_to_string(group.join("cgroup.procs"))?;
        // A kernel may put the threads with which it serves the guest beside it.
        let is_there = inside.lines().any(|pid| pid == child.pid.to_string());
        assert!(is_there, "{}: {inside}", group.display());
    }
    // A guest spins: in one second it gets about a quarter of one.
    let used = || -> Result<u64> { cpu_ticks(child.pid) };
    let before = used()?;
    let begun = Instant::now();
    sleep(Duration::from_secs(2));
    let share = (used()? - before) as f64 / 100.0 / begun.elapsed().as_secs_f64();
    assert!(share < 0.4, "the quota is 0.25 CPUs, and it used {share}");
    host.require_running(&child.id)?;
    host.end(&child.id)?;
    assert_eq!(groups_of(&child.id)?, Vec::<PathBuf>::new());
    for (field, value) in
        [("memory_limit_mib", json!(1)), ("cpu_quota", json!(0)), ("cpu_quota", json!(-1.5))]
    {
        let answer = host.call::<Value>(
            Method::POST,
            "/v1/sandboxes",
            Some(&json!({ "snapshot_tag": "base", field: value })),
        );
        assert!(refused(answer, 400)?.contains(field));
    }
    Ok(())
}

fn cpu_ticks(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').ok_or("stat")?.1.split_whitespace().collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

fn out_of_memory() -> Outcome {
    let host = Host::start()?;
    host.boot("base")?;
    let request = CreateSandboxes { memory_limit_mib: Some(16), ..CreateSandboxes::new("base", 1) };
    let child = fork(&host, &request)?.pop().ok_or("no child")?;
    // 24 MiB of the guest's 32: more than the limit.
    let _ = host.guest(&child.id, "dirty 1024 6144 1");
    wait_for("the kernel to kill it", || Ok(host.sandbox(&child.id)?.state == SandboxState::Dead))?;
    let told = host.sandbox(&child.id)?.dead_because.ok_or("no reason")?;
    assert!(told.contains("needed more memory than its memory_limit_mib, 16 MiB"), "{told}");
    let branch = host.branch(&child.id, &BranchRequest::default());
    assert!(refused(branch, 409)?.contains("memory_limit_mib"));
    wait_for("the group to go", || Ok(groups_of(&child.id)?.is_empty()))?;
    // One that was killed for another reason does not say so.
    let other =
        fork(&host, &CreateSandboxes { memory_limit_mib: Some(128), ..CreateSandboxes::new("base", 1) })?;
    let other = other.first().ok_or("no child")?;
    run_command(Command::new("kill").args(["-9", &other.pid.to_string()]))?;
    wait_for("its end", || Ok(host.sandbox(&other.id)?.state == SandboxState::Dead))?;
    let told = host.sandbox(&other.id)?.dead_because.ok_or("no reason")?;
    assert!(!told.contains("memory_limit_mib"), "{told}");
    Ok(())
}

fn crashed_groups() -> Outcome {
    let mut host = Host::start()?;
    host.boot("base")?;
    let request = CreateSandboxes { memory_limit_mib: Some(128), ..CreateSandboxes::new("base", 1) };
    let child = fork(&host, &request)?.pop().ok_or("no child")?;
    assert!(!groups_of(&child.id)?.is_empty());
    host.crash_and_restart()?;
    let adopted = host.sandbox(&child.id)?;
    assert_eq!((adopted.memory_limit_mib, adopted.state), (Some(128), SandboxState::Running));
    assert!(!groups_of(&child.id)?.is_empty());
    host.end(&child.id)?;
    wait_for("the adopted sandbox's group to go", || Ok(groups_of(&child.id)?.is_empty()))?;
    Ok(())
}

fn running_after() -> Outcome {
    let host = Host::start()?;
    host.boot("base")?;
    let begun = Instant::now();
    let children = fork(&host, &CreateSandboxes::new("base", 12))?;
    let all_ns = begun.elapsed().as_nanos() as u64;
    assert_eq!(children.len(), 12);
    for child in &children {
        assert!(child.running_after_ns > 0 && child.running_after_ns <= all_ns, "{child:?} of {all_ns}");
        assert_eq!(host.sandbox(&child.id)?.running_after_ns, child.running_after_ns);
    }
    host.require_running(&children[11].id)?;
    Ok(())
}

fn turn(host: &Host, id: &str, verb: &str) -> std::result::Result<Sandbox, CallError> {
    host.call(Method::POST, &format!("/v1/sandboxes/{id}/{verb}"), None::<&Value>)
}

/// Firecracker's own word for what the guest does.
fn state_in_firecracker(host: &Host, id: &str) -> Result<String> {
    let socket = host.dir.path().join("vms").join(id).join("api.sock");
    let answer = other_client(socket, Method::GET, "/", &Value::Null)?;
    let instance: Value = serde_json::from_slice(&answer.body)?;
    Ok(instance["state"].as_str().ok_or("no state")?.to_owned())
}

fn user_pause() -> Outcome {
    let host = Host::start()?;
    host.boot("base")?;
    let id = host.fork("base")?.id;
    let mut memory = Memory::default();
    host.guest(&id, "dirty 1024 50 3")?;
    memory.dirty(FIRST_PAGE, 50, 3);
    for _ in 0..2 {
        assert_eq!(turn(&host, &id, "pause")?.state, SandboxState::Paused);
    }
    for mode in [BranchMode::Diff, BranchMode::Full] {
        let tag = format!("{mode:?}");
        let request = BranchRequest { tag: Some(tag), mode: Some(mode), ..BranchRequest::default() };
        let branch = host.branch(&id, &request)?;
        let create = branch.phases.iter().find(|span| span.phase.name() == "create").ok_or("no create")?;
        assert_eq!(branch.pause_ns, create.ns);
        assert_eq!(state_in_firecracker(&host, &id)?, "Paused");
        assert_eq!(host.sandbox(&id)?.state, SandboxState::Paused);
        let child = host.fork(&branch.tag)?;
        assert_eq!(host.guest(&child.id, "sum 1024 50")?, format!("{:016x}", memory.sum(FIRST_PAGE, 50)));
        host.require_running(&child.id)?;
    }
    for _ in 0..2 {
        assert_eq!(turn(&host, &id, "resume")?.state, SandboxState::Running);
    }
    host.require_running(&id)?;
    // Paused by somebody else: its user may still resume it.
    let socket = host.dir.path().join("vms").join(&id).join("api.sock");
    other_client(socket, Method::PATCH, "/vm", &json!({ "state": "Paused" }))?;
    turn(&host, &id, "resume")?;
    host.require_running(&id)?;
    refused(turn(&host, "sb-000000000000", "pause"), 404)?;
    Ok(())
}

fn pause_race() -> Outcome {
    let host = Host::start()?;
    host.boot("base")?;
    for _ in 0..3 {
        let id = host.fork("base")?.id;
        let (branched, refusals) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let call = |path: String, body: Value| -> std::result::Result<u16, String> {
            let answer = other_client(host.socket(), Method::POST, &path, &body);
            let answer = answer.map_err(|error| error.to_string())?;
            let status = answer.status.as_u16();
            match status {
                200 | 409 => {}
                201 => drop(branched.fetch_add(1, Ordering::Relaxed)),
                _ => return Err(format!("{path}: {status} {:?}", answer.body)),
            }
            refusals.fetch_add(usize::from(status == 409), Ordering::Relaxed);
            Ok(status)
        };
        let wrong: Vec<String> = thread::scope(|scope| {
            let clients: Vec<_> = (0..12)
                .map(|client| {
                    let (id, call) = (&id, &call);
                    scope.spawn(move || {
                        (0..8).find_map(|_| {
                            let outcome = match client % 3 {
                                0 => call(format!("/v1/sandboxes/{id}/pause"), Value::Null),
                                1 => call(format!("/v1/sandboxes/{id}/resume"), Value::Null),
                                _ => call(format!("/v1/sandboxes/{id}/branch"), json!({ "mode": "diff" })),
                            };
                            outcome.err()
                        })
                    })
                })
                .collect();
            clients.into_iter().filter_map(|client| client.join().ok().flatten()).collect()
        });
        assert_eq!(wrong, Vec::<String>::new());
        assert!(branched.into_inner() > 0, "no BRANCH succeeded");
        // What the daemon says, Firecracker does.
        let paused = host.sandbox(&id)?.state == SandboxState::Paused;
        assert_eq!(state_in_firecracker(&host, &id)?, if paused { "Paused" } else { "Running" });
        turn(&host, &id, "resume")?;
        host.require_running(&id)?;
        end_among_pauses(&host, &id)?;
    }
    Ok(())
}

/// Ends a sandbox while others pause and resume it: each is answered, and nothing is left.
fn end_among_pauses(host: &Host, id: &str) -> Result<()> {
    let socket = host.socket();
    thread::scope(|scope| {
        for verb in ["pause", "resume", "branch", "pause"] {
            let (socket, path) = (socket.clone(), format!("/v1/sandboxes/{id}/{verb}"));
            scope.spawn(move || {
                let asked = Instant::now();
                while asked.elapsed() < Duration::from_secs(20)
                    && other_client(socket.clone(), Method::POST, &path, &json!({}))
                        .is_ok_and(|answer| answer.status != 404)
                {}
            });
        }
        sleep(Duration::from_millis(30));
        host.end(id)
    })?;
    assert!(!host.dir.path().join("vms").join(id).exists());
    Ok(())
}

/// Boots the built-in guest, as a kernel, with a writable drive of `contents`.
pub fn boot_with_drive(host: &Host, tag: &str, contents: &[u8]) -> Result<()> {
    let (kernel, image) = (host.dir.path().join("guest.elf"), host.dir.path().join("rootfs.ext4"));
    fs::write(&kernel, guest::IMAGE)?;
    fs::write(&image, contents)?;
    let request = json!({
        "tag": tag, "mem_mib": 32, "kernel": kernel, "rootfs": image, "rootfs_mode": "per-sandbox", "boot_wait_ms": 300,
    });
    let snapshot: Value = host.call(Method::POST, "/v1/snapshots", Some(&request))?;
    assert_eq!(snapshot["drive_bytes"], contents.len());
    // The children do not need the image.
    fs::remove_file(&image)?;
    Ok(())
}

pub fn drive_of(host: &Host, id: &str) -> PathBuf {
    host.root().join(".drives").join(id)
}

/// The file that a sandbox's Firecracker has open as its drive.
fn open_drive(pid: u32) -> Result<PathBuf> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd"))?;
    let open = fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    Ok(open.into_iter().find(|path| path.to_string_lossy().contains(".drives")).ok_or("no drive is open")?)
}

pub fn pattern(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at / 512) as u8 ^ (at as u8).wrapping_mul(seed)).collect()
}

fn drives() -> Outcome {
    let dir = tempfile::Builder::new().prefix("forkd-e2e-").tempdir()?;
    let root = dir.path().join("snapshots");
    let mut host = Host::start_with(dir, root, &["--on-exit", "keep"])?;
    drives_on(&mut host).map_err(|error| error.to_string())?;
    Ok(())
}

fn drives_on(host: &mut Host) -> Result<()> {
    let mut contents = pattern(3, 3 << 20);
    boot_with_drive(host, "base", &contents)?;
    assert!(fs::read(host.root().join("base/drive.img"))? == contents, "another drive than was booted with");
    let source = host.fork("base")?;
    assert_eq!(open_drive(source.pid)?, drive_of(host, &source.id));
    let mut children = Vec::new();
    for (n, mode) in [BranchMode::Full, BranchMode::Diff, BranchMode::Diff].into_iter().enumerate() {
        // As the guest's writes reach the file: through Firecracker's own page cache.
        let written = pattern(20 + n as u8, 8192);
        let at = (n + 1) * 65_536;
        File::options().write(true).open(drive_of(host, &source.id))?.write_all_at(&written, at as u64)?;
        contents[at..at + written.len()].copy_from_slice(&written);
        let tag = format!("b{n}");
        let request = BranchRequest { tag: Some(tag.clone()), mode: Some(mode), ..BranchRequest::default() };
        let branch = host.branch(&source.id, &request)?;
        assert!(branch.drive_copy_ns > 0 && branch.drive_copy_ns <= branch.pause_ns, "{branch:?}");
        children.push((tag, contents.clone()));
    }
    // The drive outlives the daemon, as its sandbox does.
    host.signal_daemon(Signal::TERM)?;
    host.restart()?;
    host.require_running(&source.id)?;
    assert_eq!(open_drive(source.pid)?, drive_of(host, &source.id));
    // What the source writes after a pause is in no snapshot before it.
    File::options().write(true).open(drive_of(host, &source.id))?.write_all_at(&[0xff; 4096], 0)?;
    host.call::<Value>(Method::POST, "/v1/snapshots/b2/compact", None::<&Value>)?;
    for (tag, expected) in children {
        let child = host.fork(&tag)?;
        assert_eq!(open_drive(child.pid)?, drive_of(host, &child.id));
        assert!(fs::read(drive_of(host, &child.id))? == expected, "{tag}: another drive than at its pause");
        host.require_running(&child.id)?;
        host.end(&child.id)?;
        assert!(!drive_of(host, &child.id).exists());
    }
    // A drive whose sandbox is no more goes when the daemon starts.
    host.end(&source.id)?;
    assert_eq!(fs::read_dir(host.root().join(".drives"))?.count(), 0);
    Ok(())
}

fn damaged_drive() -> Outcome {
    let mut host = Host::start()?;
    boot_with_drive(&host, "base", &pattern(7, 1 << 20))?;
    let path = host.root().join("base/drive.img");
    File::options().write(true).open(&path)?.write_all_at(b"x", 70_000)?;
    let message = refused(fork(&host, &CreateSandboxes::new("base", 1)), 409)?;
    assert!(message.contains("drive.img has the digest"), "{message}");
    let reason = || -> Result<String> {
        let snapshots: Vec<Snapshot> =
            host.call(Method::GET, "/v1/snapshots?damaged=true", None::<&Value>)?;
        let shown: SnapshotDetail = host.call(Method::GET, "/v1/snapshots/base", None::<&Value>)?;
        assert_eq!(snapshots[0].not_bootable_because, shown.not_bootable_because);
        Ok(shown.not_bootable_because.unwrap_or_default())
    };
    assert!(reason()?.contains("drive.img has the digest"), "{}", reason()?);
    File::options().write(true).open(&path)?.set_len(4096)?;
    let message = refused(fork(&host, &CreateSandboxes::new("base", 1)), 409)?;
    assert!(message.contains("drive.img has 4096 bytes instead of 1048576"), "{message}");
    assert!(reason()?.contains("drive.img has 4096 bytes"), "{}", reason()?);
    fs::write(host.root().join(".drives/sb-0123456789ab"), b"left by a crash")?;
    host.crash_and_restart()?;
    assert_eq!(fs::read_dir(host.root().join(".drives"))?.count(), 0);
    Ok(())
}

fn copied_drive() -> Outcome {
    let dir = tempfile::tempdir()?;
    let ext4 = testkit::LoopExt4::mount(dir.path(), 256, "")?;
    let host = Host::start_at(tempfile::tempdir()?, ext4.path().join("snapshots"))?;
    boot_with_drive(&host, "base", &pattern(5, 1 << 20))?;
    let source = host.fork("base")?;
    let branch = host.branch(&source.id, &BranchRequest::default())?;
    assert!(branch.warnings.iter().any(|said| said.contains("copied inside the pause")), "{branch:?}");
    Ok(())
}

/// Changes fields of a snapshot's manifest that are no part of what the snapshot is. Its checksum is made right.
fn edit_manifest(root: &Path, tag: &str, edit: impl FnOnce(&mut Value)) -> Result<()> {
    let path = root.join(tag).join("manifest.json");
    let mut fields = serde_json::to_value(Manifest::decode(&fs::read(&path)?)?)?;
    edit(&mut fields);
    let manifest: Manifest = serde_json::from_value(fields)?;
    Ok(fs::write(path, manifest.encode()?)?)
}

fn other_origin() -> Outcome {
    let host = Host::start()?;
    host.boot("base")?;
    let manifest: Value = serde_json::from_slice(&fs::read(host.root().join("base/manifest.json"))?)?;
    assert!(manifest["cpu"]["vendor"].is_string() && manifest["snapshot_format"].is_string(), "{manifest}");
    let show = || host.call::<SnapshotDetail>(Method::GET, "/v1/snapshots/base", None::<&Value>);
    assert!(show()?.bootable);
    type Edit = fn(&mut Value);
    let edits: [(&str, Edit); 3] = [
        ("written by Firecracker 1.99.0", |manifest| manifest["firecracker"] = json!("1.99.0")),
        ("its state has the format 99.0.0", |manifest| manifest["snapshot_format"] = json!("99.0.0")),
        ("taken on a CPU Elbrus family", |manifest| manifest["cpu"]["vendor"] = json!("Elbrus")),
    ];
    for (expected, edit) in edits {
        edit_manifest(host.root(), "base", edit)?;
        let message = refused(fork(&host, &CreateSandboxes::new("base", 1)), 409)?;
        assert!(message.contains(expected) && message.contains("force"), "{message}");
        let shown = show()?;
        assert!(!shown.bootable);
        assert!(shown.not_bootable_because.as_ref().is_some_and(|reason| reason.contains(expected)));
        assert_eq!(host.snapshots()?[0].not_bootable_because, shown.not_bootable_because);
    }
    let forced = CreateSandboxes { force: true, ..CreateSandboxes::new("base", 1) };
    let child = fork(&host, &forced)?.pop().ok_or("no child")?;
    host.require_running(&child.id)?;
    assert!(!guest_memory(child.pid)?.is_empty());
    // A snapshot without them says nothing against it; and a BRANCH of the child was taken here.
    edit_manifest(host.root(), "base", |manifest| {
        manifest["firecracker"] = json!("1.12.0");
        if let Some(fields) = manifest.as_object_mut() {
            fields.remove("cpu");
            fields.remove("snapshot_format");
        }
    })?;
    assert!(show()?.bootable);
    host.branch(&child.id, &BranchRequest { tag: Some("here".into()), ..BranchRequest::default() })?;
    host.require_running(&host.fork("here")?.id)?;
    Ok(())
}

fn unsupported() -> Outcome {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir()?;
    let old = dir.path().join("firecracker");
    fs::write(&old, "#!/bin/sh\necho 'Firecracker v1.3.0'\n")?;
    fs::set_permissions(&old, fs::Permissions::from_mode(0o755))?;
    let output = Command::new(env!("CARGO_BIN_EXE_forkd"))
        .arg("serve")
        .arg("--socket")
        .arg(dir.path().join("sock"))
        .arg("--run-dir")
        .arg(dir.path().join("vms"))
        .arg("--snapshot-root")
        .arg(dir.path().join("snapshots"))
        .arg("--firecracker")
        .arg(&old)
        .output()?;
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("Firecracker 1.3.0") && said.contains("--allow-unsupported-firecracker"), "{said}");
    let host = Host::start_with(
        tempfile::tempdir()?,
        dir.path().join("snapshots"),
        &["--allow-unsupported-firecracker"],
    )?;
    let version: Value = host.call(Method::GET, "/version", None::<&Value>)?;
    assert!(
        ["tested", "accepted", "unsupported"]
            .contains(&version["firecracker_support"].as_str().unwrap_or(""))
    );
    Ok(())
}
