//! The HTTP API: routes, and what every handler shares.

mod error;
mod packs;
mod sandboxes;
pub mod serve;
mod snapshots;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, FromRequest};
use axum::http::StatusCode;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use self::error::ApiError;
use crate::daemon::Daemon;

/// No request of this API is larger.
const MAX_BODY_BYTES: usize = 64 << 10;

/// A JSON body; what is wrong with one is said in the API's own error body.
#[derive(FromRequest)]
#[from_request(via(Json), rejection(ApiError))]
struct ApiJson<T>(T);

/// The whole API over one daemon.
pub fn router(daemon: Arc<Daemon>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { Json(json!({ "ok": true })) }))
        .route("/version", get(version))
        .route("/v1/snapshots", get(snapshots::list).post(snapshots::create))
        .route("/v1/snapshots/{tag}", get(snapshots::show).delete(snapshots::delete))
        .route("/v1/snapshots/{tag}/compact", post(snapshots::compact))
        .route("/v1/snapshots/{tag}/pack", get(packs::get))
        // A pack is as large as the guests in it, and is never held whole.
        .route("/v1/packs", put(packs::put).layer(DefaultBodyLimit::disable()))
        .route("/v1/sandboxes", get(sandboxes::list).post(sandboxes::create))
        .route("/v1/sandboxes/{id}", get(sandboxes::show).delete(sandboxes::delete))
        .route("/v1/sandboxes/{id}/console", get(sandboxes::console_output).post(sandboxes::console))
        .route("/v1/sandboxes/{id}/branch", post(sandboxes::branch))
        .fallback(|| async { ApiError::new(StatusCode::NOT_FOUND, "no such path: the API begins with /v1") })
        .method_not_allowed_fallback(|| async {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take that method")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(daemon)
}

async fn version(axum::extract::State(daemon): axum::extract::State<Arc<Daemon>>) -> Json<Value> {
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "api": "v1",
        "firecracker": daemon.config().firecracker.version,
    }))
}

/// Runs an operation to its end even if the client goes away: a BRANCH must not stop half-way.
async fn to_its_end<T: Send + 'static>(
    operation: impl Future<Output = T> + Send + 'static,
) -> Result<T, ApiError> {
    joined(tokio::spawn(operation)).await
}

/// As [`to_its_end`], for work that waits for a disk.
async fn blocking_to_its_end<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    joined(tokio::task::spawn_blocking(work)).await
}

/// Awaits a task, which goes on when this future is dropped.
async fn joined<T>(task: JoinHandle<T>) -> Result<T, ApiError> {
    task.await.map_err(|panic| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the operation ended unexpectedly: {panic}"))
    })
}
