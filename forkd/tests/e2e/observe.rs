//! What an operator sees of a BRANCH: its row, its events, its figures, its line in the audit log.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use forkd::api::{
    Branch, BranchMode, BranchRecord, BranchRequest, DataPath, Event, Happening, SandboxState, SnapshotStatus,
};
use forkd::audit::{Entry, Outcome, Who};
use forkd::http_client::CallError;
use forkd::trend::{WINDOW, rise};
use forkd::vmm::control::Control;
use hyper::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use testkit::exposition::{Exposition, parse};
use testkit::{Outcome as TestOutcome, Test};

use crate::host::{Host, NEEDS, Result, other_client, wait_for};

pub const TESTS: &[Test] = &[
    Test { name: "observe::a_branch_is_in_the_history_as_it_was_answered", needs: NEEDS, run: history },
    Test { name: "observe::a_crash_settles_what_was_being_written", needs: NEEDS, run: crash },
    Test { name: "observe::a_damaged_history_costs_no_snapshot", needs: NEEDS, run: damaged_history },
    Test { name: "observe::events_come_in_order_and_are_replayed", needs: NEEDS, run: events },
    Test { name: "observe::a_sandbox_that_dies_is_told_of_with_the_reason", needs: NEEDS, run: death },
    Test { name: "observe::metrics_agree_with_the_answers", needs: NEEDS, run: metrics },
    Test { name: "observe::the_audit_log_names_who_did_what", needs: NEEDS, run: audit },
    Test { name: "observe::the_openapi_document_is_served", needs: NEEDS, run: openapi },
    Test { name: "observe::a_crowd_of_branches_is_503_with_retry_after", needs: NEEDS, run: crowd },
    Test { name: "observe::staging_memory_that_others_wait_with_is_503", needs: NEEDS, run: crowd_by_bytes },
    Test { name: "observe::the_cap_per_source_is_409", needs: NEEDS, run: cap },
    Test { name: "observe::pauses_that_grow_are_warned_of", needs: NEEDS, run: growth },
    Test { name: "observe::a_stuck_guest_is_told_of_and_runs_again_unasked", needs: NEEDS, run: stuck },
];

/// Given to anything that is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

fn start_with(arguments: &[&str]) -> Result<Host> {
    let dir = tempfile::Builder::new().prefix("forkd-e2e-").tempdir()?;
    let root = dir.path().join("snapshots");
    Host::start_with(dir, root, arguments)
}

fn diff(tag: &str) -> BranchRequest {
    BranchRequest { tag: Some(tag.into()), mode: Some(BranchMode::Diff), ..BranchRequest::default() }
}

fn get<T: serde::de::DeserializeOwned>(host: &Host, path: &str) -> Result<T> {
    Ok(host.call(Method::GET, path, None::<&()>)?)
}

fn tags(records: &[BranchRecord]) -> Vec<&str> {
    records.iter().map(|record| record.branch.tag.as_str()).collect()
}

fn refused(outcome: std::result::Result<Branch, CallError>) -> Result<(u16, String)> {
    match outcome {
        Err(CallError::Refused { status, message }) => Ok((status.as_u16(), message)),
        other => Err(format!("not refused: {other:?}").into()),
    }
}

