//! Verdicts, as anybody gets them: the daemon's account of a BRANCH, and `forkd-probe explain` of a program, which is
//! told a process and the name of a function.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use forkd::attribution::REFUSED;
use serde::Deserialize;

use crate::Error;
use crate::api::Api;

/// How long a window may take to come.
const PATIENCE_S: u64 = 15;
/// What a recording may take to end by itself beyond that.
const OVERTIME: Duration = Duration::from_secs(20);

/// How long an account may take to be in the history.
const ACCOUNT_DEADLINE: Duration = Duration::from_secs(20);
/// Between two looks at whether it is.
const LOOK: Duration = Duration::from_millis(20);

/// The daemon's own account of the BRANCH `id`.
pub async fn of_branch(api: &Api, id: &str) -> Result<Explained, Error> {
    let deadline = Instant::now() + ACCOUNT_DEADLINE;
    loop {
        match api.attribution(id).await? {
            Some(account) => return of_account(account),
            None if Instant::now() > deadline => return Err(failure("it is not in the history")),
            None => tokio::time::sleep(LOOK).await,
        }
    }
}

fn of_account(account: serde_json::Value) -> Result<Explained, Error> {
    match account["unavailable"].as_str() {
        // Without the rights to trace there is nothing to be checked here.
        Some(why) if why.starts_with(REFUSED) => Err(Error::Missing(format!("needs to trace: {why}"))),
        // Right after the daemon's start, or on a busy host.
        Some(why) => Err(Error::NoAccount(why.to_owned())),
        None => Explained::of(account),
    }
}

fn failure(reason: &str) -> Error {
    Error::Tool { program: "the account of a pause".to_owned(), reason: reason.to_owned() }
}

/// What is read of the report; the rest of it is for people.
#[derive(Clone, Debug, Deserialize)]
pub struct Explained {
    /// What the window is of.
    pub window: Window,
    /// Its length.
    pub window_ns: u64,
    /// Time by cause.
    pub causes: Vec<Cause>,
    /// What no cause was found for.
    pub unexplained_ns: u64,
    /// The answer in short.
    pub verdict: Verdict,
    /// Threads that waited all the while, off the path.
    pub passive_waiters: Vec<PassiveWaiter>,
    /// All of it.
    #[serde(skip)]
    pub report: serde_json::Value,
}

impl Explained {
    fn of(report: serde_json::Value) -> Result<Self, Error> {
        let explained = Self::deserialize(&report).map_err(|error| failure(&error.to_string()))?;
        Ok(Self { report, ..explained })
    }
}

/// Where the window lies, in CLOCK_MONOTONIC.
#[derive(Clone, Debug, Deserialize)]
pub struct Window {
    /// Its first nanosecond.
    pub start_ns: u64,
    /// The first nanosecond after it.
    pub end_ns: u64,
}

/// The time of one cause.
#[derive(Clone, Debug, Deserialize)]
pub struct Cause {
    /// Its id in the cause table.
    pub cause: String,
    /// Its time.
    pub ns: u64,
    /// What made it, link by link.
    pub chain: Vec<String>,
}

/// A thread that waited all the while.
#[derive(Clone, Debug, Deserialize)]
pub struct PassiveWaiter {
    /// Its name.
    pub comm: String,
}

/// The answer in short.
#[derive(Clone, Debug, Deserialize)]
pub struct Verdict {
    /// The cause that took longest.
    pub cause: Option<String>,
    /// Its part of the window.
    pub share: f64,
    /// The same as a sentence.
    pub sentence: String,
    /// Events that were lost inside the window.
    pub lost: u64,
}

/// An `explain` that waits for its window. Dropping it ends it.
#[derive(Debug)]
pub struct Explaining {
    child: Child,
    said: BufReader<ChildStderr>,
    report: tempfile::NamedTempFile,
}

impl Explaining {
    /// Starts one that waits for the next call of `function` in the process `pid`, and returns when it is attached.
    pub fn start(probe: &Path, pid: u32, function: &str) -> Result<Self, Error> {
        let report = tempfile::NamedTempFile::new().map_err(Error::file("create", Path::new("a report")))?;
        let mut command = Command::new(probe);
        command.args(["explain", "--pid", &pid.to_string(), "--window-fn", function]);
        command.args(["--windows", "1", "--duration", &format!("{PATIENCE_S}s"), "--format", "json"]);
        command.arg("-o").arg(report.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(Error::file("run", probe))?;
        let Some(stderr) = child.stderr.take() else { unreachable!("it is piped") };
        let mut explaining = Self { child, said: BufReader::new(stderr), report };
        loop {
            match explaining.line()? {
                Some(line) if line.starts_with("watching ") => return Ok(explaining),
                Some(_) => {}
                None => return Err(explaining.failure("ended before it was attached")),
            }
        }
    }

    /// Waits for the end of the recording, and reads the report.
    pub fn finish(mut self) -> Result<Explained, Error> {
        let deadline = Instant::now() + Duration::from_secs(PATIENCE_S) + OVERTIME;
        let mut last = String::new();
        while let Some(line) = self.line()? {
            last = line;
            if Instant::now() > deadline {
                return Err(self.failure("does not end"));
            }
        }
        let status = self.child.wait().map_err(Error::file("wait for", Path::new("forkd-probe")))?;
        if !status.success() {
            // On a busy host a window can be missed; that is no verdict, and is done again.
            return Err(match last.contains("no window opened") {
                true => Error::NoAccount(last),
                false => self.failure(&last),
            });
        }
        let bytes = std::fs::read(self.report.path()).map_err(Error::file("read", self.report.path()))?;
        let report = serde_json::from_slice(&bytes);
        report.map_err(|error| self.failure(&format!("wrote no report: {error}"))).and_then(Explained::of)
    }

    fn line(&mut self) -> Result<Option<String>, Error> {
        let mut line = String::new();
        let read = self.said.read_line(&mut line).map_err(Error::file("read", Path::new("forkd-probe")))?;
        Ok((read > 0).then(|| line.trim().to_owned()))
    }

    fn failure(&self, reason: &str) -> Error {
        Error::Tool { program: "forkd-probe explain".to_owned(), reason: reason.to_owned() }
    }
}

impl Drop for Explaining {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
