//! The audit log: one line of JSON for each request that may have changed something.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// One request. Fields that are absent were not known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When its answer was there, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// Method and route, as `POST /v1/sandboxes/{id}/branch`.
    pub what: String,
    /// Path and query as they came.
    pub target: String,
    /// Who sent it.
    pub who: Who,
    /// What became of it.
    pub outcome: Outcome,
    /// The answer's HTTP status.
    pub status: u16,
    /// Why it was refused or failed, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// From the request's head to its answer, in milliseconds.
    pub duration_ms: f64,
    /// Of a BRANCH: its id in the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Of a BRANCH: how long the guest stood still, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_ms: Option<f64>,
}

/// Where the time of a BRANCH's pause went: a line of its own, which follows that of the request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttributionEntry {
    /// When it was known, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// `attribution`.
    pub what: String,
    /// The BRANCH's id in the history.
    pub branch: String,
    /// How long the guest stood still, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_ms: Option<f64>,
    /// The cause that took longest; absent where the unexplained part is longer than any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Its part of the pause, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// The part that no cause was found for, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unexplained: Option<f64>,
    /// Whether every event of the pause was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sound: Option<bool>,
    /// Why there is nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Who sent a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Who {
    /// A process of this host, over the Unix socket.
    Unix {
        /// Its effective user id.
        uid: u32,
        /// Its effective group id.
        gid: u32,
        /// Its process id when it connected, where the kernel tells.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<i32>,
    },
    /// Whoever connected over TCP.
    Tcp {
        /// The address it came from.
        address: String,
    },
    /// The kernel did not tell.
    Unknown,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done (2xx).
    Done,
    /// It was refused, and nothing was changed (4xx, and 503 for one of too many).
    Refused,
    /// It failed (any other 5xx); what it had begun was undone.
    Failed,
}

impl Outcome {
    /// The outcome that a status stands for.
    pub const fn of(status: u16) -> Self {
        match status {
            200..=399 => Self::Done,
            400..=499 | 503 => Self::Refused,
            _ => Self::Failed,
        }
    }
}

/// The file that entries are appended to.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    file: Mutex<File>,
}

impl AuditLog {
    /// Opens the log at `path` for its owner only, creating it if need be. What is in it stays.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: Mutex::new(open(path)?) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one line, in one write, so that lines never mix. Blocks for as long as the disk takes.
    pub fn append(&self, entry: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)
    }

    /// Opens the file of that name again, which is a fresh one after a log rotation. On an error it goes on in
    /// the old one.
    pub fn reopen(&self) -> io::Result<()> {
        let file = open(&self.path)?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::{AuditLog, Entry, Outcome, Who};

    fn entry(target: &str) -> Entry {
        Entry {
            at_unix_ms: 1,
            what: "DELETE /v1/snapshots/{tag}".to_owned(),
            target: target.to_owned(),
            who: Who::Unix { uid: 0, gid: 0, pid: Some(7) },
            outcome: Outcome::Done,
            status: 204,
            error: None,
            duration_ms: 0.5,
            branch: None,
            pause_ms: None,
        }
    }

    #[test]
    fn lines_are_appended_for_the_owner_only_and_a_rotated_log_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (path, rotated) = (dir.path().join("audit.log"), dir.path().join("audit.log.1"));
        AuditLog::open(&path).unwrap().append(&entry("/first")).unwrap();
        let log = AuditLog::open(&path).unwrap();
        log.append(&entry("/second")).unwrap();
        fs::rename(&path, &rotated).unwrap();
        log.append(&entry("/third")).unwrap();
        log.reopen().unwrap();
        log.append(&entry("/fourth")).unwrap();
        let targets = |path| -> Vec<String> {
            let text = fs::read_to_string(path).unwrap();
            text.lines().map(|line| serde_json::from_str::<Entry>(line).unwrap().target).collect()
        };
        assert_eq!(targets(&rotated), ["/first", "/second", "/third"]);
        assert_eq!(targets(&path), ["/fourth"]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_status_has_one_outcome() {
        let outcomes = [201, 202, 204, 400, 409, 413, 503, 500, 507].map(Outcome::of);
        use Outcome::{Done, Failed, Refused};
        assert_eq!(outcomes, [Done, Done, Done, Refused, Refused, Refused, Refused, Failed, Failed]);
    }
}
