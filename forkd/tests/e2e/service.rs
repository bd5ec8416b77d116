//! Sandboxes live on when their daemon does not, and no guest stands still because of it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use forkd::api::{BranchMode, BranchRequest, DataPath, Sandbox, SandboxState};
use forkd::clock::monotonic_ns;
use forkd::vmm::identity::Identity;
use guest::FIRST_PAGE;
use guest::model::Memory;
use hyper::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use testkit::{Need, Outcome, Test};

use crate::gate::{Gate, REQUESTS};
use crate::host::{Host, NEEDS, Result, firecrackers_below, other_client};

pub const TESTS: &[Test] = &[
    Test { name: "service::sandboxes_outlive_a_stopped_daemon", needs: NEEDS, run: stopped },
    Test { name: "service::sandboxes_outlive_a_killed_daemon", needs: NEEDS, run: killed },
    Test {
        name: "service::a_daemon_killed_at_any_step_of_a_pause_leaves_the_guest_running",
        needs: NEEDS,
        run: killed_at_each_step,
    },
    Test {
        name: "service::without_the_watchdog_the_next_daemon_resumes_the_guest",
        needs: NEEDS,
        run: killed_with_watchdog,
    },
    Test {
        name: "service::a_daemon_killed_while_firecracker_writes_leaves_the_guest_running",
        needs: NEEDS,
        run: killed_in_flight,
    },
    Test { name: "service::a_pause_that_outlasts_its_lease_is_ended", needs: NEEDS, run: lease },
    Test { name: "service::a_watchdog_that_ends_is_replaced", needs: NEEDS, run: watchdog_killed },
    Test { name: "service::a_guest_that_its_user_paused_stays_paused", needs: NEEDS, run: paused_by_user },
    Test { name: "service::what_cannot_be_adopted_is_cleared_away", needs: NEEDS, run: not_adopted },
    Test { name: "service::a_console_that_nobody_reads_does_not_hold_the_guest", needs: NEEDS, run: flood },
    Test { name: "service::a_signal_waits_for_the_branch_under_way", needs: NEEDS, run: signal_in_a_branch },
    Test { name: "service::ctrl_c_ends_the_sandboxes_that_sigterm_keeps", needs: NEEDS, run: which_signal },
    Test { name: "service::options_have_one_precedence", needs: &[], run: options },
    Test { name: "service::the_log_can_be_json", needs: NEEDS, run: json_log },
    Test { name: "service::the_service_manager_is_told", needs: NEEDS, run: notify },
    Test { name: "service::the_systemd_unit_is_valid", needs: &[Need::SystemdAnalyze], run: unit },
];

/// How soon a guest must run again after a fault, or after the return of the Firecracker call in flight.
fn target() -> Duration {
    Duration::from_millis(250) * testkit::slowness()
}

const KEEP: &[&str] = &["--on-exit", "keep"];

fn diff(tag: &str) -> BranchRequest {
    BranchRequest { tag: Some(tag.into()), mode: Some(BranchMode::Diff), ..BranchRequest::default() }
}

fn host_with(arguments: &[&str]) -> Result<Host> {
    let dir = tempfile::Builder::new().prefix("forkd-e2e-").tempdir()?;
    let root = dir.path().join("snapshots");
    Host::start_with(dir, root, arguments)
}

/// A daemon whose Firecrackers are behind a gate.
fn gated_host(arguments: &[&str]) -> Result<(Host, Gate)> {
    let dir = tempfile::Builder::new().prefix("forkd-e2e-").tempdir()?;
    let gate = Gate::new(dir.path())?;
    let root = dir.path().join("snapshots");
    let program = gate.program.display().to_string();
    let arguments = [&["--firecracker", &program], KEEP, arguments].concat();
    Ok((Host::start_with(dir, root, &arguments)?, gate))
}