fn history() -> TestOutcome {
    let host = Host::start()?;
    host.boot("base")?;
    let (source, other) = (host.fork("base")?.id, host.fork("base")?.id);
    host.guest(&source, "dirty 1024 8 1")?;
    let first = host.branch(&source, &diff("b1"))?;
    host.branch(&other, &diff("b2"))?;
    let (status, message) = refused(host.branch(&source, &diff("b1")))?;
    assert_eq!(status, 409);

    let record: BranchRecord = get(&host, &format!("/v1/branches/{}", first.id))?;
    assert_eq!(record.branch, first);
    assert!(record.durable && record.error.is_none() && record.started_at_unix_ms > 1_600_000_000_000);
    let all: Vec<BranchRecord> = get(&host, "/v1/branches")?;
    assert_eq!(tags(&all), ["b1", "b2", "b1"]);
    assert_eq!(all[0].branch.status, SnapshotStatus::Failed);
    assert_eq!(all[0].error.as_deref(), Some(message.as_str()));
    let of_source: Vec<BranchRecord> = get(&host, &format!("/v1/branches?source={source}&limit=1"))?;
    assert_eq!(of_source, all[..1]);
    let before: Vec<BranchRecord> = get(&host, &format!("/v1/branches?tag=b1&before={}", all[1].branch.id))?;
    assert_eq!(before, all[2..]);

    let later = host.branch(&source, &BranchRequest { wait: Some(false), ..diff("b3") })?;
    wait_for("the BRANCH to be ready", || {
        let record: BranchRecord = get(&host, &format!("/v1/branches/{}", later.id))?;
        assert_eq!(record.branch.pause_ns, later.pause_ns);
        Ok(record.branch.status == SnapshotStatus::Ready)
    })?;
    for (path, status, words) in [
        ("/v1/branches/nobody", 404, "no BRANCH in the history has the id 'nobody'"),
        ("/v1/branches?limit=0", 400, "'limit' must be 1 to 1000"),
        ("/v1/branches?sauce=sb-1", 400, "unknown field `sauce`"),
    ] {
        let answer = other_client(host.socket(), Method::GET, path, &())?;
        let body = String::from_utf8_lossy(&answer.body);
        assert!(answer.status == status && body.contains(words), "{path}: {body}");
    }
    Ok(())
}

/// Stops a sandbox's Firecracker: a BRANCH of it stays under way until it goes on.
struct Stopped(Pid);

impl Stopped {
    fn of(pid: u32) -> Result<Self> {
        let pid = Pid::from_raw(pid as i32).ok_or("no pid")?;
        kill_process(pid, Signal::STOP)?;
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // An error says that it is gone.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// Asks for a BRANCH over a connection of its own, and waits until it is under way.
fn begin_branch(host: &Host, id: &str, tag: &str) -> Result<thread::JoinHandle<u16>> {
    let (socket, path, request) = (host.socket(), format!("/v1/sandboxes/{id}/branch"), diff(tag));
    let asking = thread::spawn(move || {
        other_client(socket, Method::POST, &path, &request).map_or(0, |answer| answer.status.as_u16())
    });
    wait_for("the BRANCH to begin", || {
        let records: Vec<BranchRecord> = get(host, &format!("/v1/branches?tag={tag}"))?;
        Ok(records.first().is_some_and(|record| record.branch.status == SnapshotStatus::Writing))
    })?;
    Ok(asking)
}

fn crash() -> TestOutcome {
    let mut host = Host::start()?;
    host.boot("base")?;
    let source = host.fork("base")?;
    host.branch(&source.id, &diff("whole"))?;
    let stopped = Stopped::of(source.pid)?;
    let asking = begin_branch(&host, &source.id, "half")?;
    host.crash_and_restart()?;
    drop(stopped);
    assert_eq!(asking.join().unwrap_or(1), 0);
    let records: Vec<BranchRecord> = get(&host, "/v1/branches")?;
    assert_eq!(tags(&records), ["half", "whole"]);
    assert_eq!(records[0].error.as_deref(), Some("the daemon ended before it was whole"));
    let statuses = [records[0].branch.status, records[1].branch.status];
    assert_eq!(statuses, [SnapshotStatus::Failed, SnapshotStatus::Ready]);
    Ok(())
}

fn damaged_history() -> TestOutcome {
    let mut host = Host::start()?;
    host.boot("base")?;
    let source = host.fork("base")?.id;
    host.branch(&source, &diff("b1"))?;
    let data = host.dir.path().join("data");
    for file in ["history.sqlite", "history.sqlite-wal"] {
        fs::write(data.join(file), vec![0xa5; 20_000])?;
    }
    host.crash_and_restart()?;
    assert!(get::<Vec<BranchRecord>>(&host, "/v1/branches")?.is_empty());
    assert_eq!(host.snapshots()?.len(), 2);
    let source = host.fork("b1")?.id;
    host.branch(&source, &diff("b2"))?;
    assert_eq!(tags(&get::<Vec<BranchRecord>>(&host, "/v1/branches")?), ["b2"]);
    assert!(host.log().contains("it is set aside and begun afresh"), "{}", host.log());
    let names = fs::read_dir(&data)?.flatten().map(|entry| entry.file_name());
    assert!(names.into_iter().any(|name| name.to_string_lossy().contains("sqlite.damaged-")));
    Ok(())
}

/// A client of the events. HTTP/1.0, so that the answer is not cut into chunks.
struct Following(BufReader<UnixStream>);

impl Following {
    fn start(host: &Host, last_seen: Option<u64>) -> Result<Self> {
        let mut stream = UnixStream::connect(host.socket())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let header = last_seen.map_or_else(String::new, |id| format!("last-event-id: {id}\r\n"));
        write!(stream, "GET /v1/events HTTP/1.0\r\n{header}\r\n")?;
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Err(format!("no events: {head}").into());
            }
        }
        assert!(head.contains("200 OK") && head.contains("text/event-stream"), "{head}");
        Ok(Self(reader))
    }

