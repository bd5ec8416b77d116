//! A blocking connection to Firecracker's API, for the thread that holds a guest paused.
//!
//! It is opened before the pause, and its requests are built before the pause. Between the thread and the
//! socket there is no runtime, so that nothing but Firecracker can delay an answer. Every call has a deadline.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::Deserialize;
use serde_json::{Value, json};

use super::VmmError;
use super::api::{CALL_DEADLINE, InstanceInfo, SNAPSHOT_DEADLINE};
use crate::api::BranchMode;
use crate::http_client::{Answer, CallError, Endpoint, refusal};

/// Given to one attempt to resume: it queues behind a snapshot in flight.
const RESUME_DEADLINE: Duration = Duration::from_secs(10);
/// Firecracker's answers are a few hundred bytes; a longer one is not read.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// One request, ready to be sent.
#[derive(Clone, Debug)]
pub struct Request {
    step: &'static str,
    method: Method,
    path: &'static str,
    deadline: Duration,
    bytes: Vec<u8>,
}

impl Request {
    /// Asks what the microVM is doing.
    pub fn state() -> Self {
        Self::new("ask for its state", Method::GET, "/", None, CALL_DEADLINE)
    }

    /// Stops the guest's virtual CPUs. For `branch::pause` only, which sees to it that they run again.
    pub(crate) fn pause() -> Self {
        let state = json!({ "state": "Paused" });
        Self::new("pause the guest", Method::PATCH, "/vm", Some(&state), CALL_DEADLINE)
    }

    /// Lets the guest's virtual CPUs run. Waits behind a snapshot in flight.
    pub(crate) fn resume() -> Self {
        let state = json!({ "state": "Resumed" });
        Self::new("resume the guest", Method::PATCH, "/vm", Some(&state), RESUME_DEADLINE)
    }

    /// Writes device and CPU state to `vmstate` and guest memory to `memory`, both synced; the guest must be paused.
    ///
    /// After a call that failed, at whatever point, the record of dirty pages may be gone: the next
    /// snapshot must be full (Firecracker resets it before it syncs the file).
    pub fn create_snapshot(mode: BranchMode, vmstate: &Path, memory: &Path) -> Self {
        let kind = match mode {
            BranchMode::Full => "Full",
            BranchMode::Diff => "Diff",
        };
        let create = json!({ "snapshot_type": kind, "snapshot_path": vmstate, "mem_file_path": memory });
        let path = "/snapshot/create";
        Self::new("write the snapshot", Method::PUT, path, Some(&create), SNAPSHOT_DEADLINE)
    }

    fn new(
        step: &'static str,
        method: Method,
        path: &'static str,
        body: Option<&Value>,
        deadline: Duration,
    ) -> Self {
        let body = body.map(Value::to_string).unwrap_or_default();
        let bytes = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        Self { step, method, path, deadline, bytes: bytes.into_bytes() }
    }
}

/// A connection that is open, or is opened by the next call.
#[derive(Debug)]
pub struct Control {
    socket: PathBuf,
    stream: Option<UnixStream>,
}

impl Control {
    /// The API that listens on `socket`; connects with the first call.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, stream: None }
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends `request` and waits for its answer, no longer than its deadline.
    ///
    /// A call that fails without a whole answer closes the connection: a late answer must not be taken for the
    /// answer to the next request.
    pub fn call(&mut self, request: &Request) -> Result<Answer, VmmError> {
        let failed = |source| VmmError::Call { step: request.step, source };
        let until = Instant::now() + request.deadline;
        let answer = self.exchange(request, until).map_err(failed)?;
        match answer.status.is_success() {
            true => Ok(answer),
            false => Err(failed(CallError::Refused { status: answer.status, message: refusal(&answer) })),
        }
    }

    /// What the microVM is doing. Leaves the connection open and known to Firecracker.
    pub fn instance(&mut self) -> Result<InstanceInfo, VmmError> {
        let request = Request::state();
        let answer = self.call(&request)?;
        InstanceInfo::deserialize(&mut serde_json::Deserializer::from_slice(&answer.body)).map_err(|source| {
            let (endpoint, path) = (self.endpoint(), request.path.to_owned());
            VmmError::Call { step: request.step, source: CallError::Json { endpoint, path, source } }
        })
    }

