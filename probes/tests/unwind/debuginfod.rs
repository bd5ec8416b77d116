//! Symbols that a server of the test's own has.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use reports::explain::Explain;
use reports::futex::{Futex, Home};
use reports::offcpu::OffCpu;
use serde::de::DeserializeOwned;
use testkit::Outcome;

use crate::program::{Program, chains};

const CHAIN: &str = ";main;a;b;c;wait_stub";
/// Names are looked up once a second while a recording is written down.
const LOOKS: Duration = Duration::from_millis(2500);

/// Gives one file to whoever asks for any, and notes when.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<(String, Instant)>>>,
}

impl Server {
    fn start(file: Option<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines = BufReader::new(&stream).lines().map_while(Result::ok);
                let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                let path = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
                seen.lock().unwrap().push((path.to_owned(), Instant::now()));
                let (status, body) = match &file {
                    Some(file) => ("200 OK", file.as_slice()),
                    None => ("404 Not Found", &[][..]),
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                // Whoever asked may be gone.
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
            }
        });
        Self { url, asked }
    }

    fn requests(&self) -> Vec<(String, Instant)> {
        self.asked.lock().unwrap().clone()
    }
}

/// A statically linked program whose symbols are nowhere on this host, a server that has them, and the probe.
struct Scene {
    program: Program,
    server: Server,
}

impl Scene {
    /// With a server that has the symbols, or nothing.
    fn new(serves: bool) -> Self {
        Self::of("abc", serves)
    }

    /// With a program of this kind.
    fn of(kind: &str, serves: bool) -> Self {
        let (program, symbols) =
            Program::without_its_debug_file(kind, &["-static-pie", "-fomit-frame-pointer"]);
        Self { program, server: Server::start(serves.then_some(symbols)) }
    }

    fn cache(&self) -> PathBuf {
        self.program.folder().join("cache")
    }

    fn probe(&self, arguments: &[&str]) -> Output {
        let mut probe = Command::new(env!("CARGO_BIN_EXE_forkd-probe"));
        probe.args(arguments).env("DEBUGINFOD_URLS", &self.server.url).env("NO_PROXY", "127.0.0.1");
        probe.env("DEBUGINFOD_CACHE_PATH", self.cache()).output().unwrap()
    }

    fn record(&self) -> OffCpu {
        let pid = self.program.pid().to_string();
        let arguments = ["offcpu", "--pid", &pid, "--duration", "250ms", "--format", "json"];
        report(&self.probe(&arguments))
    }
}