    /// The next event, or `None` at the end.
    fn next(&mut self) -> Result<Option<Event>> {
        let (mut id, mut name) = (String::new(), String::new());
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            match line.trim_end().split_once(": ") {
                Some(("id", value)) => value.clone_into(&mut id),
                Some(("event", value)) => value.clone_into(&mut name),
                Some(("data", data)) => {
                    let event: Event = serde_json::from_str(data)?;
                    assert_eq!((event.id.to_string(), event.happening.name()), (id, name.as_str()));
                    return Ok(Some(event));
                }
                _ => {}
            }
        }
    }

    fn take(&mut self, n: usize) -> Result<Vec<Event>> {
        (0..n).map(|_| self.next()?.ok_or_else(|| "the events ended".into())).collect()
    }
}

fn names(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.happening.name()).collect()
}

fn events() -> TestOutcome {
    let host = Host::start()?;
    let mut following = Following::start(&host, None)?;
    host.boot("base")?;
    let source = host.fork("base")?.id;
    let branch = host.branch(&source, &diff("b1"))?;
    refused(host.branch(&source, &diff("b1")))?;
    host.call::<Value>(Method::POST, "/v1/snapshots/b1/compact", None::<&()>)?;
    host.call::<()>(Method::DELETE, "/v1/snapshots/b1", None::<&()>)?;
    host.end(&source)?;
    let told = following.take(11)?;
    let expected = [
        "snapshot.ready",
        "sandbox.started",
        "branch.started",
        "branch.resumed",
        "snapshot.ready",
        "branch.ready",
        "branch.started",
        "branch.failed",
        "snapshot.compacted",
        "snapshot.deleted",
        "sandbox.ended",
    ];
    assert_eq!(names(&told), expected);
    assert!(told.windows(2).all(|two| two[1].id == two[0].id + 1), "{told:?}");
    let (id, sandbox, tag) = (branch.id, source.clone(), "b1".to_owned());
    let resumed = Happening::BranchResumed { branch: id, sandbox, tag, pause_ns: branch.pause_ns };
    assert_eq!(told[3].happening, resumed);
    let why = "ended by request".to_owned();
    assert_eq!(told[10].happening, Happening::SandboxEnded { sandbox: source, why });

    let replayed = Following::start(&host, Some(told[7].id))?.take(3)?;
    assert_eq!(replayed, told[8..]);
    let of_an_earlier_daemon = Following::start(&host, Some(1))?.take(2)?;
    let lost = Happening::Lost { count: 0, daemon_restarted: true };
    assert_eq!((&of_an_earlier_daemon[0].happening, &of_an_earlier_daemon[1]), (&lost, &told[0]));
    let answer = other_client(host.socket(), Method::GET, "/healthz", &())?;
    assert_eq!(answer.status, 200);
    // Followers do not keep the daemon from stopping, and are told.
    let begun = Instant::now();
    drop(host);
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    assert_eq!(names(&following.take(1)?), ["daemon.stopping"]);
    assert_eq!(following.next()?, None);
    Ok(())
}