/// Waits, without any daemon, until the guest answers a `beat` that is sent now. Returns how long that took.
fn beat_without_a_daemon(run_dir: &Path) -> Result<Duration> {
    let begun = Instant::now();
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let mut output =
        File::options().read(true).custom_flags(nonblocking).open(run_dir.join("console.out"))?;
    File::options().write(true).open(run_dir.join("console.in"))?.write_all(b"beat\n")?;
    let mut said = String::new();
    let mut buffer = [0; 4096];
    while !said.contains("ok beat ") {
        match output.read(&mut buffer) {
            Ok(bytes) => said.push_str(&String::from_utf8_lossy(&buffer[..bytes])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(Duration::from_millis(1)),
            Err(error) => return Err(error.into()),
        }
        if begun.elapsed() > Duration::from_secs(20) {
            return Err(format!("the guest does not answer; it said {said:?}").into());
        }
    }
    Ok(begun.elapsed())
}

/// Checks that `id` holds exactly `memory` in the pages that the tests touch.
fn require_memory(host: &Host, id: &str, memory: &Memory) -> Result<()> {
    let sum = host.guest(id, &format!("sum {FIRST_PAGE} 400"))?;
    assert_eq!(sum, format!("{:016x}", memory.sum(FIRST_PAGE, 400)), "{id}");
    Ok(())
}

/// A sandbox that has been BRANCHed once and dirtied since, and what its memory holds.
fn prepare(host: &Host) -> Result<(Sandbox, Memory)> {
    let mut memory = Memory::default();
    host.boot("base")?;
    let source = host.fork("base")?;
    host.guest(&source.id, "dirty 1024 300 1")?;
    memory.dirty(FIRST_PAGE, 300, 1);
    host.branch(&source.id, &diff("one"))?;
    host.guest(&source.id, "dirty 1030 5 2")?;
    memory.dirty(1030, 5, 2);
    Ok((host.sandbox(&source.id)?, memory))
}

/// The sandbox is what it was, and both kinds of BRANCH of it are exact, though the daemon through whose open
/// files it was restored is gone.
fn require_adopted(host: &Host, before: &Sandbox, memory: &mut Memory) -> Result<()> {
    assert_eq!(&host.sandbox(&before.id)?, before);
    host.require_running(&before.id)?;
    require_memory(host, &before.id, memory)?;
    let branch = host.branch(&before.id, &diff("two"))?;
    assert_eq!((branch.mode, branch.warnings.as_slice()), (BranchMode::Diff, [].as_slice()));
    require_memory(host, &host.fork("two")?.id, memory)?;
    host.guest(&before.id, "dirty 1200 3 3")?;
    memory.dirty(1200, 3, 3);
    let request = BranchRequest { data_path: Some(DataPath::Naive), ..diff("three") };
    assert_eq!(host.branch(&before.id, &request)?.mode, BranchMode::Diff);
    require_memory(host, &host.fork("three")?.id, memory)?;
    let full = BranchRequest { tag: Some("full".into()), ..BranchRequest::default() };
    host.branch(&before.id, &full)?;
    require_memory(host, &host.fork("full")?.id, memory)?;
    assert_eq!(host.sandbox(&before.id)?.branches, before.branches + 3);
    host.end(&before.id)?;
    assert!(!host.run_dir(&before.id).exists());
    Ok(())
}

fn stopped() -> Outcome {
    let mut host = host_with(KEEP)?;
    let (source, mut memory) = prepare(&host)?;
    host.signal_daemon(Signal::TERM)?;
    host.restart()?;
    Ok(require_adopted(&host, &source, &mut memory)?)
}

fn killed() -> Outcome {
    let mut host = host_with(KEEP)?;
    let (source, mut memory) = prepare(&host)?;
    host.crash_and_restart()?;
    Ok(require_adopted(&host, &source, &mut memory)?)
}

/// Asks for a BRANCH on a thread of its own; its answer is of no interest.
fn branch_meanwhile(host: &Host, id: &str, tag: &str) {
    let (socket, path, request) = (host.socket(), format!("/v1/sandboxes/{id}/branch"), diff(tag));
    std::thread::spawn(move || other_client(socket, Method::POST, &path, &request));
}

/// After a crash in the middle of a BRANCH: no tag of it, a full BRANCH next, and every byte right.
fn require_converged(host: &Host, id: &str, tag: &str, memory: &mut Memory) -> Result<()> {
    host.require_running(id)?;
    assert_eq!(host.sandbox(id)?.state, SandboxState::Running);
    assert!(host.snapshots()?.iter().all(|snapshot| snapshot.tag != tag), "{tag} is there");
    host.guest(id, "dirty 1300 2 9")?;
    memory.dirty(1300, 2, 9);
    let after = format!("after-{tag}");
    let branch = host.branch(id, &diff(&after))?;
    assert_eq!(branch.mode, BranchMode::Full, "{tag}");
    require_memory(host, &host.fork(&after)?.id, memory)
}

fn killed_at_each_step() -> Outcome {
    let (mut host, gate) = gated_host(&[])?;
    let (source, mut memory) = prepare(&host)?;
    for (request, _) in REQUESTS {
        for when in ["before", "after"] {
            let tag = format!("cut-{request}-{when}");
            gate.hold(request, when)?;
            branch_meanwhile(&host, &source.id, &tag);
            gate.wait_until_held()?;
            host.signal_daemon(Signal::KILL)?;
            let gap = beat_without_a_daemon(&host.run_dir(&source.id))?;
            println!("killed {when} Firecracker's {request}: the guest ran within {} ms", gap.as_millis());
            assert!(gap < target(), "{tag}: the guest stood still for {} ms", gap.as_millis());
            host.restart()?;
            require_converged(&host, &source.id, &tag, &mut memory)?;
        }
    }
    Ok(())
}

/// The watchdog of a daemon: its child of that name.
fn watchdog_of(daemon: u32) -> Result<Pid> {
    let children = fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children"))?;
    let others = fs::read_dir(format!("/proc/{daemon}/task"))?
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    let pids: Vec<String> = others.chain([children]).collect();
    pids.iter()
        .flat_map(|pids| pids.split_whitespace())
        .find(|pid| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            arguments.starts_with(b"forkd\0watchdog")
        })
        .and_then(|pid| Pid::from_raw(pid.parse().ok()?))
        .ok_or_else(|| "the daemon has no watchdog".into())
}

