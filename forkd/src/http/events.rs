//! `/v1/events`: what happens, as it happens

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{self, KeepAlive, Sse};
use futures_util::{Stream, stream};

use super::error::ApiError;
use crate::api::{ErrorBody, Event};
use crate::daemon::Daemon;

/// What a client that comes back has seen last.
const LAST_EVENT_ID: &str = "last-event-id";

/// What happens, as server-sent events, from here on or from the event after `Last-Event-ID`
///
/// Each has its `id`, its name (`event`) and its JSON (`data`, an `Event`). A client that is too slow, or was away
/// for too long, is told by an event `lost` how many it missed. A comment every 15 s keeps the connection alive.
#[utoipa::path(
    get, path = "/v1/events", tag = "events",
    params(("Last-Event-ID" = Option<u64>, Header, description = "The last event that the client has seen")),
    responses(
        (status = 200, description = "Events without an end", content_type = "text/event-stream", body = Event),
        (status = 400, description = "Last-Event-ID is no number", body = ErrorBody),
    )
)]
pub(super) async fn follow(
    State(daemon): State<Arc<Daemon>>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, ApiError> {
    let last_seen = headers.get(LAST_EVENT_ID).map(|id| {
        let id = id.to_str().ok().and_then(|id| id.parse::<u64>().ok());
        id.ok_or_else(|| {
            ApiError::new(
                StatusCode::BAD_REQUEST,
                "'Last-Event-ID' must be the number of an event, and is not",
            )
        })
    });
    let follower = daemon.events().follow(last_seen.transpose()?);
    let events = stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((Ok(as_sse(&event)), follower))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

fn as_sse(event: &Event) -> sse::Event {
    let named = sse::Event::default().id(event.id.to_string()).event(event.happening.name());
    // An event's fields are strings, numbers and words, which are JSON.
    named.json_data(event).expect("an event is JSON")
}
