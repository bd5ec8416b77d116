//! A typed client of the daemon's API: the command line and the benchmarks speak through it.

use std::fmt::Display;
use std::time::Duration;

use hyper::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use crate::api::{
    Branch, BranchQuery, BranchRecord, BranchRequest, ConsoleAnswer, ConsoleOutput, ConsoleRequest,
    CreateSandboxes, CreateSnapshot, Sandbox, Snapshot, SnapshotDetail,
};
use crate::http_client::{CallError, Endpoint, HttpClient};
use crate::snapshot::delete::Dependents;

/// Given to calls that wait for no disk and no guest.
const SHORT: Duration = Duration::from_secs(30);
/// Given to the others: more than any disk needs for one guest, so that only a daemon that hangs meets it.
const LONG: Duration = Duration::from_secs(3600);

/// What a path may hold unescaped: all that tags and ids are made of.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

const NO_BODY: Option<&()> = None;

/// A client of one daemon. It connects at its first call, and keeps the connection.
#[derive(Debug)]
pub struct Client {
    http: HttpClient,
    long: Duration,
}

impl Client {
    /// Speaks to the daemon at `endpoint`.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { http: HttpClient::new(endpoint), long: LONG }
    }

    /// Gives calls that wait for a disk or a guest this long.
    pub fn with_long_deadline(self, long: Duration) -> Self {
        Self { long, ..self }
    }

    /// Where its calls go.
    pub fn endpoint(&self) -> &Endpoint {
        self.http.endpoint()
    }

    /// Whether the daemon answers.
    pub async fn healthy(&self) -> bool {
        let answer = self.http.call(Method::GET, "/healthz", None, SHORT).await;
        answer.is_ok_and(|answer| answer.status.is_success())
    }

    /// What the daemon says of itself.
    pub async fn version(&self) -> Result<Value, CallError> {
        self.get("/version").await
    }

    /// Every whole snapshot, newest first; with `damaged`, those too that are not whole.
    pub async fn snapshots(&self, damaged: bool) -> Result<Vec<Snapshot>, CallError> {
        self.get(if damaged { "/v1/snapshots?damaged=true" } else { "/v1/snapshots" }).await
    }

    /// One snapshot.
    pub async fn snapshot(&self, tag: &str) -> Result<SnapshotDetail, CallError> {
        self.get(&snapshot_path(tag)).await
    }

    /// Boots a microVM and snapshots it.
    pub async fn create_snapshot(&self, request: &CreateSnapshot) -> Result<Snapshot, CallError> {
        self.http.json(Method::POST, "/v1/snapshots", Some(request), self.long).await
    }

    /// Deletes a snapshot; `dependents` says what becomes of the layers on it.
    pub async fn delete_snapshot(&self, tag: &str, dependents: Dependents) -> Result<(), CallError> {
        let query = match dependents {
            Dependents::Refuse => "",
            Dependents::Cascade => "?cascade=true",
            Dependents::Flatten => "?flatten=true",
        };
        self.delete(&format!("{}{query}", snapshot_path(tag))).await
    }

    /// Turns a layer into an image.
    pub async fn compact(&self, tag: &str) -> Result<SnapshotDetail, CallError> {
        let path = format!("{}/compact", snapshot_path(tag));
        self.http.json(Method::POST, &path, NO_BODY, self.long).await
    }

    /// Every sandbox.
    pub async fn sandboxes(&self) -> Result<Vec<Sandbox>, CallError> {
        self.get("/v1/sandboxes").await
    }

    /// One sandbox.
    pub async fn sandbox(&self, id: &str) -> Result<Sandbox, CallError> {
        self.get(&sandbox_path(id)).await
    }

    /// Forks sandboxes from a snapshot: all of them, or none.
    pub async fn fork(&self, request: &CreateSandboxes) -> Result<Vec<Sandbox>, CallError> {
        self.http.json(Method::POST, "/v1/sandboxes", Some(request), self.long).await
    }

    /// Ends a sandbox.
    pub async fn delete_sandbox(&self, id: &str) -> Result<(), CallError> {
        self.delete(&sandbox_path(id)).await
    }

    /// Pauses a sandbox's guest until its user resumes it.
    pub async fn pause(&self, id: &str) -> Result<Sandbox, CallError> {
        self.http.json(Method::POST, &format!("{}/pause", sandbox_path(id)), NO_BODY, self.long).await
    }

    /// Lets a paused guest go on.
    pub async fn resume(&self, id: &str) -> Result<Sandbox, CallError> {
        self.http.json(Method::POST, &format!("{}/resume", sandbox_path(id)), NO_BODY, self.long).await
    }

    /// Takes a BRANCH of a sandbox.
    pub async fn branch(&self, id: &str, request: &BranchRequest) -> Result<Branch, CallError> {
        let path = format!("{}/branch", sandbox_path(id));
        self.http.json(Method::POST, &path, Some(request), self.long).await
    }

    /// BRANCHes that are under way, succeeded or failed, the newest first.
    pub async fn branches(&self, query: &BranchQuery) -> Result<Vec<BranchRecord>, CallError> {
        self.get(&branches_path(query)).await
    }

    /// One BRANCH, as the history has it.
    pub async fn branch_record(&self, id: &str) -> Result<BranchRecord, CallError> {
        self.get(&format!("/v1/branches/{}", in_path(id))).await
    }

    /// Writes to a guest's console and reads what it answers.
    pub async fn console(&self, id: &str, request: &ConsoleRequest) -> Result<ConsoleAnswer, CallError> {
        // The daemon waits for the guest; the call waits for the daemon.
        let guest = Duration::from_millis(request.timeout_ms.unwrap_or(1_000));
        self.http.json(Method::POST, &console_path(id), Some(request), guest + SHORT).await
    }

    /// Reads a guest's console from the offset `from` on, waiting up to `wait` for the first byte; with no
    /// offset it only tells where the end is.
    pub async fn console_output(
        &self,
        id: &str,
        from: Option<u64>,
        wait: Duration,
    ) -> Result<ConsoleOutput, CallError> {
        let mut path = format!("{}?wait_ms={}", console_path(id), wait.as_millis());
        if let Some(from) = from {
            path.push_str(&format!("&from={from}"));
        }
        self.http.json(Method::GET, &path, NO_BODY, wait + SHORT).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        self.http.json(Method::GET, path, NO_BODY, SHORT).await
    }

    async fn delete(&self, path: &str) -> Result<(), CallError> {
        self.http.json(Method::DELETE, path, NO_BODY, self.long).await.map(|_: IgnoredAny| ())
    }
}

