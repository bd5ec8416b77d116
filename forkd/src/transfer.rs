//! Bodies too large to be held, sent to the daemon and fetched from it.

use std::io;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HOST;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

use crate::api::ErrorBody;
use crate::http_client::{CallError, Endpoint};

type Body = BoxBody<Bytes, io::Error>;

/// Why a body did not go over whole.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The call failed, or the daemon refused.
    #[error(transparent)]
    Call(#[from] CallError),
    /// What was fetched could not be written.
    #[error("cannot write what {path} at {endpoint} sends: {source}")]
    Write {
        /// Where the call went.
        endpoint: Endpoint,
        /// The request's path.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Fetches `path` and hands the body to `take`, piece by piece. When this returns `Ok` the body was whole, as far as
/// HTTP tells. There is no deadline: the daemon reads its disks first.
pub async fn fetch(
    endpoint: &Endpoint,
    path: &str,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), TransferError> {
    let body = Empty::new().map_err(|never| match never {}).boxed();
    let answer = exchange(endpoint, Method::GET, path, body).await?;
    if !answer.status().is_success() {
        return Err(refusal(endpoint, &Method::GET, path, answer).await.into());
    }
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| broken(endpoint, &Method::GET, path, source))?;
        if let Some(data) = frame.data_ref() {
            let failed =
                |source| TransferError::Write { endpoint: endpoint.clone(), path: path.to_owned(), source };
            take(data).map_err(failed)?;
        }
    }
    Ok(())
}

/// Sends what comes out of `pieces` as the body of a PUT, and reads the answer as JSON.
pub async fn put<T: serde::de::DeserializeOwned>(
    endpoint: &Endpoint,
    path: &str,
    mut pieces: mpsc::Receiver<io::Result<Bytes>>,
) -> Result<T, TransferError> {
    let pieces = futures_util::stream::poll_fn(move |context| pieces.poll_recv(context));
    let body = BodyExt::boxed(StreamBody::new(pieces.map(|piece| piece.map(Frame::data))));
    let answer = exchange(endpoint, Method::PUT, path, body).await?;
    if !answer.status().is_success() {
        return Err(refusal(endpoint, &Method::PUT, path, answer).await.into());
    }
    let text = collect(endpoint, &Method::PUT, path, answer).await?;
    let not_json = |source| CallError::Json { endpoint: endpoint.clone(), path: path.to_owned(), source };
    Ok(serde_json::from_slice(&text).map_err(not_json)?)
}

async fn exchange(
    endpoint: &Endpoint,
    method: Method,
    path: &str,
    body: Body,
) -> Result<Response<Incoming>, CallError> {
    let refused = |source| CallError::Connect { endpoint: endpoint.clone(), source };
    let http = |source| broken(endpoint, &method, path, source);
    let mut sender = match endpoint {
        Endpoint::Unix(socket) => shake(UnixStream::connect(socket).await.map_err(refused)?).await,
        Endpoint::Tcp(address) => shake(TcpStream::connect(address).await.map_err(refused)?).await,
    }
    .map_err(http)?;
    let request = Request::builder().method(&method).uri(path).header(HOST, "localhost").body(body);
    let request = request.map_err(|error| refused(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    sender.send_request(request).await.map_err(http)
}

async fn shake<S>(stream: S) -> Result<SendRequest<Body>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // Ends when the answer has been read; its error reaches whoever reads that.
    tokio::spawn(connection);
    Ok(sender)
}

async fn refusal(endpoint: &Endpoint, method: &Method, path: &str, answer: Response<Incoming>) -> CallError {
    let status = answer.status();
    match collect(endpoint, method, path, answer).await {
        Ok(text) => CallError::Refused { status, message: reason(status, &text) },
        Err(error) => error,
    }
}

fn reason(status: StatusCode, text: &[u8]) -> String {
    match serde_json::from_slice::<ErrorBody>(text) {
        Ok(body) => body.error,
        Err(_) => format!("{status}: {}", String::from_utf8_lossy(text)),
    }
}

async fn collect(
    endpoint: &Endpoint,
    method: &Method,
    path: &str,
    answer: Response<Incoming>,
) -> Result<Bytes, CallError> {
    let body = answer.into_body().collect().await;
    Ok(body.map_err(|source| broken(endpoint, method, path, source))?.to_bytes())
}

fn broken(endpoint: &Endpoint, method: &Method, path: &str, source: hyper::Error) -> CallError {
    CallError::Http { endpoint: endpoint.clone(), method: method.clone(), path: path.to_owned(), source }
}
