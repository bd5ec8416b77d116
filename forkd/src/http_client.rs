//! A JSON client for one HTTP server on a Unix socket or a TCP address, with a deadline on every call.
//!
//! The daemon speaks to Firecracker through it, the command line and the benchmarks to the daemon.
//! The connection stays open between calls, so that a call inside a pause does not pay for connecting.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "http://{address}"),
        }
    }
}

/// Why a call did not come back with an answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens there.
    #[error("no answer from {endpoint}: {source}")]
    Connect {
        /// Where the call went.
        endpoint: Endpoint,
        /// What the system said.
        source: std::io::Error,
    },
    /// The connection broke, or what came was not HTTP.
    #[error("{method} {path} at {endpoint}: {source}")]
    Http {
        /// Where the call went.
        endpoint: Endpoint,
        /// The request's method.
        method: Method,
        /// The request's path.
        path: String,
        /// What went wrong.
        source: hyper::Error,
    },
    /// The connection broke, or what came was not HTTP, at the blocking client.
    #[error("{method} {path} at {endpoint}: {source}")]
    Broken {
        /// Where the call went.
        endpoint: Endpoint,
        /// The request's method.
        method: Method,
        /// The request's path.
        path: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The server took too long.
    #[error("{method} {path} at {endpoint}: no answer within {} ms", deadline.as_millis())]
    Deadline {
        /// Where the call went.
        endpoint: Endpoint,
        /// The request's method.
        method: Method,
        /// The request's path.
        path: String,
        /// The time it was given.
        deadline: Duration,
    },
    /// The answer's body is not the JSON that was expected.
    #[error("{path} at {endpoint} answered with something else than the JSON expected: {source}")]
    Json {
        /// Where the call went.
        endpoint: Endpoint,
        /// The request's path.
        path: String,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// The server refused.
    #[error("{message}")]
    Refused {
        /// The status it answered with.
        status: StatusCode,
        /// Its reason.
        message: String,
    },
}

/// One answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its whole body.
    pub body: Bytes,
}

/// A client of one server.
#[derive(Debug)]
pub struct HttpClient {
    endpoint: Endpoint,
    // Held over the whole call: HTTP/1 answers one request at a time.
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl HttpClient {
    /// A client that connects at its first call.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, connection: Mutex::new(None) }
    }

    /// Where its calls go.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends one request and waits for the whole answer, `deadline` at most.
    ///
    /// A call that ends early, by its deadline or because its future is dropped, closes the connection:
    /// the answer to it must not be taken for the answer to the next one.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        deadline: Duration,
    ) -> Result<Answer, CallError> {
        let exchange = self.exchange(method.clone(), path, body);
        timeout(deadline, exchange).await.unwrap_or_else(|_| {
            Err(CallError::Deadline {
                endpoint: self.endpoint.clone(),
                method,
                path: path.to_owned(),
                deadline,
            })
        })
    }

    /// Sends `body` as JSON and reads the answer as JSON; any status but 2xx is [`CallError::Refused`].
    pub async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        deadline: Duration,
    ) -> Result<T, CallError> {
        let not_json =
            |source| CallError::Json { endpoint: self.endpoint.clone(), path: path.to_owned(), source };
        let body = body.map(serde_json::to_vec).transpose().map_err(not_json)?.map(Bytes::from);
        let answer = self.call(method, path, body, deadline).await?;
        if !answer.status.is_success() {
            return Err(CallError::Refused { status: answer.status, message: refusal(&answer) });
        }
        let body: &[u8] = if answer.body.is_empty() { b"null" } else { &answer.body };
        serde_json::from_slice(body).map_err(not_json)
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Answer, CallError> {
        let mut connection = self.connection.lock().await;
        // Taken, not borrowed: put back only after a whole exchange.
        let mut sender = match connection.take() {
            Some(open) if !open.is_closed() => open,
            _ => self.connect(&method, path).await?,
        };
        let http = |source| self.http_error(&method, path, source);
        let request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|error| CallError::Connect {
                endpoint: self.endpoint.clone(),
                source: std::io::Error::new(std::io::ErrorKind::InvalidInput, error),
            })?;
        sender.ready().await.map_err(http)?;
        let answer = sender.send_request(request).await.map_err(http)?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(http)?.to_bytes();
        *connection = Some(sender);
        Ok(Answer { status, body })
    }

    async fn connect(&self, method: &Method, path: &str) -> Result<SendRequest<Full<Bytes>>, CallError> {
        let refused = |source| CallError::Connect { endpoint: self.endpoint.clone(), source };
        let http = |source| self.http_error(method, path, source);
        match &self.endpoint {
            Endpoint::Unix(path) => {
                shake(UnixStream::connect(path).await.map_err(refused)?).await.map_err(http)
            }
            Endpoint::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(refused)?;
                stream.set_nodelay(true).map_err(refused)?;
                shake(stream).await.map_err(http)
            }
        }
    }

    fn http_error(&self, method: &Method, path: &str, source: hyper::Error) -> CallError {
        CallError::Http {
            endpoint: self.endpoint.clone(),
            method: method.clone(),
            path: path.to_owned(),
            source,
        }
    }
}

async fn shake<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // Ends when the sender is dropped or the peer closes; its error reaches the call in flight.
    tokio::spawn(connection);
    Ok(sender)
}

/// The reason in an error body: `error` is ours, `fault_message` is Firecracker's.
pub(crate) fn refusal(answer: &Answer) -> String {
    #[derive(serde::Deserialize)]
    struct Reason {
        #[serde(alias = "fault_message")]
        error: String,
    }
    match serde_json::from_slice::<Reason>(&answer.body) {
        Ok(reason) => reason.error,
        Err(_) => format!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body)),
    }
}
