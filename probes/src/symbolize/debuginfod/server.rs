//! A server of a test's own, and clients of it.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::{Debuginfod, Settings};

/// Gives every request the same answer.
#[derive(Debug)]
pub struct Server {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// `None` answers nothing, and holds the connection.
    pub fn start(answer: Option<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let head =
                    BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
                let head: Vec<String> = head.collect();
                let path = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
                seen.lock().unwrap().push(path.to_owned());
                match &answer {
                    // Whoever asked may have had enough of it.
                    Some(answer) => drop(stream.write_all(answer)),
                    None => held.push(stream),
                }
            }
        });
        Self { url, asked }
    }

    /// The paths that were asked for.
    pub fn requests(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// An answer that is a file.
pub fn ok(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// An answer that is none.
pub fn status(line: &str) -> Vec<u8> {
    format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
}

/// A client with a cache of its own, which may not ask yet.
pub fn client(servers: &[&Server]) -> (TempDir, Debuginfod) {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        urls: servers.iter().map(|server| server.url.clone()).collect(),
        cache: Some(folder.path().join("cache")),
        max_time: Duration::from_secs(1),
        max_bytes: 4096,
    };
    (folder, Debuginfod::new(settings))
}
