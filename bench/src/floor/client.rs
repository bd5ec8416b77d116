//! The bare client: what a snapshot costs where nothing but Firecracker takes part.
//!
//! It shares no code with the daemon, so that it stays a measure of it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};
use rustix::time::{ClockId, clock_gettime};

use super::rows::PhasesNs;
use crate::Error;

/// Given to each of Firecracker's answers.
const DEADLINE: Duration = Duration::from_secs(120);

/// A stretch of guest memory, in pages of 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    /// The first one.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// Pauses the guest behind `socket`, has a diff snapshot written into a memfd in which the pages of `known` are
/// allocated already, and resumes it. Connecting, allocating and building the requests happen before the pause.
///
/// Returns the phases, and the bytes of guest memory that the memfd holds.
pub fn branch(socket: &Path, mem_mib: u32, known: Pages) -> Result<(PhasesNs, u64), Error> {
    let memory = memfd("floor-memory")?;
    memory.set_len(u64::from(mem_mib) << 20).map_err(system("size a memfd"))?;
    fallocate(&memory, FallocateFlags::empty(), known.first * 4096, known.count * 4096)
        .map_err(|error| failed(format!("allocate in a memfd: {error}")))?;
    let vmstate = memfd("floor-vmstate")?;
    let path = |file: &File| format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let create = format!(
        "{{\"snapshot_type\":\"Diff\",\"snapshot_path\":\"{}\",\"mem_file_path\":\"{}\"}}",
        path(&vmstate),
        path(&memory)
    );
    let pause = request("PATCH", "/vm", "{\"state\":\"Paused\"}");
    let create = request("PUT", "/snapshot/create", &create);
    let resume = request("PATCH", "/vm", "{\"state\":\"Resumed\"}");
    let mut stream = UnixStream::connect(socket).map_err(system("connect"))?;
    stream.set_read_timeout(Some(DEADLINE)).map_err(system("set a deadline"))?;
    // Firecracker has accepted the connection when it answers on it.
    call(&mut stream, &request("GET", "/", ""))?;
    let begun_ns = monotonic_ns();
    let paused = call(&mut stream, &pause);
    let paused_ns = monotonic_ns();
    let created = paused.and_then(|()| call(&mut stream, &create));
    let created_ns = monotonic_ns();
    // Whatever came of the snapshot: the guest is not ours to leave paused.
    let resumed = call(&mut stream, &resume);
    let resumed_ns = monotonic_ns();
    created.and(resumed)?;
    let phases = PhasesNs {
        pause: paused_ns - begun_ns,
        create: created_ns - paused_ns,
        resume: resumed_ns - created_ns,
    };
    let extents =
        forkd::snapshot::extents::data_extents(&memory).map_err(system("read a memfd's extents"))?;
    Ok((phases, forkd::snapshot::extents::total_bytes(&extents)))
}

fn memfd(name: &str) -> Result<File, Error> {
    let created = memfd_create(name, MemfdFlags::CLOEXEC);
    created.map(File::from).map_err(|error| failed(format!("create a memfd: {error}")))
}

fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// Sends one request; an answer is whole when its head, and as many bytes as its head says, are there.
fn call(stream: &mut UnixStream, request: &[u8]) -> Result<(), Error> {
    stream.write_all(request).map_err(system("send a request"))?;
    let mut received = Vec::with_capacity(1024);
    let mut chunk = [0; 1024];
    loop {
        let bytes = stream.read(&mut chunk).map_err(system("read an answer"))?;
        received.extend_from_slice(&chunk[..bytes]);
        let text = String::from_utf8_lossy(&received);
        match text.split_once("\r\n\r\n") {
            Some((head, body)) if body.len() >= body_bytes(head) => {
                return match text.starts_with("HTTP/1.1 20") {
                    true => Ok(()),
                    false => Err(failed(format!("refused: {}", text.trim()))),
                };
            }
            _ if bytes == 0 => return Err(failed("it closed the connection".to_owned())),
            _ => {}
        }
    }
}

fn body_bytes(head: &str) -> usize {
    let mut lengths = head.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    lengths.next_back().unwrap_or(0)
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn system(doing: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |error| failed(format!("cannot {doing}: {error}"))
}

fn failed(reason: String) -> Error {
    Error::Tool { program: "the bare client of Firecracker".to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::body_bytes;

    #[test]
    fn a_head_without_a_length_has_no_body() {
        assert_eq!(body_bytes("HTTP/1.1 204 \r\nServer: Firecracker API"), 0);
        assert_eq!(body_bytes("HTTP/1.1 200 OK\r\nContent-Length: 17"), 17);
    }
}