fn killed_with_watchdog() -> Outcome {
    let (mut host, gate) = gated_host(&[])?;
    let (source, mut memory) = prepare(&host)?;
    gate.hold("create", "after")?;
    branch_meanwhile(&host, &source.id, "cut");
    gate.wait_until_held()?;
    kill_process(watchdog_of(host.daemon_pid())?, Signal::KILL)?;
    host.signal_daemon(Signal::KILL)?;
    sleep(target());
    let state = instance(&host, &source.id)?;
    assert_eq!(state, "Paused", "somebody resumed it");
    host.restart()?;
    Ok(require_converged(&host, &source.id, "cut", &mut memory)?)
}

/// What Firecracker itself says that the microVM does.
fn instance(host: &Host, id: &str) -> Result<String> {
    let answer = other_client(host.run_dir(id).join("api.sock"), Method::GET, "/", &Value::Null)?;
    let info: Value = serde_json::from_slice(&answer.body)?;
    Ok(info["state"].as_str().unwrap_or_default().to_owned())
}

fn killed_in_flight() -> Outcome {
    let (mut host, gate) = gated_host(&[])?;
    // Large enough that Firecracker writes for a while.
    let request = json!({ "tag": "large", "mem_mib": 512 });
    host.call::<Value>(Method::POST, "/v1/snapshots", Some(&request))?;
    let source = host.fork("large")?.id;
    let (socket, path) = (host.socket(), format!("/v1/sandboxes/{source}/branch"));
    let request = json!({ "tag": "cut", "mode": "full", "data_path": "naive" });
    gate.hold("create", "before")?;
    std::thread::spawn(move || other_client(socket, Method::POST, &path, &request));
    gate.wait_until_held()?;
    gate.release()?;
    sleep(Duration::from_millis(20));
    host.signal_daemon(Signal::KILL)?;
    let killed_ns = monotonic_ns();
    beat_without_a_daemon(&host.run_dir(&source))?;
    let ran_ns = monotonic_ns();
    let returned_ns = gate.answered_ns("create")?.max(killed_ns);
    let gap = Duration::from_nanos(ran_ns.saturating_sub(returned_ns));
    println!(
        "killed {} ms before Firecracker's call returned; the guest ran {} ms after that",
        (returned_ns - killed_ns) / 1_000_000,
        gap.as_millis()
    );
    assert!(gap < target(), "the guest stood still for {} ms more", gap.as_millis());
    host.restart()?;
    host.require_running(&source)?;
    Ok(())
}

