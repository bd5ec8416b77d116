//! `/v1/packs` and `/v1/snapshots/:tag/pack`

use std::io;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use utoipa::IntoParams;

use super::blocking_to_its_end;
use super::error::ApiError;
use crate::api::{ErrorBody, Unpacked};
use crate::byte_channel::{ChannelWriter, read_channel, written_stream};
use crate::daemon::{Daemon, OperationError};
use crate::snapshot::tag::Tag;

/// A pack, as a body.
const CONTENT: &str = "application/vnd.forkd.pack";
/// Of a pack that was refused, so much is read to the end before the answer: a client that is still sending
/// would otherwise meet a closed connection and not the reason.
const MAX_DISCARDED_BYTES: u64 = 16 << 30;

/// What `GET /v1/snapshots/:tag/pack` may be asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PackQuery {
    /// Whether it is compressed with zstd; not when absent.
    #[serde(default)]
    zstd: bool,
}

/// A snapshot with all that it lies on, as one stream
#[utoipa::path(
    get, path = "/v1/snapshots/{tag}/pack", tag = "snapshots", params(PackQuery, ("tag" = String, Path, description = "The snapshot")),
    responses(
        (status = 200, description = "The pack", body = Vec<u8>, content_type = "application/vnd.forkd.pack"),
        (status = 400, description = "The request is wrong", body = ErrorBody),
        (status = 404, description = "There is no such snapshot", body = ErrorBody),
        (status = 409, description = "It is damaged, or what it lies on is", body = ErrorBody),
    )
)]
pub(super) async fn get(
    State(daemon): State<Arc<Daemon>>,
    tag: Result<Path<String>, PathRejection>,
    query: Result<Query<PackQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let tag: Tag = tag?.parse()?;
    let Query(PackQuery { zstd }) = query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let (writer, stream) = written_stream();
    let (ready, checked) = oneshot::channel();
    // Ends by itself when nobody reads the body any longer.
    tokio::task::spawn_blocking(move || write(&daemon, &tag, zstd, writer, ready));
    // Without an answer the task has panicked, which its hook has reported.
    checked.await.map_err(|_| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the snapshot could not be packed: see the log")
    })??;
    Ok(([(CONTENT_TYPE, CONTENT)], Body::from_stream(stream)).into_response())
}

/// Packs `tag` into the body of an answer that is given as soon as the snapshot has been checked.
fn write(
    daemon: &Daemon,
    tag: &Tag,
    zstd: bool,
    mut writer: ChannelWriter,
    ready: oneshot::Sender<Result<(), OperationError>>,
) {
    let packer = match daemon.packer(tag) {
        Ok(packer) => packer,
        Err(error) => {
            // An error says that the client has gone.
            let _ = ready.send(Err(error));
            return;
        }
    };
    if ready.send(Ok(())).is_err() {
        return;
    }
    match daemon.pack(&packer, &mut writer, zstd) {
        Ok(packed) => tracing::info!(%tag, bytes = packed.bytes, "packed"),
        Err(error) => {
            tracing::warn!(%tag, %error, "a pack was broken off");
            writer.fail(io::Error::other(error));
        }
    }
}

/// What `PUT /v1/packs` may be asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UnpackQuery {
    /// Another name for the snapshot that was packed.
    tag: Option<String>,
}

/// Take a pack in: all of its snapshots, or none
#[utoipa::path(
    put, path = "/v1/packs", tag = "snapshots", params(UnpackQuery),
    request_body(content = Vec<u8>, content_type = "application/vnd.forkd.pack"),
    responses(
        (status = 201, description = "Every snapshot of it is here, on disk", body = Unpacked),
        (status = 400, description = "It is truncated, damaged or made up; says where", body = ErrorBody),
        (status = 409, description = "A tag of it is another snapshot here", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(super) async fn put(
    State(daemon): State<Arc<Daemon>>,
    query: Result<Query<UnpackQuery>, QueryRejection>,
    body: Body,
) -> Result<(StatusCode, Json<Unpacked>), ApiError> {
    let Query(query) = query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let tag: Option<Tag> = query.tag.as_deref().map(str::parse).transpose()?;
    let (sender, mut reader) = read_channel();
    // The task ends with the body, and with its reader.
    tokio::spawn(forward(body, sender));
    let unpack = move || {
        let outcome = daemon.unpack(&mut reader, tag.as_ref());
        if outcome.is_err() {
            // An error says that the client has gone, and the outcome is known.
            let _ = reader.discard_rest(MAX_DISCARDED_BYTES);
        }
        outcome
    };
    Ok((StatusCode::CREATED, Json(blocking_to_its_end(unpack).await??)))
}

/// Hands a body on piece by piece. One that breaks off ends with an error, and is never taken for a whole one.
async fn forward(body: Body, sender: mpsc::Sender<io::Result<bytes::Bytes>>) {
    let mut stream = body.into_data_stream();
    while let Some(piece) = stream.next().await {
        if sender.send(piece.map_err(io::Error::other)).await.is_err() {
            return;
        }
    }
}
