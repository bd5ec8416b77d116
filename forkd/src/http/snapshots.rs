//! `/v1/snapshots`

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::error::ApiError;
use super::{ApiJson, to_its_end};
use crate::api::{CreateSnapshot, Snapshot};
use crate::daemon::Daemon;
use crate::snapshot::tag::Tag;
use crate::vmm::boot::BootSource;

/// Memory of a microVM whose request names none.
const DEFAULT_MEM_MIB: u32 = 128;

pub(super) async fn list(State(daemon): State<Arc<Daemon>>) -> Result<Json<Vec<Snapshot>>, ApiError> {
    Ok(Json(daemon.snapshots()?))
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

pub(super) async fn delete(
    State(daemon): State<Arc<Daemon>>,
    tag: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let tag: Tag = tag?.parse()?;
    to_its_end(async move { daemon.delete_snapshot(&tag) }).await??;
    Ok(StatusCode::NO_CONTENT)
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