fn is_stopped(pid: u32) -> Result<bool> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = fs::read_to_string(thread?.path().join("stat"))?;
        if !stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('T')) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn lease() -> Outcome {
    const LEASE: Duration = Duration::from_millis(1000);
    let (host, gate) = gated_host(&["--pause-lease-ms", "1000"])?;
    let (source, memory) = prepare(&host)?;
    // Stopped before its snapshot is begun, and after it is written.
    for (request, status) in [("pause", 500), ("create", 201)] {
        let (socket, path) = (host.socket(), format!("/v1/sandboxes/{}/branch", source.id));
        let body = diff(&format!("late-{request}"));
        gate.hold(request, "after")?;
        let branch = std::thread::spawn(move || {
            other_client(socket, Method::POST, &path, &body).map(|answer| answer.status.as_u16()).ok()
        });
        gate.wait_until_held()?;
        host.signal_daemon(Signal::STOP)?;
        // Each thread stops when it gets to it: none may see what is let through now.
        while !is_stopped(host.daemon_pid())? {
            sleep(Duration::from_millis(1));
        }
        gate.release()?;
        let gap = beat_without_a_daemon(&host.run_dir(&source.id));
        host.signal_daemon(Signal::CONT)?;
        let gap = gap?;
        println!(
            "stopped after {request}: the guest ran within {} ms of a lease of 1000 ms",
            gap.as_millis()
        );
        assert!(gap < LEASE + target(), "{request}: the guest stood still for {} ms", gap.as_millis());
        assert_eq!(branch.join().map_err(|_| "it panicked")?, Some(status), "{request}");
        host.require_running(&source.id)?;
    }
    assert!(host.log().contains("the pause has outlasted its lease"), "{}", host.log());
    require_memory(&host, &host.fork("late-create")?.id, &memory)?;
    assert!(host.snapshots()?.iter().all(|snapshot| snapshot.tag != "late-pause"));
    Ok(())
}

fn watchdog_killed() -> Outcome {
    let (mut host, gate) = gated_host(&[])?;
    let (source, mut memory) = prepare(&host)?;
    let first = watchdog_of(host.daemon_pid())?;
    gate.hold("create", "after")?;
    branch_meanwhile(&host, &source.id, "cut");
    gate.wait_until_held()?;
    kill_process(first, Signal::KILL)?;
    let begun = Instant::now();
    let second = loop {
        match watchdog_of(host.daemon_pid()) {
            Ok(pid) if pid != first => break pid,
            _ if begun.elapsed() > Duration::from_secs(20) => return Err("no other watchdog came".into()),
            _ => sleep(Duration::from_millis(5)),
        }
    };
    assert!(host.log().contains("the watchdog has ended"), "{}", host.log());
    // It knows of the pause that began before it did.
    sleep(target());
    host.signal_daemon(Signal::KILL)?;
    let gap = beat_without_a_daemon(&host.run_dir(&source.id))?;
    assert!(gap < target(), "the guest stood still for {} ms", gap.as_millis());
    let begun = Instant::now();
    while fs::exists(format!("/proc/{}/exe", second.as_raw_nonzero()))? {
        if begun.elapsed() > Duration::from_secs(5) {
            return Err("the watchdog stays with nothing left to watch".into());
        }
        sleep(Duration::from_millis(5));
    }
    host.restart()?;
    Ok(require_converged(&host, &source.id, "cut", &mut memory)?)
}