fn death() -> TestOutcome {
    let host = Host::start()?;
    host.boot("base")?;
    let mut following = Following::start(&host, None)?;
    let source = host.fork("base")?;
    kill_process(Pid::from_raw(source.pid as i32).ok_or("no pid")?, Signal::KILL)?;
    let told = following.take(2)?;
    match &told[1].happening {
        Happening::SandboxEnded { sandbox, why } => {
            assert_eq!(*sandbox, source.id);
            assert!(why.contains("Firecracker ended"), "{why}");
        }
        other => return Err(format!("{other:?}").into()),
    }
    host.end(&source.id)?;
    host.boot("next")?;
    // Its end is told of once.
    assert_eq!(names(&following.take(1)?), ["snapshot.ready"]);
    Ok(())
}

fn exposed(host: &Host) -> Result<Exposition> {
    let answer = other_client(host.socket(), Method::GET, "/metrics", &())?;
    assert_eq!(answer.status, 200);
    Ok(parse(std::str::from_utf8(&answer.body)?)?)
}

fn metrics() -> TestOutcome {
    let host = Host::start()?;
    let before = exposed(&host)?;
    assert_eq!(before.value("forkd_snapshots_total", &[]), Some(0.0));
    host.boot("base")?;
    let source = host.fork("base")?.id;
    let mut branches = Vec::new();
    for k in 1..=3 {
        host.guest(&source, &format!("dirty 1024 {} {k}", 8 * k))?;
        branches.push(host.branch(&source, &diff(&format!("b{k}")))?);
    }
    refused(host.branch(&source, &diff("b1")))?;
    host.fork("b3")?;
    let exposed = exposed(&host)?;
    let kind = [("data_path", "stage"), ("mode", "diff")];
    let require = |name: &str, labels: &[(&str, &str)], expected: f64| {
        let found = exposed.value(name, labels);
        assert!(
            found.is_some_and(|found| (found - expected).abs() < 1e-9),
            "{name}: {found:?}, not {expected}"
        );
    };
    let sum = |of: &dyn Fn(&Branch) -> u64| branches.iter().map(of).sum::<u64>() as f64;
    require("forkd_branch_pause_seconds_count", &kind, 3.0);
    require("forkd_branch_pause_seconds_sum", &kind, sum(&|branch| branch.pause_ns) / 1e9);
    for span in branches[0].phases.iter().filter(|span| span.ns > 0) {
        let labels = [("data_path", "stage"), ("mode", "diff"), ("phase", span.phase.name())];
        let expected = sum(&|branch| branch.phase_ns(span.phase)) / 1e9;
        require("forkd_branch_phase_seconds_sum", &labels, expected);
    }
    require("forkd_branch_written_bytes_sum", &kind, sum(&|branch| branch.diff_physical_bytes));
    require("forkd_branch_failures_total", &[("kind", "tag_taken")], 1.0);
    require("forkd_branch_fallbacks_to_disk_total", &[], 0.0);
    require("forkd_materialisation_seconds_count", &[], 1.0);
    require("forkd_materialised_bytes_total", &[], f64::from(crate::host::MEM_MIB << 20));
    require("forkd_snapshots_total", &[], 4.0);
    require("forkd_sandboxes_active", &[], 2.0);
    require("forkd_branches_under_way", &[("stage", "waiting")], 0.0);
    require("forkd_staged_bytes", &[], 0.0);
    Ok(())
}

fn entries(path: &Path) -> Result<Vec<Entry>> {
    Ok(fs::read_to_string(path)?.lines().map(serde_json::from_str).collect::<std::result::Result<_, _>>()?)
}