fn snapshot_path(tag: &str) -> String {
    format!("/v1/snapshots/{}", in_path(tag))
}

fn sandbox_path(id: &str) -> String {
    format!("/v1/sandboxes/{}", in_path(id))
}

fn branches_path(query: &BranchQuery) -> String {
    let limit = query.limit.map(|limit| limit.to_string());
    let asked =
        [("source", &query.source), ("tag", &query.tag), ("limit", &limit), ("before", &query.before)];
    let asked = asked.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
    let pairs: Vec<String> = asked.map(|(name, value)| format!("{name}={}", in_path(value))).collect();
    format!("/v1/branches?{}", pairs.join("&"))
}

fn console_path(id: &str) -> String {
    format!("{}/console", sandbox_path(id))
}

fn in_path(name: &str) -> impl Display {
    utf8_percent_encode(name, IN_PATH)
}

#[cfg(test)]
mod tests {
    use super::{branches_path, sandbox_path, snapshot_path};
    use crate::api::BranchQuery;

    #[test]
    fn a_query_says_what_is_asked_for_and_nothing_else() {
        let query = BranchQuery { limit: Some(7), tag: Some("a&b".into()), ..BranchQuery::default() };
        assert_eq!(branches_path(&query), "/v1/branches?tag=a%26b&limit=7");
        assert_eq!(branches_path(&BranchQuery::default()), "/v1/branches?");
    }

    #[test]
    fn a_name_cannot_leave_its_place_in_the_path() {
        assert_eq!(snapshot_path("b-1_x"), "/v1/snapshots/b-1_x");
        assert_eq!(
            sandbox_path("../snapshots/a?cascade=true"),
            "/v1/sandboxes/%2E%2E%2Fsnapshots%2Fa%3Fcascade%3Dtrue"
        );
    }
}
