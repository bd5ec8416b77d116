//! How an error leaves the daemon: a status, and one line for the client.

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};

use super::audit::AuditNote;
use crate::api::ErrorBody;
use crate::branch::BranchError;
use crate::daemon::OperationError;
use crate::pack::PackError;
use crate::snapshot::store::StoreError;
use crate::snapshot::tag::InvalidTag;
use crate::vmm::cgroup::CgroupError;
use crate::vmm::netns::NetnsError;

/// An error on its way to a client.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    message: String,
    retry_after_s: Option<u64>,
}

impl ApiError {
    /// An error with this status and this line.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after_s: None }
    }

    /// The client asked for something that cannot be asked for.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::error!(status = self.status.as_u16(), error = self.message, "request failed");
        }
        let note = AuditNote { error: Some(self.message.clone()), ..AuditNote::default() };
        let body = Json(ErrorBody { error: self.message });
        let mut response = (self.status, Extension(note), body).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<InvalidTag> for ApiError {
    fn from(error: InvalidTag) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        // 422 is axum's word for JSON that is not what was expected; the API has one word for a bad request.
        let status = match rejection.status() {
            StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
            status => status,
        };
        Self::new(status, rejection.body_text())
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

impl From<OperationError> for ApiError {
    fn from(error: OperationError) -> Self {
        let retry_after_s = match &error {
            OperationError::Crowded(crowded) => Some(crowded.retry_after_s()),
            _ => None,
        };
        Self { retry_after_s, ..Self::new(status_of(&error), error.to_string()) }
    }
}

fn status_of(error: &OperationError) -> StatusCode {
    match error {
        OperationError::NoSandbox(_) | OperationError::NoBranch(_) => StatusCode::NOT_FOUND,
        OperationError::RootfsGone { .. }
        | OperationError::BranchesUsedUp { .. }
        | OperationError::OtherOrigin { .. }
        | OperationError::Netns(NetnsError::Absent(_) | NetnsError::Other(_))
        | OperationError::Cgroup(CgroupError::Unavailable { .. }) => StatusCode::CONFLICT,
        OperationError::Netns(NetnsError::Invalid(_)) => StatusCode::BAD_REQUEST,
        OperationError::Netns(NetnsError::Open { .. }) | OperationError::Cgroup(CgroupError::Io { .. }) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        OperationError::Crowded(_) | OperationError::History(_) => StatusCode::SERVICE_UNAVAILABLE,
        OperationError::Store(error)
        | OperationError::Branch(BranchError::Store(error))
        | OperationError::Pack(PackError::Store(error)) => store_status(error),
        OperationError::Pack(PackError::Refused { .. } | PackError::Read { .. }) => StatusCode::BAD_REQUEST,
        OperationError::Pack(PackError::Conflict { .. } | PackError::NotDurable(_)) => StatusCode::CONFLICT,
        OperationError::Pack(PackError::Write(_)) => StatusCode::INTERNAL_SERVER_ERROR,
        OperationError::Branch(
            BranchError::Busy(_)
            | BranchError::Dead { .. }
            | BranchError::StuckPaused(_)
            | BranchError::NotRunning { .. },
        ) => StatusCode::CONFLICT,
        OperationError::Branch(error) if error.is_out_of_space() => StatusCode::INSUFFICIENT_STORAGE,
        OperationError::Branch(_) | OperationError::Vmm(_) | OperationError::Console { .. } => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

fn store_status(error: &StoreError) -> StatusCode {
    match error {
        StoreError::NotFound(_) => StatusCode::NOT_FOUND,
        StoreError::Taken(_)
        | StoreError::Damaged { .. }
        | StoreError::HasDependents { .. }
        | StoreError::BeingReplaced(_)
        | StoreError::Pinned(_) => StatusCode::CONFLICT,
        error if error.is_out_of_space() => StatusCode::INSUFFICIENT_STORAGE,
        StoreError::InUse(_) | StoreError::NotWithdrawn { .. } | StoreError::Io { .. } => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}
