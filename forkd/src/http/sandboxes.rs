//! `/v1/sandboxes`

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use tokio::sync::oneshot;
use utoipa::IntoParams;

use super::audit::AuditNote;
use super::error::ApiError;
use super::snapshots::within;
use super::{ApiJson, joined, to_its_end};
use crate::api::{
    Branch, BranchMode, BranchRequest, ConsoleAnswer, ConsoleOutput, ConsoleRequest, CreateSandboxes,
    ErrorBody, Sandbox,
};
use crate::daemon::{Daemon, ForkOptions, OperationError};
use crate::snapshot::tag::Tag;
use crate::vmm::cgroup::Limits;

/// How long a console request waits when it does not say.
const DEFAULT_CONSOLE_WAIT_MS: u64 = 1_000;
const MAX_CONSOLE_WAIT_MS: u64 = 60_000;
/// More than any host has: 16 TiB.
const MAX_LIMIT_MIB: u32 = 16 << 20;

/// Every sandbox, dead ones included
#[utoipa::path(
    get, path = "/v1/sandboxes", tag = "sandboxes",
    responses((status = 200, description = "The sandboxes", body = Vec<Sandbox>))
)]
pub(super) async fn list(State(daemon): State<Arc<Daemon>>) -> Json<Vec<Sandbox>> {
    Json(daemon.sandboxes().iter().map(|sandbox| sandbox.info()).collect())
}

/// Fork sandboxes from a snapshot: all of them, or none
#[utoipa::path(
    post, path = "/v1/sandboxes", tag = "sandboxes", request_body = CreateSandboxes,
    responses(
        (status = 201, description = "They run", body = Vec<Sandbox>),
        (status = 400, description = "The request is wrong", body = ErrorBody),
        (status = 404, description = "There is no such snapshot", body = ErrorBody),
        (status = 409, description = "The snapshot is damaged; the error names the file", body = ErrorBody),
        (status = 500, description = "Firecracker did not start them", body = ErrorBody),
    )
)]
pub(super) async fn create(
    State(daemon): State<Arc<Daemon>>,
    ApiJson(request): ApiJson<CreateSandboxes>,
) -> Result<(StatusCode, Json<Vec<Sandbox>>), ApiError> {
    let tag: Tag = request.snapshot_tag.parse()?;
    let n = within("n", request.n, 1..=1_000)?;
    let memory_mib = request.memory_limit_mib.map(|mib| within("memory_limit_mib", mib, 16..=MAX_LIMIT_MIB));
    let cpus = request.cpu_quota.map(|cpus| within("cpu_quota", cpus, 0.01..=1024.0));
    let limits = Limits { memory_mib: memory_mib.transpose()?, cpus: cpus.transpose()? };
    let options = ForkOptions { netns: request.netns, limits, force: request.force };
    let forked = to_its_end(async move { daemon.fork(&tag, n, &options).await }).await??;
    Ok((StatusCode::CREATED, Json(forked.iter().map(|sandbox| sandbox.info()).collect())))
}

/// One sandbox
#[utoipa::path(
    get, path = "/v1/sandboxes/{id}", tag = "sandboxes",
    params(("id" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "The sandbox", body = Sandbox),
        (status = 404, description = "There is none with that id", body = ErrorBody),
    )
)]
pub(super) async fn show(
    State(daemon): State<Arc<Daemon>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Sandbox>, ApiError> {
    Ok(Json(daemon.sandbox(&id?)?.info()))
}

/// End a sandbox
#[utoipa::path(
    delete, path = "/v1/sandboxes/{id}", tag = "sandboxes",
    params(("id" = String, Path, description = "Its id")),
    responses(
        (status = 204, description = "It has ended"),
        (status = 404, description = "There is none with that id", body = ErrorBody),
    )
)]
pub(super) async fn delete(
    State(daemon): State<Arc<Daemon>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let Path(id) = id?;
    to_its_end(async move { daemon.end_sandbox(&id).await }).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// Pause a guest until its user resumes it
#[utoipa::path(
    post, path = "/v1/sandboxes/{id}/pause", tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id")),
    responses(
        (status = 200, description = "It stands still", body = Sandbox),
        (status = 404, description = "There is no such sandbox", body = ErrorBody),
        (status = 409, description = "It is dead, stuck, or being branched", body = ErrorBody),
    )
)]
pub(super) async fn pause(
    State(daemon): State<Arc<Daemon>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Sandbox>, ApiError> {
    let Path(id) = id?;
    Ok(Json(to_its_end(async move { daemon.pause(&id).await }).await??.info()))
}

/// Let a paused guest go on
#[utoipa::path(
    post, path = "/v1/sandboxes/{id}/resume", tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id")),
    responses(
        (status = 200, description = "It runs", body = Sandbox),
        (status = 404, description = "There is no such sandbox", body = ErrorBody),
        (status = 409, description = "It is dead, stuck, or being branched", body = ErrorBody),
    )
)]
pub(super) async fn resume(
    State(daemon): State<Arc<Daemon>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Sandbox>, ApiError> {
    let Path(id) = id?;
    Ok(Json(to_its_end(async move { daemon.resume(&id).await }).await??.info()))
}

/// Write to a guest's serial console and read what it answers
#[utoipa::path(
    post, path = "/v1/sandboxes/{id}/console", tag = "sandboxes", request_body = ConsoleRequest,
    params(("id" = String, Path, description = "The sandbox's id")),
    responses(
        (status = 200, description = "What the guest wrote", body = ConsoleAnswer),
        (status = 400, description = "The request is wrong", body = ErrorBody),
        (status = 404, description = "There is no such sandbox", body = ErrorBody),
    )
)]
pub(super) async fn console(
    State(daemon): State<Arc<Daemon>>,
    id: Result<Path<String>, PathRejection>,
    ApiJson(request): ApiJson<ConsoleRequest>,
) -> Result<Json<ConsoleAnswer>, ApiError> {
    let sandbox = daemon.sandbox(&id?)?;
    let wait_ms = request.timeout_ms.unwrap_or(DEFAULT_CONSOLE_WAIT_MS);
    let wait = Duration::from_millis(within("timeout_ms", wait_ms, 0..=MAX_CONSOLE_WAIT_MS)?);
    let until = request.until.as_deref().map(str::as_bytes);
    let exchange = sandbox
        .console
        .exchange(request.write.as_bytes(), until, wait)
        .await
        .map_err(|source| OperationError::Console { id: sandbox.id.clone(), source })?;
    Ok(Json(ConsoleAnswer {
        output: String::from_utf8_lossy(&exchange.output).into_owned(),
        matched: exchange.matched,
        dropped_bytes: exchange.dropped_bytes,
    }))
}

