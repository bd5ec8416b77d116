//! Writes the audit log, around every route.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tokio::task::spawn_blocking;

use super::peer::Peer;
use super::{ApiError, joined};
use crate::api::Branch;
use crate::audit::{AuditLog, Entry, Outcome, Who};
use crate::clock;

/// What an answer says of itself to the audit log, beside its status.
#[derive(Clone, Debug, Default)]
pub(super) struct AuditNote {
    pub error: Option<String>,
    pub branch: Option<String>,
    pub pause_ms: Option<f64>,
}

impl AuditNote {
    pub fn of(branch: &Branch) -> Self {
        Self { error: None, branch: Some(branch.id.clone()), pause_ms: Some(branch.pause_ms) }
    }
}

/// `router`, with a line in `log` for each request that may change something.
pub fn audited(router: Router, log: Arc<AuditLog>) -> Router {
    router.layer(from_fn_with_state(log, audit))
}

async fn audit(State(log): State<Arc<AuditLog>>, request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return next.run(request).await;
    }
    // A task of its own: a client that goes away is written down too.
    match joined(tokio::spawn(run_and_write(log, request, next))).await {
        Ok(response) => response,
        Err(error) => ApiError::into_response(error),
    }
}

async fn run_and_write(log: Arc<AuditLog>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("(no route)", MatchedPath::as_str);
    let what = format!("{} {route}", request.method());
    let target = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
    let peer = request.extensions().get::<ConnectInfo<Peer>>();
    let who = peer.map_or(Who::Unknown, |ConnectInfo(Peer(who))| who.clone());
    let response = next.run(request).await;
    let note = response.extensions().get::<AuditNote>().cloned().unwrap_or_default();
    let status = response.status().as_u16();
    let entry = Entry {
        at_unix_ms: clock::unix_ms(),
        what,
        target,
        who,
        outcome: Outcome::of(status),
        status,
        error: note.error,
        duration_ms: begun.elapsed().as_secs_f64() * 1e3,
        branch: note.branch,
        pause_ms: note.pause_ms,
    };
    // Before the answer leaves: whoever has one finds its line.
    let written = spawn_blocking(move || log.append(&entry).map_err(|error| (error, log, entry))).await;
    if let Ok(Err((error, log, entry))) = written {
        tracing::error!(path = %log.path().display(), %error, ?entry, "cannot write the audit log");
    }
    response
}
