//! Against a server of the test's own.

use std::time::Instant;

use super::server::{self, Server, ok, status};
use super::*;
use crate::symbolize::sample::{self, BUILD, OTHER};

fn elf(build_id: &str) -> Vec<u8> {
    sample::elf(build_id, &[])
}

/// A client that may ask.
fn client(servers: &[&Server]) -> (tempfile::TempDir, Debuginfod) {
    let (folder, mut client) = server::client(servers);
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
    let (_folder, mut client) = server::client(&[&server]);
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
    let expected = "debuginfod had no symbols for tool (no server has it): its functions and variables are named by \
                    their place";
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
