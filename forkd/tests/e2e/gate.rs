//! A real Firecracker behind a gate on its API socket: a test sees each request go by, and can stop one just
//! before Firecracker gets it, or its answer just before the daemon gets that.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use forkd::clock::monotonic_ns;
use rustix::net::RecvFlags;
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::host::Result;

/// First argument of this program where it takes Firecracker's place.
const AS_FIRECRACKER: &str = "as-firecracker";
/// First argument of this program where it is the gate.
const AS_GATE: &str = "as-gate";

/// The requests in which a BRANCH's pause consists.
pub const REQUESTS: [(&str, &str); 3] =
    [("pause", "\"Paused\""), ("create", "/snapshot/create"), ("resume", "\"Resumed\"")];

/// The gate as the test has it: files in a directory.
pub struct Gate {
    dir: PathBuf,
    /// What the daemon takes for Firecracker.
    pub program: PathBuf,
}

impl Gate {
    /// Makes a program that runs Firecracker behind a gate which is kept in `dir`.
    pub fn new(dir: &Path) -> Result<Self> {
        let dir = dir.join("gate");
        fs::create_dir(&dir)?;
        let program = dir.join("firecracker");
        let real = testkit::firecracker().ok_or("no firecracker")?.canonicalize()?;
        let own = std::env::current_exe()?;
        let script = format!(
            "#!/bin/sh\nexec '{}' {AS_FIRECRACKER} '{}' '{}' \"$@\"\n",
            own.display(),
            real.display(),
            dir.display()
        );
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o755).open(&program)?.write_all(script.as_bytes())?;
        Ok(Self { dir, program })
    }

    /// Stops the next request of that name `before` Firecracker gets it, or `after` it has answered.
    pub fn hold(&self, request: &str, when: &str) -> Result<()> {
        let _ = fs::remove_file(self.dir.join("held"));
        let _ = fs::remove_file(self.dir.join("go"));
        Ok(fs::write(self.dir.join(format!("hold-{request}-{when}")), b"")?)
    }

    /// Waits until a request has been stopped.
    pub fn wait_until_held(&self) -> Result<()> {
        let begun = Instant::now();
        while !self.dir.join("held").exists() {
            if begun.elapsed() > Duration::from_secs(20) {
                return Err("waited 20 s for a request to be held".into());
            }
            sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Lets the request go on.
    pub fn release(&self) -> Result<()> {
        Ok(fs::write(self.dir.join("go"), b"")?)
    }

    /// CLOCK_MONOTONIC when Firecracker last answered that request.
    pub fn answered_ns(&self, request: &str) -> Result<u64> {
        Ok(fs::read_to_string(self.dir.join(format!("answered-{request}")))?.parse()?)
    }
}

/// Takes a part of this program's that is not testing, where it was started for that.
pub fn take_part() -> io::Result<()> {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    match words.first().and_then(|word| word.to_str()) {
        Some(AS_FIRECRACKER) => Err(be_firecracker(&words[1..])),
        Some(AS_GATE) => be_the_gate(Path::new(&words[1]), Path::new(&words[2]), Path::new(&words[3])),
        _ => Ok(()),
    }
}

/// Starts the gate and becomes Firecracker, on a socket behind it.
fn be_firecracker(words: &[OsString]) -> io::Error {
    let (real, dir, arguments) = (&words[0], &words[1], &words[2..]);
    let mut command = Command::new(real);
    let Some(at) = arguments.iter().position(|word| word == "--api-sock") else {
        return command.args(arguments).exec();
    };
    let socket = arguments[at + 1].clone();
    let mut behind = socket.clone();
    behind.push(".real");
    let own = std::env::current_exe().expect("this program has a path");
    let mut gate = Command::new(own);
    gate.arg(AS_GATE).args([&socket, &behind, dir]);
    if let Err(error) = gate.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
        return error;
    }
    let mut arguments = arguments.to_vec();
    arguments[at + 1] = behind;
    command.args(arguments).exec()
}

fn be_the_gate(socket: &Path, behind: &Path, dir: &Path) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    for client in UnixListener::bind(socket)?.incoming() {
        let (client, behind, dir) = (client?, behind.to_owned(), dir.to_owned());
        std::thread::spawn(move || pass_on(client, &behind, &dir));
    }
    Ok(())
}

/// Hands each request of one client on, and each answer back.
fn pass_on(mut client: UnixStream, behind: &Path, dir: &Path) -> io::Result<()> {
    let mut server = loop {
        match UnixStream::connect(behind) {
            Ok(server) => break server,
            Err(_) => sleep(Duration::from_millis(1)),
        }
    };
    while let Some(request) = read_message(&mut client)? {
        let name = REQUESTS.iter().find(|(_, mark)| request.contains(mark)).map(|(name, _)| *name);
        if let Some(name) = name {
            stop_at(&client, dir, name, "before")?;
        }
        server.write_all(request.as_bytes())?;
        let Some(answer) = read_message(&mut server)? else { break };
        if let Some(name) = name {
            fs::write(dir.join(format!("answered-{name}")), monotonic_ns().to_string())?;
            stop_at(&client, dir, name, "after")?;
        }
        client.write_all(answer.as_bytes())?;
    }
    Ok(())
}

/// Waits, where a test asked for it, until it lets go. An error says that the client is gone.
fn stop_at(client: &UnixStream, dir: &Path, request: &str, when: &str) -> io::Result<()> {
    if fs::rename(dir.join(format!("hold-{request}-{when}")), dir.join("held")).is_err() {
        return Ok(());
    }
    while !dir.join("go").exists() {
        let peek = rustix::net::recv(client, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        if matches!(peek, Ok((_, 0))) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// One HTTP message with its body; `None` at the end of the stream.
fn read_message(stream: &mut UnixStream) -> io::Result<Option<String>> {
    let mut message = String::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some((head, body)) = message.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
            });
            if body.len() >= length.unwrap_or(0) {
                return Ok(Some(message));
            }
        }
        match stream.read(&mut buffer)? {
            0 => return Ok(None),
            bytes => message.push_str(&String::from_utf8_lossy(&buffer[..bytes])),
        }
    }
}