fn audit() -> TestOutcome {
    let logs = tempfile::tempdir()?;
    let (path, rotated) = (logs.path().join("audit.log"), logs.path().join("audit.log.1"));
    let log = path.to_str().ok_or("a path that is no text")?;
    let host = start_with(&["--audit-log", log, "--tcp", "127.0.0.1:0"])?;
    host.boot("base")?;
    let source = host.fork("base")?.id;
    host.snapshots()?;
    let branch = host.branch(&source, &diff("b1"))?;
    let (_, message) = refused(host.branch(&source, &diff("b1")))?;
    let written = entries(&path)?;
    let what: Vec<&str> = written.iter().map(|entry| entry.what.as_str()).collect();
    let branching = "POST /v1/sandboxes/{id}/branch";
    // Reading is not written down.
    assert_eq!(what, ["POST /v1/snapshots", "POST /v1/sandboxes", branching, branching]);
    let us = Who::Unix { uid: 0, gid: 0, pid: Some(std::process::id() as i32) };
    assert!(written.iter().all(|entry| entry.who == us && entry.duration_ms > 0.0), "{written:?}");
    let done = &written[2];
    assert_eq!(done.target, format!("/v1/sandboxes/{source}/branch"));
    assert_eq!((done.outcome, done.status), (Outcome::Done, 201));
    assert_eq!((done.branch.as_ref(), done.pause_ms), (Some(&branch.id), Some(branch.pause_ms)));
    let failed = &written[3];
    assert_eq!(
        (failed.outcome, failed.status, failed.error.as_ref()),
        (Outcome::Refused, 409, Some(&message))
    );
    assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);

    fs::rename(&path, &rotated)?;
    kill_process(Pid::from_raw(host.daemon_pid() as i32).ok_or("no pid")?, Signal::HUP)?;
    wait_for("the fresh log", || Ok(path.exists()))?;
    host.end(&source)?;
    assert_eq!((entries(&rotated)?.len(), entries(&path)?.len()), (4, 1));

    let said = host.log();
    let address =
        said.split("tcp=\"").nth(1).and_then(|rest| rest.split('"').next()).ok_or("no TCP address")?;
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "DELETE /v1/snapshots/nope HTTP/1.0\r\n\r\n")?;
    let ours = stream.local_addr()?.to_string();
    assert!(std::io::read_to_string(stream)?.contains(" 404 "));
    let refused = entries(&path)?.pop().ok_or("no entry")?;
    assert_eq!((refused.who, refused.status), (Who::Tcp { address: ours }, 404));
    Ok(())
}

fn openapi() -> TestOutcome {
    let host = Host::start()?;
    let document: Value = get(&host, "/openapi.json")?;
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")), "{document}");
    assert!(document["paths"]["/v1/sandboxes/{id}/branch"]["post"].is_object());
    // What it says of a type is what is sent: every field of an answer, and none that must be there is missing.
    let branch = &document["components"]["schemas"]["Snapshot"];
    let sent = serde_json::to_value(host.boot("base")?)?;
    let sent = sent.as_object().ok_or("no object")?;
    assert!(sent.keys().all(|field| branch["properties"].get(field).is_some()), "{sent:?}");
    let required = branch["required"].as_array().ok_or("nothing is required")?;
    assert!(required.iter().filter_map(Value::as_str).all(|field| sent.contains_key(field)), "{required:?}");
    Ok(())
}