    fn exchange(&mut self, request: &Request, until: Instant) -> Result<Answer, CallError> {
        // Taken, not borrowed: put back only after a whole exchange.
        let mut stream = match self.stream.take() {
            Some(open) => open,
            None => open(&self.socket, request.deadline)
                .map_err(|source| CallError::Connect { endpoint: self.endpoint(), source })?,
        };
        let sent = stream
            .set_write_timeout(Some(request.deadline))
            .and_then(|()| stream.write_all(&request.bytes))
            .and_then(|()| receive(&mut stream, until));
        let (method, path) = (request.method.clone(), request.path.to_owned());
        let answer = sent.map_err(|source| match source.kind() {
            // EAGAIN is what a timed-out send or receive reports (socket(7), SO_RCVTIMEO).
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                CallError::Deadline { endpoint: self.endpoint(), method, path, deadline: request.deadline }
            }
            _ => CallError::Broken { endpoint: self.endpoint(), method, path, source },
        })?;
        self.stream = Some(stream);
        Ok(answer)
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::Unix(self.socket.clone())
    }
}

/// Connects within `deadline`: a listener whose queue is full makes connect(2) wait, no longer than SO_SNDTIMEO.
fn open(socket: &Path, deadline: Duration) -> io::Result<UnixStream> {
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&stream, Timeout::Send, Some(deadline))?;
    connect(&stream, &SocketAddrUnix::new(socket)?)?;
    Ok(UnixStream::from(stream))
}

fn receive(stream: &mut UnixStream, until: Instant) -> io::Result<Answer> {
    let mut received = Vec::with_capacity(1024);
    let mut chunk = [0; 1024];
    loop {
        // The whole answer counts, not each piece: one that trickles in ends at the deadline too.
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")),
            Ok(bytes) => received.extend_from_slice(&chunk[..bytes]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        if let Some(answer) = whole_answer(&received)? {
            return Ok(answer);
        }
        if received.len() > MAX_ANSWER_BYTES {
            return Err(not_http("an answer of more than 64 KiB"));
        }
    }
}

/// The answer in `received`, `None` while a part of it is missing.
///
/// A body has the length that Content-Length gives, or none: Firecracker sends no other (RFC 9112, section 6).
pub(crate) fn whole_answer(received: &[u8]) -> io::Result<Option<Answer>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    let head_bytes = match head.parse(received).map_err(|error| not_http(error.to_string()))? {
        httparse::Status::Complete(bytes) => bytes,
        httparse::Status::Partial => return Ok(None),
    };
    let status = head.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or_else(|| not_http("no status"))?;
    let length = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let body_bytes = match length {
        Some(header) => std::str::from_utf8(header.value)
            .ok()
            .and_then(|text| text.trim().parse::<usize>().ok())
            .filter(|&bytes| bytes <= MAX_ANSWER_BYTES)
            .ok_or_else(|| not_http("no Content-Length that can be read"))?,
        None => 0,
    };
    let body = &received[head_bytes..];
    match body.len() {
        got if got < body_bytes => Ok(None),
        got if got == body_bytes => Ok(Some(Answer { status, body: body.to_vec().into() })),
        _ => Err(not_http("more than one answer to one request")),
    }
}

