//! `/v1/snapshots`

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::error::ApiError;
use super::{ApiJson, blocking_to_its_end, to_its_end};
use crate::api::{CreateSnapshot, Snapshot, SnapshotDetail};
use crate::daemon::Daemon;
use crate::snapshot::delete::Dependents;
use crate::snapshot::tag::Tag;
use crate::vmm::boot::BootSource;

/// Memory of a microVM whose request names none.
const DEFAULT_MEM_MIB: u32 = 128;

/// Which snapshots `GET /v1/snapshots` is to list.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// Those too that are not whole.
    #[serde(default)]
    damaged: bool,
}

pub(super) async fn list(
    State(daemon): State<Arc<Daemon>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Vec<Snapshot>>, ApiError> {
    let Query(query) = query.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    Ok(Json(blocking_to_its_end(move || daemon.snapshots(query.damaged)).await??))
}

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

pub(super) async fn show(
    State(daemon): State<Arc<Daemon>>,
    tag: Result<Path<String>, PathRejection>,
) -> Result<Json<SnapshotDetail>, ApiError> {
    let tag: Tag = tag?.parse()?;
    Ok(Json(blocking_to_its_end(move || daemon.snapshot(&tag)).await??))
}

/// What `DELETE /v1/snapshots/:tag` may be asked to do with layers that lie on the snapshot.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteQuery {
    #[serde(default)]
    cascade: bool,
    #[serde(default)]
    flatten: bool,
}

pub(super) async fn delete(
    State(daemon): State<Arc<Daemon>>,
    tag: Result<Path<String>, PathRejection>,
    query: Result<Query<DeleteQuery>, QueryRejection>,
) -> Result<StatusCode, ApiError> {
    let tag: Tag = tag?.parse()?;
    let Query(query) = query.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
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