fn paused_by_user() -> Outcome {
    let mut host = host_with(KEEP)?;
    let (source, memory) = prepare(&host)?;
    let pause = json!({ "state": "Paused" });
    let socket = host.run_dir(&source.id).join("api.sock");
    assert_eq!(other_client(socket.clone(), Method::PATCH, "/vm", &pause)?.status, 204);
    host.crash_and_restart()?;
    assert_eq!(instance(&host, &source.id)?, "Paused");
    // Also where the record says that a BRANCH was under way.
    host.signal_daemon(Signal::KILL)?;
    change_record(&host, &source.id, |record| {
        record["branching"] = true.into();
        record["paused_by_user"] = true.into();
    })?;
    host.restart()?;
    assert_eq!(instance(&host, &source.id)?, "Paused");
    other_client(socket, Method::PATCH, "/vm", &json!({ "state": "Resumed" }))?;
    Ok(require_memory(&host, &source.id, &memory)?)
}

fn change_record(host: &Host, id: &str, change: impl FnOnce(&mut Value)) -> Result<()> {
    let path = host.run_dir(id).join("sandbox.json");
    let mut record = serde_json::from_slice(&fs::read(&path)?)?;
    change(&mut record);
    Ok(fs::write(path, record.to_string())?)
}

fn not_adopted() -> Outcome {
    let mut host = host_with(KEEP)?;
    host.boot("base")?;
    let [other, dead, dumb, half, foreign, fine] = {
        let mut forked = Vec::new();
        for _ in 0..6 {
            forked.push(host.fork("base")?);
        }
        <[Sandbox; 6]>::try_from(forked).map_err(|_| "not six")?
    };
    let lives = |sandbox: &Sandbox| {
        fs::read(format!("/proc/{}/cmdline", sandbox.pid)).is_ok_and(|line| !line.is_empty())
    };
    host.signal_daemon(Signal::TERM)?;
    host.wait()?;
    // Another process has its number: that one is not touched.
    for file in ["sandbox.json", "process.json"] {
        let path = host.run_dir(&other.id).join(file);
        let text = fs::read_to_string(&path)?.replace("\"start_ticks\":", "\"start_ticks\":1");
        fs::write(path, text)?;
    }
    // Its memory goes first: it has ended only when its last thread has.
    let dying = Identity::of(dead.pid)?;
    kill_process(Pid::from_raw(dead.pid as i32).ok_or("no pid")?, Signal::KILL)?;
    let begun = Instant::now();
    while dying.open().is_some() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it survives a SIGKILL");
        sleep(Duration::from_millis(5));
    }
    fs::remove_file(host.run_dir(&dumb.id).join("console.in"))?;
    fs::remove_file(host.run_dir(&half.id).join("sandbox.json"))?;
    change_record(&host, &foreign.id, |record| record["schema"] = "forkd.sandbox/9".into())?;
    host.restart()?;
    let listed: Vec<Sandbox> = host.call(Method::GET, "/v1/sandboxes", None::<&Value>)?;
    assert_eq!(listed.iter().map(|sandbox| &sandbox.id).collect::<Vec<_>>(), [&fine.id]);
    host.require_running(&fine.id)?;
    let begun = Instant::now();
    while lives(&dumb) || lives(&half) {
        assert!(begun.elapsed() < Duration::from_secs(10), "what cannot be adopted runs on");
        sleep(Duration::from_millis(5));
    }
    assert!(lives(&foreign) && host.run_dir(&foreign.id).exists(), "another version's sandbox was ended");
    let spared = lives(&other);
    let _ = kill_process(Pid::from_raw(other.pid as i32).ok_or("no pid")?, Signal::KILL);
    assert!(spared, "a process with another start time was killed");
    for given_up in [&other, &dead, &dumb, &half] {
        assert!(!host.run_dir(&given_up.id).exists());
        assert!(host.log().contains(&given_up.id), "{} is not reported", given_up.id);
    }
    Ok(())
}

