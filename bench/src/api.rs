//! The daemon's API, as far as measuring needs it, with a deadline on every call.

use std::time::Duration;

use forkd::api::{
    Branch, BranchRequest, ConsoleAnswer, ConsoleRequest, CreateSandboxes, CreateSnapshot, DataPath, Sandbox,
    Snapshot,
};
use forkd::http_client::{CallError, Endpoint, HttpClient};
use hyper::Method;
use serde_json::Value;

use crate::Error;

const SHORT: Duration = Duration::from_secs(30);
/// Long enough for a slow disk to take a whole guest, short enough to end a run that hangs.
const LONG: Duration = Duration::from_secs(300);
const NO_BODY: Option<&()> = None;

/// One daemon.
#[derive(Debug)]
pub struct Api {
    client: HttpClient,
}

impl Api {
    /// Speaks to the daemon at `endpoint`.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { client: HttpClient::new(endpoint) }
    }

    /// Whether it answers.
    pub async fn healthy(&self) -> bool {
        let answer = self.client.call(Method::GET, "/healthz", None, SHORT).await;
        answer.is_ok_and(|answer| answer.status.is_success())
    }

    /// Its version as it states it: the `version` of `GET /version`, or the whole answer.
    pub async fn version(&self) -> Result<String, Error> {
        let answer = self.client.json(Method::GET, "/version", NO_BODY, SHORT).await;
        let answer: Value = answer.map_err(call("ask for the daemon's version"))?;
        Ok(answer["version"].as_str().map_or_else(|| answer.to_string(), str::to_owned))
    }

    /// Boots the built-in guest and snapshots it as `tag`.
    pub async fn create_snapshot(&self, tag: &str, mem_mib: u32) -> Result<Snapshot, Error> {
        let body =
            CreateSnapshot { tag: tag.to_owned(), mem_mib: Some(mem_mib), ..CreateSnapshot::default() };
        let answer = self.client.json(Method::POST, "/v1/snapshots", Some(&body), LONG).await;
        answer.map_err(call("create the base snapshot"))
    }

    /// Forks one sandbox from `tag`.
    pub async fn fork(&self, tag: &str) -> Result<Sandbox, Error> {
        self.fork_many(tag, 1).await?.pop().ok_or_else(|| Error::Daemon {
            what: format!("forked no sandbox from {tag}"),
            log: "(it reported none)".to_owned(),
        })
    }

    /// Forks `n` sandboxes from `tag`, with one call.
    pub async fn fork_many(&self, tag: &str, n: u32) -> Result<Vec<Sandbox>, Error> {
        let body = CreateSandboxes { snapshot_tag: tag.to_owned(), n };
        let answer = self.client.json(Method::POST, "/v1/sandboxes", Some(&body), LONG).await;
        answer.map_err(call(format!("fork {n} sandboxes from {tag}")))
    }

    /// Writes `write` to the console of sandbox `id`, and reads to the end of `until`.
    pub async fn console(&self, id: &str, write: &str, until: &str) -> Result<ConsoleAnswer, Error> {
        const GUEST: Duration = Duration::from_secs(20);
        let path = format!("/v1/sandboxes/{id}/console");
        let body = ConsoleRequest {
            write: write.to_owned(),
            until: Some(until.to_owned()),
            timeout_ms: Some(GUEST.as_millis() as u64),
        };
        let answer = self.client.json(Method::POST, &path, Some(&body), GUEST + SHORT).await;
        answer.map_err(call(format!("speak to the guest of {id}")))
    }

    /// Takes a diff BRANCH of sandbox `id` as `tag`; `durable` says whether the answer waits for the disk.
    pub async fn branch(
        &self,
        id: &str,
        tag: &str,
        data_path: DataPath,
        durable: bool,
    ) -> Result<Branch, Error> {
        let path = format!("/v1/sandboxes/{id}/branch");
        let body = BranchRequest {
            tag: Some(tag.to_owned()),
            diff: Some(true),
            data_path: Some(data_path),
            durable: Some(durable),
            ..BranchRequest::default()
        };
        let answer = self.client.json(Method::POST, &path, Some(&body), LONG).await;
        answer.map_err(call(format!("BRANCH {id} as {tag}")))
    }

    /// Ends sandbox `id`.
    pub async fn delete_sandbox(&self, id: &str) -> Result<(), Error> {
        self.delete(&format!("/v1/sandboxes/{id}")).await
    }

    /// Removes snapshot `tag`.
    pub async fn delete_snapshot(&self, tag: &str) -> Result<(), Error> {
        self.delete(&format!("/v1/snapshots/{tag}")).await
    }

    async fn delete(&self, path: &str) -> Result<(), Error> {
        let answer: Result<Value, CallError> = self.client.json(Method::DELETE, path, NO_BODY, SHORT).await;
        answer.map(drop).map_err(call(format!("delete {path}")))
    }
}

fn call(doing: impl Into<String>) -> impl FnOnce(CallError) -> Error {
    let doing = doing.into();
    move |source| Error::Call { doing, source }
}