fn not_http(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not the answer of Firecracker: {}", what.into()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::thread;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::{Control, Request, whole_answer};
    use crate::http_client::CallError;
    use crate::vmm::VmmError;

    const OK: &[u8] = b"HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n";

    /// A byte every 5 ms, for a second; empty lines ahead of an answer are no error (RFC 9112, section 2.2).
    const TRICKLE: &[&[u8]] = &[b"\n".as_slice(); 200];

    /// Serves one connection after another: each request on it is answered with the next of `answers`, in the
    /// pieces given; after the last one the connection is held open, silent.
    fn serve(listener: UnixListener, connections: Vec<Vec<&'static [&'static [u8]]>>) {
        thread::spawn(move || {
            for answers in connections {
                let (mut stream, _) = listener.accept().unwrap();
                let mut buffer = [0; 4096];
                for pieces in answers {
                    let _ = stream.read(&mut buffer);
                    for piece in pieces {
                        let _ = stream.write_all(piece);
                        thread::sleep(Duration::from_millis(5));
                    }
                }
                thread::spawn(move || {
                    thread::sleep(Duration::from_secs(5));
                    drop(stream);
                });
            }
        });
    }

    fn control(connections: Vec<Vec<&'static [&'static [u8]]>>) -> (Control, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api");
        serve(UnixListener::bind(&socket).unwrap(), connections);
        (Control::new(socket), dir)
    }

    fn quick(deadline_ms: u64) -> Request {
        Request { deadline: Duration::from_millis(deadline_ms), ..Request::pause() }
    }

    #[test]
    fn one_connection_serves_many_calls_and_an_answer_may_come_in_pieces() {
        let state: &[&[u8]] =
            &[b"HTTP/1.1 200 OK\r\nContent-Le", b"ngth: 19\r\n\r\n{\"state\":", b"\"Running\"}"];
        let (mut control, _dir) = control(vec![vec![state, &[OK], &[OK]]]);
        assert_eq!(control.instance().unwrap().state, "Running");
        control.call(&quick(5000)).unwrap();
        control.call(&quick(5000)).unwrap();
    }

    #[test]
    fn silence_and_a_trickle_end_at_the_deadline_and_the_next_call_connects_again() {
        for pieces in [&[], TRICKLE] {
            let (mut control, _dir) = control(vec![vec![pieces], vec![&[OK]]]);
            let begun = Instant::now();
            let error = control.call(&quick(100)).unwrap_err();
            assert!(matches!(error, VmmError::Call { source: CallError::Deadline { .. }, .. }), "{error}");
            assert!(begun.elapsed() < Duration::from_millis(600), "{:?}", begun.elapsed());
            control.call(&quick(5000)).unwrap();
        }
    }

    #[test]
    fn what_is_no_single_http_answer_is_refused_and_the_next_call_connects_again() {
        let twice: &[&[u8]] = &[b"HTTP/1.1 204 \r\n\r\nHTTP/1.1 204 \r\n\r\n"];
        let long: &[&[u8]] = &[b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n"];
        for pieces in [twice, long, &[b"SSH-2.0\r\n"]] {
            let (mut control, _dir) = control(vec![vec![pieces], vec![&[OK]]]);
            let error = control.call(&quick(5000)).unwrap_err();
            assert!(error.to_string().contains("not the answer of Firecracker"), "{error}");
            control.call(&quick(5000)).unwrap();
        }
    }

    #[test]
    fn a_refusal_carries_the_reason_and_keeps_the_connection() {
        let no: &[&[u8]] = &[b"HTTP/1.1 400 \r\nContent-Length: 23\r\n\r\n{\"fault_message\":\"no!\"}"];
        let (mut control, _dir) = control(vec![vec![no, &[OK]]]);
        assert_eq!(control.call(&quick(5000)).unwrap_err().to_string(), "Firecracker: pause the guest: no!");
        control.call(&quick(5000)).unwrap();
    }

    #[test]
    fn where_nobody_listens_the_call_fails_at_once() {
        let error = Control::new("/nonexistent/api".into()).call(&quick(5000)).unwrap_err();
        assert!(matches!(error, VmmError::Call { source: CallError::Connect { .. }, .. }), "{error}");
    }

    proptest! {
        #[test]
        fn a_cut_answer_is_never_taken_for_a_whole_one(body in "[a-z]{0,60}", cut in 0.0..1.0_f64) {
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let whole = whole_answer(answer.as_bytes()).unwrap().unwrap();
            prop_assert_eq!(&whole.body[..], body.as_bytes());
            let cut = &answer.as_bytes()[..(answer.len() as f64 * cut) as usize];
            prop_assert!(whole_answer(cut).unwrap().is_none());
        }
    }
}