fn flood() -> Outcome {
    let mut host = host_with(KEEP)?;
    let (source, memory) = prepare(&host)?;
    host.signal_daemon(Signal::KILL)?;
    host.wait()?;
    // 10 bytes and more for each answer, which fills a pipe of 64 KiB more than once.
    let path = host.run_dir(&source.id).join("console.in");
    let mut input = File::options().read(true).write(true).open(path)?;
    for _ in 0..10_000 {
        input.write_all(b"beat\n")?;
    }
    let begun = Instant::now();
    while rustix::io::ioctl_fionread(&input)? > 0 {
        if begun.elapsed() > Duration::from_secs(30) * testkit::slowness() {
            return Err("the guest does not read on".into());
        }
        sleep(Duration::from_millis(5));
    }
    drop(input);
    host.restart()?;
    // Firecracker's own buffer holds the last of what did not fit, and lets go of it with the next output.
    let console = format!("/v1/sandboxes/{}/console", source.id);
    for (write, until) in [("pages\n", "ok pages"), ("", "\n")] {
        let request = json!({ "write": write, "until": until, "timeout_ms": 20_000 });
        let answer: Value = host.call(Method::POST, &console, Some(&request))?;
        assert_eq!(answer["matched"], true, "{answer}");
    }
    host.require_running(&source.id)?;
    Ok(require_memory(&host, &source.id, &memory)?)
}

fn signal_in_a_branch() -> Outcome {
    let (mut host, gate) = gated_host(&[])?;
    let (source, memory) = prepare(&host)?;
    let (socket, path) = (host.socket(), format!("/v1/sandboxes/{}/branch", source.id));
    gate.hold("create", "before")?;
    let branch = std::thread::spawn(move || {
        other_client(socket, Method::POST, &path, &diff("last")).map(|answer| answer.status.as_u16()).ok()
    });
    gate.wait_until_held()?;
    host.signal_daemon(Signal::TERM)?;
    sleep(target());
    gate.release()?;
    assert_eq!(branch.join().map_err(|_| "it panicked")?, Some(201));
    host.restart()?;
    require_memory(&host, &host.fork("last")?.id, &memory)?;
    assert_eq!(host.branch(&source.id, &diff("next"))?.mode, BranchMode::Diff);
    Ok(())
}

/// A daemon in `dir` as it is without any option but where things are.
fn plain_daemon(dir: &Path) -> Result<Command> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forkd"));
    command.arg("serve").env_remove("FORKD_ON_EXIT").stderr(Stdio::null());
    for (option, name) in
        [("--socket", "sock"), ("--run-dir", "vms"), ("--snapshot-root", "snapshots"), ("--data-dir", "data")]
    {
        command.arg(option).arg(dir.join(name));
    }
    command.env("FORKD_FIRECRACKER", testkit::firecracker().ok_or("no firecracker")?);
    Ok(command)
}

fn which_signal() -> Outcome {
    let dir = tempfile::Builder::new().prefix("forkd-e2e-").tempdir()?;
    let socket = dir.path().join("sock");
    let mut pids = Vec::new();
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = plain_daemon(dir.path())?.spawn()?;
        let begun = Instant::now();
        while other_client(socket.clone(), Method::GET, "/healthz", &Value::Null).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10), "the daemon does not answer");
            sleep(Duration::from_millis(5));
        }
        if signal == Signal::TERM {
            other_client(
                socket.clone(),
                Method::POST,
                "/v1/snapshots",
                &json!({ "tag": "b", "mem_mib": 32 }),
            )?;
            other_client(
                socket.clone(),
                Method::POST,
                "/v1/sandboxes",
                &json!({ "snapshot_tag": "b", "n": 2 }),
            )?;
        }
        kill_process(Pid::from_child(&daemon), signal)?;
        assert!(daemon.wait()?.success());
        pids.push(firecrackers_below(dir.path())?.len());
    }
    assert_eq!(pids, [2, 0]);
    Ok(())
}

