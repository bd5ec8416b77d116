//! What measuring needs of the daemon: its client, with errors that say what was being done.

use std::time::Duration;

use forkd::api::{
    Branch, BranchMode, BranchRequest, ConsoleAnswer, ConsoleRequest, CreateSandboxes, CreateSnapshot,
    DataPath, Sandbox, Snapshot,
};
use forkd::client::Client;
use forkd::http_client::{CallError, Endpoint};
use forkd::snapshot::delete::Dependents;

use crate::Error;

/// Long enough for a slow disk to take a whole guest, short enough to end a run that hangs.
const LONG: Duration = Duration::from_secs(300);
/// How long the guest may take to answer.
const GUEST_MS: u64 = 20_000;

/// What kind of BRANCH is taken.
#[derive(Clone, Copy, Debug)]
pub struct BranchKind {
    /// What Firecracker writes.
    pub mode: BranchMode,
    /// How the bytes get to disk.
    pub data_path: DataPath,
    /// Whether the answer waits until they are there.
    pub durable: bool,
}

/// One daemon.
#[derive(Debug)]
pub struct Api {
    client: Client,
}

impl Api {
    /// Speaks to the daemon at `endpoint`.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { client: Client::new(endpoint).with_long_deadline(LONG) }
    }

    /// Whether it answers.
    pub async fn healthy(&self) -> bool {
        self.client.healthy().await
    }

    /// Its version as it states it: the `version` of `GET /version`, or the whole answer.
    pub async fn version(&self) -> Result<String, Error> {
        let answer = self.client.version().await.map_err(call("ask for the daemon's version"))?;
        Ok(answer["version"].as_str().map_or_else(|| answer.to_string(), str::to_owned))
    }

    /// Boots the built-in guest and snapshots it as `tag`.
    pub async fn create_snapshot(&self, tag: &str, mem_mib: u32) -> Result<Snapshot, Error> {
        let request =
            CreateSnapshot { tag: tag.to_owned(), mem_mib: Some(mem_mib), ..CreateSnapshot::default() };
        self.client.create_snapshot(&request).await.map_err(call("create the base snapshot"))
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
        let request = CreateSandboxes::new(tag, n);
        self.client.fork(&request).await.map_err(call(format!("fork {n} sandboxes from {tag}")))
    }

    /// Writes `write` to the console of sandbox `id`, and reads to the end of `until`.
    pub async fn console(&self, id: &str, write: &str, until: &str) -> Result<ConsoleAnswer, Error> {
        let request = ConsoleRequest {
            write: write.to_owned(),
            until: Some(until.to_owned()),
            timeout_ms: Some(GUEST_MS),
        };
        self.client.console(id, &request).await.map_err(call(format!("speak to the guest of {id}")))
    }

    /// Takes a BRANCH of sandbox `id` as `tag`.
    pub async fn branch(&self, id: &str, tag: &str, kind: BranchKind) -> Result<Branch, Error> {
        let request = BranchRequest {
            tag: Some(tag.to_owned()),
            mode: Some(kind.mode),
            data_path: Some(kind.data_path),
            durable: Some(kind.durable),
            ..BranchRequest::default()
        };
        self.branch_as(id, &request).await
    }

    /// Takes a BRANCH of sandbox `id` as `request` asks for it.
    pub async fn branch_as(&self, id: &str, request: &BranchRequest) -> Result<Branch, Error> {
        self.client.branch(id, request).await.map_err(call(format!("BRANCH {id}")))
    }

    /// Where the time of the pause of BRANCH `id` went, as soon as the daemon knows it.
    pub async fn attribution(&self, id: &str) -> Result<Option<serde_json::Value>, Error> {
        let record = self.client.branch_record(id).await;
        Ok(record.map_err(call(format!("ask for the BRANCH {id}")))?.attribution)
    }

    /// Ends sandbox `id`.
    pub async fn delete_sandbox(&self, id: &str) -> Result<(), Error> {
        self.client.delete_sandbox(id).await.map_err(call(format!("end sandbox {id}")))
    }

    /// Removes snapshot `tag`.
    pub async fn delete_snapshot(&self, tag: &str) -> Result<(), Error> {
        let deleted = self.client.delete_snapshot(tag, Dependents::Refuse).await;
        deleted.map_err(call(format!("delete snapshot {tag}")))
    }
}

fn call(doing: impl Into<String>) -> impl FnOnce(CallError) -> Error {
    let doing = doing.into();
    move |source| Error::Call { doing, source }
}