fn report<Report: DeserializeOwned>(output: &Output) -> Report {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Every stack is named, and nothing is amiss.
fn assert_named(report: &OffCpu) {
    let found = chains(report);
    assert!(!found.is_empty() && found.iter().all(|chain| chain.ends_with(CHAIN)), "{found:#?}");
    assert!(!report.warnings.iter().any(|warning| warning.contains("debuginfod")), "{:?}", report.warnings);
}

pub fn fetched() -> Outcome {
    let scene = Scene::new(true);
    assert_named(&scene.record());
    let requests = scene.server.requests();
    let builds: Vec<_> = fs::read_dir(scene.cache())?.collect::<Result<_, _>>()?;
    assert_eq!((requests.len(), builds.len()), (1, 1), "{requests:?} {builds:?}");
    let build_id = builds[0].file_name().into_string().unwrap();
    assert_eq!(requests[0].0, format!("/buildid/{build_id}/debuginfo"));
    assert!(builds[0].path().join("debuginfo").is_file());
    assert_named(&scene.record());
    assert_eq!(scene.server.requests().len(), 1, "the cache has it");
    Ok(())
}

pub fn not_there() -> Outcome {
    let scene = Scene::new(false);
    let report = scene.record();
    let said = report.warnings.iter().find(|warning| warning.contains("debuginfod"));
    assert!(said.is_some_and(|said| said.contains("chain (no server has it)")), "{:?}", report.warnings);
    let found = chains(&report);
    assert!(found.iter().any(|chain| chain.contains("chain+0x")), "{found:#?}");
    Ok(())
}

/// Whoever writes a recording down looks names up meanwhile; the server is asked when nothing is recorded any more.
pub fn after_the_recording() -> Outcome {
    let scene = Scene::new(true);
    let file = scene.program.folder().join("recording");
    let (pid, path) = (scene.program.pid().to_string(), file.to_str().ok_or("path")?);
    let duration = format!("{}ms", LOOKS.as_millis());
    let begun = Instant::now();
    let output =
        scene.probe(&["record", "--pid", &pid, "--duration", &duration, "--calls", "none", "-o", path]);
    assert!(output.status.success(), "{output:?}");
    let requests = scene.server.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    let after = requests[0].1.duration_since(begun);
    assert!(after >= LOOKS, "asked after {after:?}");
    let mut there = Command::new(env!("CARGO_BIN_EXE_forkd-probe"));
    there.args(["report", path, "--as", "offcpu", "--format", "json"]).env_remove("DEBUGINFOD_URLS");
    assert_named(&report(&there.output()?));
    Ok(())
}

/// Once its symbols are in the cache they are of this host: a second look asks nobody.
pub fn window_function() -> Outcome {
    let scene = Scene::new(true);
    let pid = scene.program.pid().to_string();
    let explain = |function: &str| {
        let arguments = ["explain", "--pid", &pid, "--format", "json", "--window-fn", function];
        scene.probe(&[&arguments[..], &["--windows", "1", "--duration", "10s"]].concat())
    };
    for _ in 0..2 {
        let explained: Explain = report(&explain("b"));
        assert_eq!(explained.window.label, "b");
        // It sleeps for 5 ms.
        assert!(explained.window_ns >= 5_000_000, "{explained:#?}");
        assert_eq!(scene.server.requests().len(), 1, "the cache has it");
    }
    let unknown = explain("wait_stubb");
    let said = String::from_utf8_lossy(&unknown.stderr);
    assert_eq!(unknown.status.code(), Some(2), "{said}");
    assert!(said.contains("the nearest are: wait_stub"), "{said}");
    Ok(())
}

/// What no symbol table has is told, with why.
pub fn window_function_not_there() -> Outcome {
    let scene = Scene::new(false);
    let pid = scene.program.pid().to_string();
    let output = scene.probe(&["explain", "--pid", &pid, "--window-fn", "b"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("debuginfod had no symbols for chain (no server has it)"), "{said}");
    Ok(())
}

fn assert_word_is_named(report: &Futex) {
    let is_named = |home: &Home| match home {
        Home::Data { symbol: Some((name, 8)), zeroed: true, .. } => name == "zeroed_words",
        _ => false,
    };
    assert!(report.words.iter().any(|word| is_named(&word.home)), "{report:#?}");
    assert!(!report.warnings.iter().any(|warning| warning.contains("debuginfod")), "{:?}", report.warnings);
}

/// In the live report, and in one that is made of a file.
pub fn variable() -> Outcome {
    let scene = Scene::of("word", true);
    let (pid, file) = (scene.program.pid().to_string(), scene.program.folder().join("recording"));
    let path = file.to_str().ok_or("path")?;
    let probe =
        |arguments: &[&str]| scene.probe(&[arguments, &["--pid", &pid, "--duration", "250ms"]].concat());
    let written = probe(&["record", "--calls", "futex", "-o", path]);
    assert!(written.status.success(), "{written:?}");
    let mut there = Command::new(env!("CARGO_BIN_EXE_forkd-probe"));
    there.args(["report", path, "--as", "futex", "--format", "json"]).env_remove("DEBUGINFOD_URLS");
    assert_word_is_named(&report(&there.output()?));
    fs::remove_dir_all(scene.cache())?;
    assert_word_is_named(&report(&probe(&["futex", "--format", "json"])));
    assert_eq!(scene.server.requests().len(), 2);
    Ok(())
}