fn options() -> Outcome {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("forkd.toml");
    fs::write(&file, "images_mib = 1\nstaging_mib = 2\npause_lease_ms = 3\n")?;
    let forkd = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forkd"));
        command.arg("serve").arg("--config").arg(&file).args(arguments).env_remove("FORKD_FIRECRACKER");
        command.envs(environment.iter().copied()).output()
    };
    let environment = [("FORKD_IMAGES_MIB", "4"), ("FORKD_STAGING_MIB", "5")];
    let output = forkd(&["--print-config", "--images-mib", "6"], &environment)?;
    let printed = String::from_utf8(output.stdout)?;
    let from_file = format!("pause_lease_ms = 3  # {}:3", file.display());
    for line in
        ["images_mib = 6  # --images-mib", "staging_mib = 5  # environment FORKD_STAGING_MIB", &from_file]
    {
        assert!(printed.lines().any(|printed| printed == line), "{line} is not in\n{printed}");
    }
    fs::write(&file, "images_mib = 1\nsnapshot_rot = \"/x\"\n")?;
    let output = forkd(&[], &[])?;
    let said = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("forkd.toml:2: no option is called 'snapshot_rot'"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    Ok(())
}

fn json_log() -> Outcome {
    let host = host_with(&["--log-format", "json"])?;
    host.boot("base")?;
    let source = host.fork("base")?.id;
    host.guest(&source, "dirty 1024 3 1")?;
    host.call::<()>(Method::DELETE, "/v1/snapshots/base", None::<&()>)?;
    host.branch(&source, &diff("one"))?;
    let events: Vec<Value> =
        host.log().lines().map(serde_json::from_str).collect::<std::result::Result<_, _>>()?;
    let warned = events.iter().find(|event| event["level"] == "WARN").ok_or("no warning")?;
    let span = &warned["spans"][0];
    assert_eq!(
        (&span["name"], &span["sandbox"], &span["tag"]),
        (&json!("branch"), &json!(source), &json!("one"))
    );
    Ok(())
}

fn notify() -> Outcome {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut daemon =
        plain_daemon(dir.path())?.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000").spawn()?;
    let mut said = String::new();
    let mut listen_until = |wanted: &str| -> Result<()> {
        let mut buffer = [0; 4096];
        while !said.contains(wanted) {
            let bytes = socket.recv(&mut buffer).map_err(|error| format!("{wanted}: {error}"))?;
            said.push_str(&String::from_utf8_lossy(&buffer[..bytes]));
        }
        Ok(())
    };
    let told = listen_until("READY=1").and_then(|()| {
        // Ready means that its socket is there.
        assert!(dir.path().join("sock").exists());
        listen_until("WATCHDOG=1")?;
        kill_process(Pid::from_child(&daemon), Signal::TERM)?;
        listen_until("STOPPING=1")
    });
    let _ = kill_process(Pid::from_child(&daemon), Signal::TERM);
    assert!(daemon.wait()?.success());
    told?;
    Ok(())
}

fn unit() -> Outcome {
    const UNIT: &str = include_str!("../../../contrib/systemd/forkd.service");
    const PROGRAM: &str = "/usr/local/bin/forkd";
    assert_eq!(UNIT.matches(PROGRAM).count(), 1);
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("forkd.service");
    // With a program that is there: the check refuses a unit without one.
    fs::write(&path, UNIT.replace(PROGRAM, env!("CARGO_BIN_EXE_forkd")))?;
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    // It checks the units that this one pulls in as well; what is wrong with those is not for us.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("forkd.service")).collect();
    assert!(output.status.success() && ours.is_empty(), "{said}");
    Ok(())
}
