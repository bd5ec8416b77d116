//! Against a server of the test's own.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;

const BUILD: &str = "00112233445566778899aabbccddeeff00112233";
const OTHER: &str = "ffeeddccbbaa99887766554433221100ffeeddcc";

/// An ELF file that has a build-id, and nothing else.
fn elf(build_id: &str) -> Vec<u8> {
    const HEAD: u64 = 64 + 56;
    let id: Vec<u8> = build_id
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    let mut note: Vec<u8> =
        [4, id.len() as u32, 3].iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
    note.extend(b"GNU\0");
    note.extend(&id);
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([3_u16, 62].iter().flat_map(|half| half.to_le_bytes()));
    file.extend(1_u32.to_le_bytes());
    // Entry, program headers, section headers, flags.
    file.extend([0_u64, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
    file.extend(0_u32.to_le_bytes());
    file.extend([64_u16, 56, 1, 64, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    // PT_NOTE, readable.
    file.extend([4_u32, 4].iter().flat_map(|word| word.to_le_bytes()));
    let length = note.len() as u64;
    file.extend([HEAD, 0, 0, length, length, 4].iter().flat_map(|word| word.to_le_bytes()));
    file.extend(note);
    file
}

fn ok(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn status(line: &str) -> Vec<u8> {
    format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
}

/// Gives every request the same answer.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// `None` answers nothing, and holds the connection.
    fn start(answer: Option<Vec<u8>>) -> Self {
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

    fn requests(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// A client with a cache of its own.
fn client(servers: &[&Server]) -> (TempDir, Debuginfod) {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        urls: servers.iter().map(|server| server.url.clone()).collect(),
        cache: Some(folder.path().join("cache")),
        max_time: Duration::from_secs(1),
        max_bytes: 4096,
    };
    let mut client = Debuginfod::new(settings);
    client.allow_fetching();
    (folder, client)
}

/// What `server` is warned of; nothing of it may be kept.
fn refused(server: &Server) -> String {
    let (folder, mut client) = client(&[server]);
    assert_eq!(client.find(BUILD, "tool"), Found::Nothing);
    let kept: Vec<_> = fs::read_dir(folder.path().join("cache")).unwrap().collect();
    assert!(kept.is_empty(), "{kept:?}");
    client.warning().unwrap()
}

#[test]
fn what_is_fetched_is_asked_for_by_build_id_and_kept() {
    let server = Server::start(Some(ok(&elf(BUILD))));
    let (folder, mut client) = client(&[&server]);
    let place = folder.path().join("cache").join(BUILD).join("debuginfo");
    assert_eq!(client.find(BUILD, "tool"), Found::File(place.clone()));
    assert_eq!(fs::read(&place).unwrap(), elf(BUILD));
    assert_eq!(client.find(BUILD, "tool"), Found::File(place));
    assert_eq!(server.requests(), [format!("/buildid/{BUILD}/debuginfo")]);
    assert_eq!(client.warning(), None);
}

#[test]
fn nobody_is_asked_before_it_is_allowed_and_the_cache_serves_meanwhile() {
    let server = Server::start(Some(ok(&elf(BUILD))));
    let (_folder, mut client) = client(&[&server]);
    client.may_fetch = false;
    assert_eq!(client.find(BUILD, "tool"), Found::NotAsked);
    let place = client.settings.place(BUILD).unwrap();
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(&place, elf(OTHER)).unwrap();
    assert_eq!(client.find(BUILD, "tool"), Found::NotAsked, "another build's");
    fs::write(&place, elf(BUILD)).unwrap();
    assert_eq!(client.find(BUILD, "tool"), Found::File(place));
    assert!(server.requests().is_empty() && client.warning().is_none());
}

#[test]
fn the_next_server_is_asked_where_one_has_not_got_it() {
    let (without, with) =
        (Server::start(Some(status("404 Not Found"))), Server::start(Some(ok(&elf(BUILD)))));
    let (_folder, mut client) = client(&[&without, &with]);
    assert!(matches!(client.find(BUILD, "tool"), Found::File(_)));
    assert_eq!((without.requests().len(), with.requests().len()), (1, 1));
}

#[test]
fn each_failure_is_told_once_with_its_reason() {
    let missing = Server::start(Some(status("404 Not Found")));
    let expected =
        "debuginfod had no symbols for tool (no server has it): its functions are named by their place";
    assert_eq!(refused(&missing), expected);
    let broken = Server::start(Some(status("503 Service Unavailable")));
    assert!(refused(&broken).contains("answers with status 503"));
    let other = Server::start(Some(ok(&elf(OTHER))));
    assert!(refused(&other).contains("sent a file of another build"));
    let mut cut = ok(&elf(BUILD));
    cut.truncate(cut.len() - 1);
    assert!(refused(&Server::start(Some(cut))).contains("does not answer"));
    let large = Server::start(Some(ok(&[0; 5000])));
    assert!(refused(&large).contains("more than 4096 bytes: DEBUGINFOD_MAXSIZE"));
    let endless = [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".as_slice(), &[0; 5000]].concat();
    assert!(refused(&Server::start(Some(endless))).contains("more than 4096 bytes: DEBUGINFOD_MAXSIZE"));
}

#[test]
fn a_server_that_does_not_answer_in_time_is_asked_once() {
    let silent = Server::start(None);
    let (_folder, mut client) = client(&[&silent]);
    let begun = Instant::now();
    for (build_id, name) in [(BUILD, "tool"), (OTHER, "lib"), (BUILD, "tool")] {
        assert_eq!(client.find(build_id, name), Found::Nothing);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(silent.requests().len(), 1);
    let warning = client.warning().unwrap();
    assert!(warning.contains("takes longer than 1 s:") && warning.contains("it did not before"), "{warning}");
}

#[test]
fn a_warning_lists_a_few_and_counts_the_rest() {
    let missing = Server::start(Some(status("404 Not Found")));
    let (_folder, mut client) = client(&[&missing]);
    for name in ["a", "b", "c", "d", "e", "f"] {
        client.find(&format!("{BUILD}{name}0"), name);
    }
    let warning = client.warning().unwrap();
    assert!(warning.contains("d (no server has it), and 2 more: their"), "{warning}");
    client.settings.cache = None;
    client.asked.clear();
    client.failures.clear();
    assert_eq!(client.find(BUILD, "tool"), Found::Nothing);
    assert!(client.warning().unwrap().contains("DEBUGINFOD_CACHE_PATH"));
}