/// The head of the answer to a request, raw: headers are not in the client's answer.
fn head_of(host: &Host, id: &str) -> Result<String> {
    let body = json!({}).to_string();
    let mut stream = UnixStream::connect(host.socket())?;
    write!(
        stream,
        "POST /v1/sandboxes/{id}/branch HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    Ok(std::io::read_to_string(stream)?.to_lowercase())
}

fn crowd() -> TestOutcome {
    let host = start_with(&["--max-branches", "1"])?;
    host.boot("base")?;
    let (slow, other) = (host.fork("base")?, host.fork("base")?.id);
    let stopped = Stopped::of(slow.pid)?;
    let asking = begin_branch(&host, &slow.id, "slow")?;
    let answer = head_of(&host, &other)?;
    assert!(answer.starts_with("http/1.0 503") && answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
    assert!(answer.contains("1 branches are under way, as many as --max-branches allows"), "{answer}");
    let exposed = exposed(&host)?;
    assert_eq!(exposed.value("forkd_branches_under_way", &[("stage", "waiting")]), Some(1.0));
    assert_eq!(exposed.value("forkd_branch_refusals_total", &[("reason", "count")]), Some(1.0));
    drop(stopped);
    assert_eq!(asking.join().unwrap_or(0), 201);
    host.branch(&other, &diff("after"))?;
    // What was refused did nothing, and is no BRANCH.
    assert_eq!(tags(&get::<Vec<BranchRecord>>(&host, "/v1/branches")?), ["after", "slow"]);
    Ok(())
}

fn crowd_by_bytes() -> TestOutcome {
    // Room for one of the test guests, and not for two.
    let host = start_with(&["--staging-mib", "50"])?;
    host.boot("base")?;
    let (slow, other) = (host.fork("base")?, host.fork("base")?.id);
    let stopped = Stopped::of(slow.pid)?;
    let asking = begin_branch(&host, &slow.id, "slow")?;
    let (status, message) = refused(host.branch(&other, &diff("refused")))?;
    assert_eq!(status, 503, "{message}");
    assert!(message.contains("33 MiB of staging memory are needed and 33 of 50 MiB are taken"), "{message}");
    // What is not staged does not wait for staging memory.
    host.branch(&other, &BranchRequest { data_path: Some(DataPath::Naive), ..diff("naive") })?;
    drop(stopped);
    assert_eq!(asking.join().unwrap_or(0), 201);
    assert!(!host.branch(&other, &diff("staged"))?.fell_back_to_disk);
    Ok(())
}

fn cap() -> TestOutcome {
    let host = start_with(&["--max-branches-per-source", "2"])?;
    host.boot("base")?;
    let source = host.fork("base")?.id;
    host.branch(&source, &diff("b1"))?;
    host.branch(&source, &diff("b2"))?;
    let (status, message) = refused(host.branch(&source, &diff("b3")))?;
    assert_eq!(status, 409);
    assert!(
        message.contains("has been branched 2 times") && message.contains("fork a fresh sandbox"),
        "{message}"
    );
    host.branch(&host.fork("b2")?.id, &diff("b3"))?;
    assert_eq!(host.sandbox(&source)?.state, SandboxState::Running);
    Ok(())
}

/// Stands between a Firecracker and all who speak to it by its socket: the daemon, and the watchdog.
struct Relay {
    faults: Arc<Faults>,
    /// Firecracker's own socket.
    real: PathBuf,
}

/// What a relay does to the requests that it passes on.
#[derive(Default)]
struct Faults {
    /// How long each request to pause waits.
    hold_pauses_ns: AtomicU64,
    /// Whether a request to resume ends the connection instead.
    drops_resumes: AtomicBool,
}

impl Relay {
    /// Takes the place of the socket at `path`, until the test's process ends.
    fn before(path: &Path) -> Result<Self> {
        let real = path.with_extension("real");
        fs::rename(path, &real)?;
        let listener = UnixListener::bind(path)?;
        let faults = Arc::<Faults>::default();
        let relay = Self { faults: Arc::clone(&faults), real: real.clone() };
        thread::spawn(move || {
            for daemon in listener.incoming().flatten() {
                let (real, faults) = (real.clone(), Arc::clone(&faults));
                // A connection that fails ends: the daemon reports it, and the test with it.
                thread::spawn(move || pass_on(&daemon, &UnixStream::connect(real)?, &faults));
            }
        });
        Ok(relay)
    }

    /// What Firecracker says that its guest does, asked past the relay.
    fn guest_state(&self) -> Result<String> {
        Ok(Control::new(self.real.clone()).instance()?.state)
    }
}

fn pass_on(mut daemon: &UnixStream, mut firecracker: &UnixStream, faults: &Faults) -> io::Result<()> {
    let (mut answers, mut asker) = (firecracker.try_clone()?, daemon.try_clone()?);
    thread::spawn(move || io::copy(&mut answers, &mut asker));
    let mut request = [0; 4096];
    loop {
        let bytes = daemon.read(&mut request)?;
        if bytes == 0 {
            return firecracker.shutdown(Shutdown::Both);
        }
        // The daemon sends a request with one write(2), and waits for the answer before the next.
        let asks_for = |state: &[u8]| request[..bytes].windows(state.len()).any(|word| word == state);
        if asks_for(b"\"Paused\"") {
            sleep(Duration::from_nanos(faults.hold_pauses_ns.load(Ordering::Relaxed)));
        }
        if asks_for(b"\"Resumed\"") && faults.drops_resumes.load(Ordering::Relaxed) {
            daemon.shutdown(Shutdown::Both)?;
            return firecracker.shutdown(Shutdown::Both);
        }
        firecracker.write_all(&request[..bytes])?;
    }
}

fn growth() -> TestOutcome {
    let host = Host::start()?;
    host.boot("base")?;
    let source = host.fork("base")?.id;
    let slow = Relay::before(&host.dir.path().join(format!("vms/{source}/api.sock")))?;
    let mut following = Following::start(&host, None)?;
    let mut pauses_ns: Vec<u64> = Vec::new();
    // Each is longer than all before it by a third of the longest, however slow the host is.
    let warned = loop {
        let branch = host.branch(&source, &diff(&format!("b{}", pauses_ns.len())))?;
        assert_eq!(
            (branch.mode, branch.fell_back_to_disk),
            (BranchMode::Diff, false),
            "{:?}",
            branch.warnings
        );
        pauses_ns.push(branch.pause_ns);
        let grows = branch.warnings.iter().any(|warning| warning.contains("the pauses of this sandbox grow"));
        // The judgement itself is tested with numbers; here, that it is asked about these pauses and heard.
        assert_eq!(grows, rise(&pauses_ns).is_some(), "{pauses_ns:?}");
        if grows {
            break branch.id;
        }
        assert!(pauses_ns.len() < WINDOW, "no BRANCH warned of pauses of {pauses_ns:?} ns");
        slow.faults.hold_pauses_ns.store(branch.pause_ns * 4 / 3, Ordering::Relaxed);
    };
    let record: BranchRecord = get(&host, &format!("/v1/branches/{warned}"))?;
    let warnings = &record.branch.warnings;
    assert!(warnings.iter().any(|warning| warning.contains("pauses of this sandbox grow")), "{warnings:?}");
    while !matches!(following.next()?.ok_or("the events ended")?.happening, Happening::PausesGrow { .. }) {}
    assert_eq!(exposed(&host)?.value("forkd_branch_pauses_grow_total", &[]), Some(1.0));
    Ok(())
}

fn stuck() -> TestOutcome {
    // A lease that outlasts the test: if the guest runs again, it is the daemon that has resumed it.
    let host = start_with(&["--pause-lease-ms", "600000"])?;
    host.boot("base")?;
    let source = host.fork("base")?.id;
    let relay = Relay::before(&host.dir.path().join(format!("vms/{source}/api.sock")))?;
    let mut following = Following::start(&host, None)?;
    let stuck_guests = || -> Result<_> { Ok(exposed(&host)?.value("forkd_sandboxes_stuck_paused", &[])) };

    relay.faults.drops_resumes.store(true, Ordering::Relaxed);
    let (status, message) = refused(host.branch(&source, &diff("b1")))?;
    assert_eq!(status, 500, "{message}");
    assert!(message.contains("the guest is paused and could not be resumed in 5 attempts"), "{message}");
    assert_eq!(host.sandbox(&source)?.state, SandboxState::StuckPaused);
    assert_eq!(relay.guest_state()?, "Paused");
    assert_eq!(stuck_guests()?, Some(1.0));
    let (status, refusal) = refused(host.branch(&source, &diff("b2")))?;
    assert!(status == 409 && refusal.contains("is stuck paused"), "{status}: {refusal}");

    // Nobody asks for it: the daemon goes on trying by itself.
    relay.faults.drops_resumes.store(false, Ordering::Relaxed);
    wait_for("the guest to be resumed", || Ok(host.sandbox(&source)?.state == SandboxState::Running))?;
    assert_eq!(relay.guest_state()?, "Running");
    assert_eq!(stuck_guests()?, Some(0.0));
    host.guest(&source, "dirty 1024 8 1")?;
    let told = following.take(6)?;
    let of_guest: Vec<&Happening> = told
        .iter()
        .map(|event| &event.happening)
        .filter(|happening| happening.name().starts_with("guest."))
        .collect();
    let told_of_stuck = Happening::GuestStuckPaused { sandbox: source.clone(), error: message };
    assert_eq!(of_guest, [&told_of_stuck, &Happening::GuestRunsAgain { sandbox: source.clone() }]);
    host.branch(&source, &diff("b3"))?;
    Ok(())
}
