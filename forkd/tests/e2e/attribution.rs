//! The account of a pause: where it goes, and that no BRANCH depends on who makes it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use forkd::api::{Branch, BranchMode, BranchRecord, BranchRequest, SnapshotStatus};
use forkd::audit::AttributionEntry;
use hyper::Method;
use reports::explain::Explain;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use testkit::exposition::parse;
use testkit::{Need, Outcome, Test};

use crate::gate::Gate;
use crate::host::{Host, NEEDS, Result, other_client};

/// What a daemon that accounts for pauses needs.
pub const TRACING: &[Need] = &[Need::Root, Need::Kvm, Need::Firecracker, Need::Btf];

pub const TESTS: &[Test] = &[
    Test { name: "attribution::a_pause_is_accounted_for_to_the_nanosecond", needs: TRACING, run: accounted },
    Test { name: "attribution::a_killed_collector_costs_no_branch", needs: TRACING, run: killed },
    Test {
        name: "attribution::a_branch_lost_in_its_pause_costs_no_other_its_account",
        needs: TRACING,
        run: lost,
    },
    Test { name: "attribution::where_probes_are_refused_the_record_says_why", needs: NEEDS, run: refused },
];

/// Loading and attaching takes its time in a debug build on a busy host.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

fn start(probe: &Path) -> Result<Host> {
    start_in(tempfile::Builder::new().prefix("forkd-e2e-").tempdir()?, probe, &[])
}

/// The same with its files in `dir`, and more arguments.
fn start_in(dir: tempfile::TempDir, probe: &Path, arguments: &[&str]) -> Result<Host> {
    let (root, audit) = (dir.path().join("snapshots"), dir.path().join("audit"));
    let (probe, audit) = (probe.to_string_lossy(), audit.to_string_lossy());
    let options = ["--attribution", "always", "--attribution-probe", &probe, "--audit-log", &audit];
    Host::start_with(dir, root, &[&options[..], arguments].concat())
}

/// Beside the daemon, where cargo builds it too.
pub fn real_probe() -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_forkd")).with_file_name("forkd-probe");
    match path.is_file() {
        true => Ok(path),
        false => Err(format!("{} is missing: cargo build -p probes", path.display()).into()),
    }
}

fn branch(host: &Host, source: &str, tag: &str) -> Result<Branch> {
    let mode = Some(BranchMode::Diff);
    let branch =
        host.branch(source, &BranchRequest { tag: Some(tag.into()), mode, ..BranchRequest::default() })?;
    assert_eq!(branch.status, SnapshotStatus::Ready);
    Ok(branch)
}

/// The record of a BRANCH, as soon as it says something of the pause.
fn record(host: &Host, id: &str) -> Result<BranchRecord> {
    let begun = Instant::now();
    loop {
        let record: BranchRecord = host.call(Method::GET, &format!("/v1/branches/{id}"), None::<&()>)?;
        if record.attribution.is_some() {
            return Ok(record);
        }
        if begun.elapsed() > PATIENCE {
            return Err("the record says nothing of the pause".into());
        }
        sleep(LOOK);
    }
}

/// BRANCHes until one is accounted for: right after the daemon's start none is.
fn first_account(host: &Host, source: &str) -> Result<BranchRecord> {
    let begun = Instant::now();
    for number in 1.. {
        let taken = branch(host, source, &format!("t{number}"))?;
        let record = record(host, &taken.id)?;
        if unavailable(&record).is_none() {
            return Ok(record);
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("no pause is accounted for: {:?}", record.attribution).into());
        }
        sleep(LOOK);
    }
    unreachable!("there are more numbers than time");
}

fn unavailable(record: &BranchRecord) -> Option<&str> {
    record.attribution.as_ref()?["unavailable"].as_str()
}

/// The account of a BRANCH, which is of its own pause and of all of it.
fn whole_account(record: &BranchRecord) -> Result<Explain> {
    let explain: Explain = serde_json::from_value(record.attribution.clone().unwrap_or(Value::Null))?;
    assert_eq!(explain.window_ns, record.branch.pause_ns);
    assert_eq!(Some((explain.window.start_ns, explain.window.end_ns)), record.branch.pause_window_ns());
    let explained_ns: u64 = explain.causes.iter().map(|cause| cause.ns).sum();
    assert_eq!(explained_ns + explain.unexplained_ns, explain.window_ns, "{explain:?}");
    Ok(explain)
}

fn accounted() -> Outcome {
    let host = start(&real_probe()?)?;
    host.boot("base")?;
    let source = host.fork("base")?.id;
    let record = first_account(&host, &source)?;
    let explain = whole_account(&record)?;
    assert_eq!((explain.window.pid, explain.window.comm.as_str()), (host.daemon_pid(), "forkd-pause"));
    assert!(explain.segments.is_empty());

    let audit = fs::read_to_string(host.dir.path().join("audit"))?;
    let of_this = audit.lines().filter_map(|line| serde_json::from_str::<AttributionEntry>(line).ok());
    let of_this: Vec<_> =
        of_this.filter(|entry| entry.branch == record.branch.id && entry.what == "attribution").collect();
    assert_eq!(of_this.len(), 1, "{audit}");
    assert_eq!(of_this[0].cause, explain.verdict.cause);

    let exposed = other_client(host.socket(), Method::GET, "/metrics", &())?;
    let exposed = parse(std::str::from_utf8(&exposed.body)?)?;
    let of =
        |outcome| exposed.value("forkd_branch_attributions_total", &[("outcome", outcome)]).unwrap_or(0.0);
    assert_eq!(of("explained") + of("unsound"), 1.0);
    Ok(())
}