/// What of a console's output to read.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OutputQuery {
    /// The offset to read from; the end of the output when absent.
    from: Option<u64>,
    /// How long to wait for the first byte.
    #[serde(default)]
    wait_ms: u64,
}

/// Listen to a guest's serial console
#[utoipa::path(
    get, path = "/v1/sandboxes/{id}/console", tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id"), OutputQuery),
    responses(
        (status = 200, description = "What the guest wrote", body = ConsoleOutput),
        (status = 400, description = "The query is wrong", body = ErrorBody),
        (status = 404, description = "There is no such sandbox", body = ErrorBody),
    )
)]
pub(super) async fn console_output(
    State(daemon): State<Arc<Daemon>>,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<OutputQuery>, QueryRejection>,
) -> Result<Json<ConsoleOutput>, ApiError> {
    let Query(query) = query?;
    let wait = Duration::from_millis(within("wait_ms", query.wait_ms, 0..=MAX_CONSOLE_WAIT_MS)?);
    let sandbox = daemon.sandbox(&id?)?;
    let heard = sandbox.console.listen(query.from, wait).await;
    Ok(Json(ConsoleOutput {
        output: String::from_utf8_lossy(&heard.output).into_owned(),
        next: heard.next,
        dropped_bytes: heard.dropped_bytes,
    }))
}

/// Snapshot a running sandbox and let it go on
#[utoipa::path(
    post, path = "/v1/sandboxes/{id}/branch", tag = "sandboxes", request_body = BranchRequest,
    params(("id" = String, Path, description = "The sandbox's id")),
    responses(
        (status = 201, description = "The snapshot is there, and durable where it was to be", body = Branch),
        (status = 202, description = "With `wait: false`: the guest runs again, the snapshot is being written", body = Branch),
        (status = 400, description = "The request is wrong", body = ErrorBody),
        (status = 404, description = "There is no such sandbox", body = ErrorBody),
        (status = 409, description = "The tag is taken, or the sandbox is busy, paused, dead, or has been branched \
            as often as it may be", body = ErrorBody),
        (status = 500, description = "It failed; the guest runs again unless the error says otherwise", body = ErrorBody),
        (status = 503, description = "Too many BRANCHes at once", body = ErrorBody,
            headers(("Retry-After" = u64, description = "Seconds after which to try again"))),
        (status = 507, description = "The disk is full; the guest runs again", body = ErrorBody),
    )
)]
pub(super) async fn branch(
    State(daemon): State<Arc<Daemon>>,
    id: Result<Path<String>, PathRejection>,
    ApiJson(request): ApiJson<BranchRequest>,
) -> Result<(StatusCode, Extension<AuditNote>, Json<Branch>), ApiError> {
    let Path(id) = id?;
    let tag: Option<Tag> = request.tag.as_deref().map(str::parse).transpose()?;
    let mode = match (request.mode, request.diff) {
        (Some(_), Some(_)) => {
            return Err(ApiError::bad_request(
                "both 'mode' and 'diff' are given: they say the same thing, give one",
            ));
        }
        (Some(mode), None) => mode,
        (None, Some(true)) => BranchMode::Diff,
        (None, Some(false) | None) => BranchMode::Full,
    };
    let how = (mode, request.data_path, request.durable.unwrap_or(true));
    if request.wait.unwrap_or(true) {
        let branch = async move { daemon.branch(&id, tag, how, None).await };
        return Ok(answer(StatusCode::CREATED, to_its_end(branch).await??));
    }
    let (resumed, report) = oneshot::channel();
    let whole = tokio::spawn(async move { daemon.branch(&id, tag, how, Some(resumed)).await });
    match report.await {
        Ok(report) => Ok(answer(StatusCode::ACCEPTED, report)),
        // It ended before the guest ran again: its own word says why.
        Err(_) => Ok(answer(StatusCode::CREATED, joined(whole).await??)),
    }
}

fn answer(status: StatusCode, branch: Branch) -> (StatusCode, Extension<AuditNote>, Json<Branch>) {
    (status, Extension(AuditNote::of(&branch)), Json(branch))
}
