//! `/v1/branches`: the history of BRANCHes

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};

use super::error::ApiError;
use super::snapshots::within;
use crate::api::{BranchQuery, BranchRecord, ErrorBody};
use crate::daemon::{Daemon, OperationError};

/// The most BRANCHes of one answer.
const MAX_LIMIT: u32 = 1_000;

/// BRANCHes that are under way, succeeded or failed, the newest first
#[utoipa::path(
    get, path = "/v1/branches", tag = "branches", params(BranchQuery),
    responses(
        (status = 200, description = "The BRANCHes asked for", body = Vec<BranchRecord>),
        (status = 400, description = "The query is wrong", body = ErrorBody),
        (status = 503, description = "The history cannot be read", body = ErrorBody),
    )
)]
pub(super) async fn list(
    State(daemon): State<Arc<Daemon>>,
    query: Result<Query<BranchQuery>, QueryRejection>,
) -> Result<Json<Vec<BranchRecord>>, ApiError> {
    let Query(query) = query?;
    if let Some(limit) = query.limit {
        within("limit", limit, 1..=MAX_LIMIT)?;
    }
    Ok(Json(daemon.history().list(query).await.map_err(OperationError::from)?))
}

/// One BRANCH, with all its phases
#[utoipa::path(
    get, path = "/v1/branches/{id}", tag = "branches",
    params(("id" = String, Path, description = "Its id, as the answer to the BRANCH says it")),
    responses(
        (status = 200, description = "The BRANCH as it stands", body = BranchRecord),
        (status = 404, description = "There is none with that id", body = ErrorBody),
        (status = 503, description = "The history cannot be read", body = ErrorBody),
    )
)]
pub(super) async fn show(
    State(daemon): State<Arc<Daemon>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<BranchRecord>, ApiError> {
    let Path(id) = id?;
    let record = daemon.history().get(&id).await.map_err(OperationError::from)?;
    Ok(Json(record.ok_or(OperationError::NoBranch(id))?))
}
