//! `forkd-probe explain`, told nothing but a Firecracker and its function, beside BRANCHes whose pauses are known.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use forkd::api::{Branch, BranchMode, BranchRequest};
use reports::explain::{Explain, SCHEMA};
use testkit::{Outcome, Test};

use crate::attribution::{TRACING, real_probe};
use crate::host::{Host, Result};

pub const TESTS: &[Test] = &[Test {
    name: "explain::firecrackers_part_of_a_pause_is_accounted_for",
    needs: TRACING,
    run: create_snapshot,
}];

/// Firecracker's part of a pause that is a BRANCH's.
const FUNCTION: &str = "vmm::persist::create_snapshot";
/// Windows that are kept.
const WINDOWS: usize = 3;
/// Pages that the guest dirties before each BRANCH.
const DIRTY_PAGES: u64 = 2048;
/// Attaching and explaining take their time in a debug build on a busy host.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two BRANCHes: each window is handed out before the next one opens.
const APART: Duration = Duration::from_millis(200);

/// A `forkd-probe explain` that is attached; dropping it ends it.
struct Explaining {
    child: Child,
    said: BufReader<ChildStderr>,
}

impl Explaining {
    fn start(probe: &Path, pid: u32, output: &Path) -> Result<Self> {
        let mut command = Command::new(probe);
        command.args(["explain", "--pid", &pid.to_string(), "--window-fn", FUNCTION, "--format", "json"]);
        command.args(["--windows", &WINDOWS.to_string(), "--slowest", &WINDOWS.to_string()]);
        command.arg("-o").arg(output).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let said = BufReader::new(child.stderr.take().ok_or("no standard error")?);
        let mut explaining = Self { child, said };
        let mut line = String::new();
        while !line.starts_with("watching ") {
            line.clear();
            if explaining.said.read_line(&mut line)? == 0 {
                return Err("it ended before it was attached".into());
            }
        }
        Ok(explaining)
    }

    fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Its exit code, and what it said beside its report.
    fn outcome(mut self) -> Result<(Option<i32>, String)> {
        let mut rest = String::new();
        self.said.read_to_string(&mut rest)?;
        Ok((self.child.wait()?.code(), rest))
    }
}

impl Drop for Explaining {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// BRANCHes one after another, until the windows are enough.
fn branches_until(explaining: &mut Explaining, host: &Host, source: &str) -> Result<Vec<Branch>> {
    let begun = Instant::now();
    let mut taken = Vec::new();
    while !explaining.has_ended()? {
        if begun.elapsed() > PATIENCE {
            return Err(format!("{} BRANCHes are not {WINDOWS} windows", taken.len()).into());
        }
        let number = taken.len();
        host.guest(source, &format!("dirty 1024 {DIRTY_PAGES} {number}"))?;
        let (tag, mode) = (Some(format!("t{number}")), Some(BranchMode::Diff));
        taken.push(host.branch(source, &BranchRequest { tag, mode, ..BranchRequest::default() })?);
        sleep(APART);
    }
    Ok(taken)
}

/// The window is Firecracker's own part of a pause of one of `branches`, and nearly all of it has a cause.
fn assert_explained(explain: &Explain, pid: u32, branches: &[Branch]) {
    let window = &explain.window;
    assert_eq!((explain.schema.as_str(), window.pid, window.clamped), (SCHEMA, pid, false), "{explain:#?}");
    assert!(window.label.contains(FUNCTION), "{explain:#?}");
    let causes_ns: u64 = explain.causes.iter().map(|cause| cause.ns).sum();
    assert_eq!(causes_ns + explain.unexplained_ns, explain.window_ns, "{explain:#?}");
    assert_eq!(window.end_ns - window.start_ns, explain.window_ns, "{explain:#?}");
    let is_around = |branch: &&Branch| {
        branch.pause_window_ns().is_some_and(|(start, end)| start <= window.start_ns && window.end_ns <= end)
    };
    let branch = branches.iter().find(is_around);
    assert!(branch.is_some_and(|branch| explain.window_ns <= branch.pause_ns), "{explain:#?}\n{branches:#?}");
    // In an emulated machine the clock that looks at threads is as late as its host lets it be.
    let most_percent = if testkit::slowness() > 1 { 30 } else { 10 };
    let is_explained = explain.unexplained_ns * 100 <= explain.window_ns * most_percent;
    assert!(is_explained, "over {most_percent} % has no cause: {explain:#?}");
}

fn create_snapshot() -> Outcome {
    let host = Host::start()?;
    host.boot("base")?;
    let source = host.fork("base")?;
    let output = host.dir.path().join("explain.json");
    let mut explaining = Explaining::start(&real_probe()?, source.pid, &output)?;
    let branches = branches_until(&mut explaining, &host, &source.id)?;
    let (code, said) = explaining.outcome()?;
    assert_eq!(code, Some(0), "{said}");
    let kept: Vec<Explain> = serde_json::from_slice(&std::fs::read(output)?)?;
    assert_eq!(kept.len(), WINDOWS, "{said}");
    for explain in &kept {
        assert_explained(explain, source.pid, &branches);
    }
    Ok(())
}
