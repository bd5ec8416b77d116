//! `/v1/snapshots`

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use super::error::ApiError;
use super::{ApiJson, blocking_to_its_end, to_its_end};
use crate::api::{CreateSnapshot, ErrorBody, Snapshot, SnapshotDetail};
use crate::daemon::Daemon;
use crate::snapshot::delete::Dependents;
use crate::snapshot::tag::Tag;
use crate::vmm::boot::BootSource;

/// Memory of a microVM whose request names none.
const DEFAULT_MEM_MIB: u32 = 128;

/// Which snapshots `GET /v1/snapshots` is to list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Those too that are not whole.
    #[serde(default)]
    damaged: bool,
}

/// Every whole snapshot, the newest first
#[utoipa::path(
    get, path = "/v1/snapshots", tag = "snapshots", params(ListQuery),
    responses(
        (status = 200, description = "The snapshots", body = Vec<Snapshot>),
        (status = 400, description = "The query is wrong", body = ErrorBody),
    )
)]
pub(super) async fn list(
    State(daemon): State<Arc<Daemon>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Vec<Snapshot>>, ApiError> {
    let Query(query) = query?;
    Ok(Json(blocking_to_its_end(move || daemon.snapshots(query.damaged)).await??))
}

/// Boot a microVM, wait until it is ready, snapshot it, end it
#[utoipa::path(
    post, path = "/v1/snapshots", tag = "snapshots", request_body = CreateSnapshot,
    responses(
        (status = 201, description = "The snapshot is on disk", body = Snapshot),
        (status = 400, description = "The request is wrong", body = ErrorBody),
        (status = 409, description = "The tag is taken", body = ErrorBody),
        (status = 500, description = "The guest did not become ready, or could not be snapshotted", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(super) async fn create(
    State(daemon): State<Arc<Daemon>>,
    ApiJson(request): ApiJson<CreateSnapshot>,
) -> Result<(StatusCode, Json<Snapshot>), ApiError> {
    let tag: Tag = request.tag.parse()?;
    let source = BootSource::from_request(&request).map_err(ApiError::bad_request)?;
    let vcpus = within("vcpus", request.vcpus.unwrap_or(1), 1..=32)?;
    let mem_mib = within("mem_mib", request.mem_mib.unwrap_or(DEFAULT_MEM_MIB), 16..=65_536)?;
    let wait = request.boot_wait_ms;
    let create = async move { daemon.create_snapshot(tag, source, (vcpus, mem_mib), wait).await };
    Ok((StatusCode::CREATED, Json(to_its_end(create).await??)))
}

/// All there is to know about one snapshot, whole, damaged or in the making
#[utoipa::path(
    get, path = "/v1/snapshots/{tag}", tag = "snapshots",
    params(("tag" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "The snapshot", body = SnapshotDetail),
        (status = 404, description = "There is none of that name", body = ErrorBody),
    )
)]
pub(super) async fn show(
    State(daemon): State<Arc<Daemon>>,
    tag: Result<Path<String>, PathRejection>,
) -> Result<Json<SnapshotDetail>, ApiError> {
    let tag: Tag = tag?.parse()?;
    Ok(Json(blocking_to_its_end(move || daemon.snapshot(&tag)).await??))
}

/// What `DELETE /v1/snapshots/:tag` may be asked to do with layers that lie on the snapshot.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeleteQuery {
    /// They are deleted too, with all that lies on them.
    #[serde(default)]
    cascade: bool,
    /// They are turned into images first, so that nothing is lost.
    #[serde(default)]
    flatten: bool,
}

/// Delete a snapshot; sandboxes forked from it go on
#[utoipa::path(
    delete, path = "/v1/snapshots/{tag}", tag = "snapshots",
    params(("tag" = String, Path, description = "Its name"), DeleteQuery),
    responses(
        (status = 204, description = "It is gone"),
        (status = 400, description = "The request is wrong", body = ErrorBody),
        (status = 404, description = "There is none of that name", body = ErrorBody),
        (status = 409, description = "Layers lie on it; the error names them", body = ErrorBody),
    )
)]
pub(super) async fn delete(
    State(daemon): State<Arc<Daemon>>,
    tag: Result<Path<String>, PathRejection>,
    query: Result<Query<DeleteQuery>, QueryRejection>,
) -> Result<StatusCode, ApiError> {
    let tag: Tag = tag?.parse()?;
    let Query(query) = query?;
    let dependents = match (query.cascade, query.flatten) {
        (true, true) => {
            return Err(ApiError::bad_request(
                "both 'cascade' and 'flatten' are given: one deletes what the other keeps",
            ));
        }
        (true, false) => Dependents::Cascade,
        (false, true) => Dependents::Flatten,
        (false, false) => Dependents::Refuse,
    };
    blocking_to_its_end(move || daemon.delete_snapshot(&tag, dependents)).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// Turn a layer into an image that lies on nothing
#[utoipa::path(
    post, path = "/v1/snapshots/{tag}/compact", tag = "snapshots",
    params(("tag" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "It is an image", body = SnapshotDetail),
        (status = 404, description = "There is none of that name", body = ErrorBody),
        (status = 409, description = "It is damaged, or in use", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(super) async fn compact(
    State(daemon): State<Arc<Daemon>>,
    tag: Result<Path<String>, PathRejection>,
) -> Result<Json<SnapshotDetail>, ApiError> {
    let tag: Tag = tag?.parse()?;
    let compact = move || daemon.compact(&tag).and_then(|()| daemon.snapshot(&tag));
    Ok(Json(blocking_to_its_end(compact).await??))
}

/// `value`, or an error that names the field and its range.
pub(super) fn within<T: PartialOrd + std::fmt::Display>(
    field: &str,
    value: T,
    range: std::ops::RangeInclusive<T>,
) -> Result<T, ApiError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (least, most) = range.into_inner();
    Err(ApiError::bad_request(format!("'{field}' must be {least} to {most}, and {value} is not")))
}
