//! `/metrics`

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use super::blocking_to_its_end;
use super::error::ApiError;
use crate::daemon::Daemon;
use crate::metrics;

/// The daemon's figures, for Prometheus
#[utoipa::path(
    get, path = "/metrics", tag = "daemon",
    responses((status = 200, description = "OpenMetrics text 1.0", content_type = "text/plain", body = String))
)]
pub(super) async fn render(State(daemon): State<Arc<Daemon>>) -> Result<impl IntoResponse, ApiError> {
    let rendered = blocking_to_its_end(move || daemon.render_metrics()).await??;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], rendered))
}