/// The process that holds the daemon's probes.
fn collector(host: &Host) -> Result<Option<Pid>> {
    for process in fs::read_dir("/proc")?.flatten() {
        let Ok(stat) = fs::read_to_string(process.path().join("stat")) else { continue };
        let Some((head, fields)) = stat.rsplit_once(')') else { continue };
        let parent = fields.split_whitespace().nth(1);
        if head.ends_with("(forkd-probe") && parent == Some(host.daemon_pid().to_string().as_str()) {
            return Ok(process.file_name().to_str().and_then(|pid| Pid::from_raw(pid.parse().ok()?)));
        }
    }
    Ok(None)
}

fn killed() -> Outcome {
    let mut host = start(&real_probe()?)?;
    host.boot("base")?;
    let source = host.fork("base")?.id;
    first_account(&host, &source)?;
    let collector = collector(&host)?.ok_or("nobody holds the probes")?;
    kill_process(collector, Signal::KILL)?;
    let unaccounted = branch(&host, &source, "after-the-kill")?;
    let why = record(&host, &unaccounted.id)?;
    assert!(unavailable(&why).is_some(), "{:?}", why.attribution);

    // Another one takes its place, and ends with the daemon.
    let begun = Instant::now();
    let next = loop {
        if let Some(pid) = self::collector(&host)? {
            break pid;
        }
        assert!(begun.elapsed() < PATIENCE, "nobody has taken its place");
        sleep(LOOK);
    };
    host.signal_daemon(Signal::KILL)?;
    host.wait()?;
    let lives = || {
        fs::read_to_string(format!("/proc/{}/comm", next.as_raw_nonzero()))
            .is_ok_and(|comm| comm == "forkd-probe\n")
    };
    while lives() {
        assert!(begun.elapsed() < 2 * PATIENCE, "the probes outlive their daemon");
        sleep(LOOK);
    }
    host.restart()?;
    Ok(())
}

fn lost() -> Outcome {
    let dir = tempfile::Builder::new().prefix("forkd-e2e-").tempdir()?;
    let gate = Gate::new(dir.path())?;
    let program = gate.program.display().to_string();
    let host = start_in(dir, &real_probe()?, &["--firecracker", &program])?;
    host.boot("base")?;
    let source = host.fork("base")?.id;
    first_account(&host, &source)?;

    let lost = host.fork("base")?;
    gate.hold("create", "before")?;
    let (socket, path) = (host.socket(), format!("/v1/sandboxes/{}/branch", lost.id));
    let request = BranchRequest { tag: Some("lost".into()), ..BranchRequest::default() };
    let asking = thread::spawn(move || other_client(socket, Method::POST, &path, &request).is_ok());
    gate.wait_until_held()?;
    kill_process(Pid::from_raw(lost.pid.cast_signed()).ok_or("no pid")?, Signal::KILL)?;
    assert!(asking.join().map_err(|_panic| "the client panicked")?, "the daemon gave no answer");
    let of_tag = host.call(Method::GET, "/v1/branches?tag=lost", None::<&()>);
    let [failed]: [BranchRecord; 1] = of_tag?;
    assert_eq!(failed.branch.status, SnapshotStatus::Failed);
    // Of a process that is gone there may be no account; then the record says so.
    let told = record(&host, &failed.branch.id)?;
    assert!(unavailable(&told).is_some() || whole_account(&told).is_ok(), "{:?}", told.attribution);

    let next = branch(&host, &source, "next")?;
    whole_account(&record(&host, &next.id)?).map(drop)?;
    Ok(())
}

fn refused() -> Outcome {
    let dir = tempfile::tempdir()?;
    let probe = dir.path().join("forkd-probe");
    fs::write(&probe, "#!/bin/sh\necho '{\"refused\":{\"reason\":\"no rights, as a test\"}}'\n")?;
    fs::set_permissions(&probe, fs::Permissions::from_mode(0o700))?;
    let host = start(&probe)?;
    host.boot("base")?;
    let source = host.fork("base")?.id;
    let begun = Instant::now();
    for number in 1.. {
        let taken = branch(&host, &source, &format!("t{number}"))?;
        let record = record(&host, &taken.id)?;
        assert!(record.branch.phases.iter().any(|span| span.ns > 0));
        match unavailable(&record) {
            Some(why) if why.contains("no rights, as a test") => break,
            // The script has not said it yet.
            Some(_) if begun.elapsed() < PATIENCE => sleep(LOOK),
            other => return Err(format!("{other:?}").into()),
        }
    }
    Ok(())
}
