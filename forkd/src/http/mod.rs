//! The HTTP API: routes, and what every handler shares.

pub mod audit;
mod branches;
mod error;
mod events;
mod metrics;
pub mod openapi;
mod packs;
pub mod peer;
mod sandboxes;
pub mod serve;
mod snapshots;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, FromRequest, State};
use axum::http::StatusCode;
use axum::{Extension, Json, Router};
use tokio::task::JoinHandle;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::error::ApiError;
use self::openapi::Document;
use crate::api::{Health, Version};
use crate::daemon::Daemon;
use crate::vmm::support::Support;

/// No request of this API is larger.
const MAX_BODY_BYTES: usize = 64 << 10;

/// A JSON body; what is wrong with one is said in the API's own error body.
#[derive(FromRequest)]
#[from_request(via(Json), rejection(ApiError))]
struct ApiJson<T>(T);

/// The whole API over one daemon.
pub fn router(daemon: Arc<Daemon>) -> Router {
    let (router, document) = routes().split_for_parts();
    router
        .fallback(|| async { ApiError::new(StatusCode::NOT_FOUND, "no such path: the API begins with /v1") })
        .method_not_allowed_fallback(|| async {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take that method")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(Extension(Document::of(&document)))
        .with_state(daemon)
}

/// Every route with its description: what is served is what `GET /openapi.json` says.
fn routes() -> OpenApiRouter<Arc<Daemon>> {
    OpenApiRouter::with_openapi(openapi::Description::openapi())
        .routes(routes!(health))
        .routes(routes!(version))
        .routes(routes!(openapi::show))
        .routes(routes!(metrics::render))
        .routes(routes!(snapshots::list, snapshots::create))
        .routes(routes!(snapshots::show, snapshots::delete))
        .routes(routes!(snapshots::compact))
        .routes(routes!(packs::get))
        // A pack is as large as the guests in it, and is never held whole: the limit is on bodies that are.
        .routes(routes!(packs::put))
        .routes(routes!(sandboxes::list, sandboxes::create))
        .routes(routes!(sandboxes::show, sandboxes::delete))
        .routes(routes!(sandboxes::console_output, sandboxes::console))
        .routes(routes!(sandboxes::pause))
        .routes(routes!(sandboxes::resume))
        .routes(routes!(sandboxes::branch))
        .routes(routes!(branches::list))
        .routes(routes!(branches::show))
        .routes(routes!(events::follow))
}

/// Whether the daemon answers
#[utoipa::path(
    get, path = "/healthz", tag = "daemon",
    responses((status = 200, description = "It does", body = Health))
)]
async fn health() -> Json<Health> {
    Json(Health { ok: true })
}

/// What answers
#[utoipa::path(
    get, path = "/version", tag = "daemon",
    responses((status = 200, description = "The daemon's version and its Firecracker's", body = Version))
)]
async fn version(State(daemon): State<Arc<Daemon>>) -> Json<Version> {
    let firecracker = &daemon.config().firecracker;
    Json(Version {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api: "v1".to_owned(),
        firecracker: firecracker.version.clone(),
        firecracker_support: firecracker.support().name().to_owned(),
        firecracker_supported_versions: Support::versions(),
        snapshot_format: firecracker.snapshot_format.clone(),
    })
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
