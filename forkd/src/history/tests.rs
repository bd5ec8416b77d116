use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use probes_common::BranchPhase;
use proptest::prelude::*;
use serde_json::json;

use super::{FILE, History, HistoryError, Lost, begun};
use crate::api::{BranchMode, BranchQuery, BranchRecord, DataPath, PhaseSpan, SnapshotStatus};
use crate::unique::ordered_id;

fn start(dir: &Path, keep: u64) -> (History, Lost) {
    let lost = Lost::default();
    (History::start(dir.join(FILE), keep, lost.clone(), |_, _| false).unwrap(), lost)
}

fn record(source: &str, tag: &str, status: SnapshotStatus) -> BranchRecord {
    let mut branch = begun(ordered_id(), (source, tag), BranchMode::Diff, DataPath::Stage);
    branch.status = status;
    branch.pause_ns = 7_500_000;
    branch.pause_ms = 7.5;
    branch.diff_ms = 5.0;
    branch.diff_physical_bytes = 16 << 20;
    branch.staged_bytes = (16 << 20) + 4096;
    branch.phases = vec![PhaseSpan { phase: BranchPhase::Create, start_ns: u64::MAX >> 1, ns: 5_000_000 }];
    branch.warnings = vec!["one".to_owned(), "two \"quoted\"".to_owned()];
    BranchRecord {
        branch,
        durable: true,
        started_at_unix_ms: 1_700_000_000_123,
        error: None,
        firecracker: "1.12.1".to_owned(),
        forkd: "0.1.0".to_owned(),
        attribution: None,
    }
}

async fn list(history: &History, query: BranchQuery) -> Vec<String> {
    history.list(query).await.unwrap().into_iter().map(|record| record.branch.tag).collect()
}

#[tokio::test]
async fn a_record_comes_back_as_it_went_in_and_a_later_one_takes_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let (history, _) = start(dir.path(), 10);
    let mut written = record("sb-1", "a", SnapshotStatus::Writing);
    history.record(written.clone());
    assert_eq!(history.get(&written.branch.id).await.unwrap(), Some(written.clone()));
    history.attribute(&written.branch.id, json!({ "wbt_ns": 3 }));
    written.branch.status = SnapshotStatus::Failed;
    written.error = Some("because".to_owned());
    history.record(written.clone());
    written.attribution = Some(json!({ "wbt_ns": 3 }));
    assert_eq!(history.get(&written.branch.id).await.unwrap(), Some(written));
    assert_eq!(history.get("nobody").await.unwrap(), None);
}

#[tokio::test]
async fn the_newest_come_first_by_source_by_tag_and_page_by_page() {
    let dir = tempfile::tempdir().unwrap();
    let (history, _) = start(dir.path(), 100);
    let mut ids = Vec::new();
    for (source, tag) in [("sb-1", "a"), ("sb-2", "b"), ("sb-1", "c"), ("sb-1", "a")] {
        let record = record(source, tag, SnapshotStatus::Ready);
        ids.push(record.branch.id.clone());
        history.record(record);
    }
    let query = BranchQuery::default;
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(list(&history, query()).await, ["a", "c", "b", "a"]);
    assert_eq!(list(&history, BranchQuery { source: text("sb-1"), ..query() }).await, ["a", "c", "a"]);
    assert_eq!(list(&history, BranchQuery { tag: text("a"), ..query() }).await, ["a", "a"]);
    assert_eq!(list(&history, BranchQuery { limit: Some(2), ..query() }).await, ["a", "c"]);
    let before = Some(ids[2].clone());
    let page = BranchQuery { limit: Some(2), before, ..query() };
    assert_eq!(list(&history, page).await, ["b", "a"]);
    let both = BranchQuery { source: text("sb-1"), tag: text("a"), before: Some(ids[3].clone()), ..query() };
    assert_eq!(list(&history, both).await, ["a"]);
    // A value is a value, whatever it looks like.
    assert!(list(&history, BranchQuery { tag: text("' OR 1 --"), ..query() }).await.is_empty());
}

#[tokio::test]
async fn only_the_newest_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (history, lost) = start(dir.path(), 10);
    for n in 0..200 {
        history.record(record("sb-1", &format!("t{n}"), SnapshotStatus::Ready));
    }
    // 192 is the last multiple of the interval at which it is trimmed.
    let tags = list(&history, BranchQuery { limit: Some(1000), ..BranchQuery::default() }).await;
    let expected: Vec<String> = (182..200).rev().map(|n| format!("t{n}")).collect();
    assert_eq!(tags, expected);
    drop(history);
    let (history, _) = start(dir.path(), 10);
    assert_eq!(list(&history, BranchQuery::default()).await.len(), 10);
    assert_eq!((lost.queue_full.get(), lost.database.get()), (0, 0));
}

#[tokio::test]
async fn what_a_daemon_left_writing_is_settled_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let (history, _) = start(dir.path(), 10);
    let records = ["whole", "half", "done"].map(|tag| {
        let status = if tag == "done" { SnapshotStatus::Ready } else { SnapshotStatus::Writing };
        record("sb-1", tag, status)
    });
    records.iter().for_each(|record| history.record(record.clone()));
    drop(history);
    let is_there = |source: &str, tag: &str| (source, tag) == ("sb-1", "whole");
    let history = History::start(dir.path().join(FILE), 10, Lost::default(), is_there).unwrap();
    let mut found = Vec::new();
    for record in &records {
        let record = history.get(&record.branch.id).await.unwrap().unwrap();
        found.push((record.branch.status, record.error));
    }
    let ended = Some("the daemon ended before it was whole".to_owned());
    use SnapshotStatus::{Failed, Ready};
    assert_eq!(found, [(Ready, None), (Failed, ended), (Ready, None)]);
}

fn set_aside(dir: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let is_kept = |path: &PathBuf| path.to_string_lossy().contains("sqlite.damaged-");
    let mut kept: Vec<PathBuf> = names.filter(is_kept).collect();
    kept.sort();
    kept
}

#[tokio::test]
async fn a_damaged_or_foreign_database_is_set_aside_with_all_its_bytes() {
    let foreign = |path: &Path| {
        let connection = rusqlite::Connection::open(path).unwrap();
        connection.execute_batch("CREATE TABLE branches (id TEXT); PRAGMA user_version = 1").unwrap();
    };
    let later = |path: &Path| {
        let connection = rusqlite::Connection::open(path).unwrap();
        connection.execute_batch("CREATE TABLE x (id TEXT); PRAGMA user_version = 99").unwrap();
    };
    let noise = |path: &Path| fs::write(path, vec![0xa5; 50_000]).unwrap();
    let torn = |path: &Path| {
        let dir = path.parent().unwrap();
        let (history, _) = start(dir, 1000);
        for n in 0..500 {
            history.record(record("sb-1", &format!("t{n}"), SnapshotStatus::Ready));
        }
        drop(history);
        let mut bytes = fs::read(path).unwrap();
        bytes[4096..40_000].fill(0x5a);
        fs::write(path, bytes).unwrap();
    };
    let damages: [&dyn Fn(&Path); 4] = [&foreign, &later, &noise, &torn];
    for (name, damage) in ["foreign", "later", "noise", "torn"].into_iter().zip(damages) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        damage(&path);
        let bytes = fs::read(&path).unwrap();
        let (history, lost) = start(dir.path(), 10);
        history.record(record("sb-1", "fresh", SnapshotStatus::Ready));
        assert_eq!(list(&history, BranchQuery::default()).await, ["fresh"], "{name}");
        let kept = set_aside(dir.path());
        assert!(fs::read(&kept[0]).unwrap() == bytes, "{name}: {kept:?}");
        assert_eq!(lost.database.get(), 0, "{name}");
    }
}

#[tokio::test]
async fn a_database_that_is_deleted_meanwhile_is_begun_afresh() {
    let dir = tempfile::tempdir().unwrap();
    let (history, lost) = start(dir.path(), 10);
    history.record(record("sb-1", "before", SnapshotStatus::Ready));
    assert_eq!(list(&history, BranchQuery::default()).await, ["before"]);
    for suffix in ["", "-wal", "-shm"] {
        fs::remove_file(dir.path().join(format!("{FILE}{suffix}"))).unwrap();
    }
    history.record(record("sb-1", "after", SnapshotStatus::Ready));
    assert_eq!(list(&history, BranchQuery::default()).await, ["after"]);
    assert_eq!(lost.database.get(), 0);
}

#[tokio::test]
async fn without_a_database_records_are_counted_as_lost_and_reads_say_why() {
    let dir = tempfile::tempdir().unwrap();
    // A directory cannot be opened as a database, by root neither.
    fs::create_dir(dir.path().join(FILE)).unwrap();
    let (history, lost) = start(dir.path(), 10);
    history.record(record("sb-1", "a", SnapshotStatus::Ready));
    match history.list(BranchQuery::default()).await {
        Err(HistoryError::Unreadable(reason)) => assert!(reason.contains("cannot create"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(lost.database.get(), 1);
}

#[tokio::test]
async fn its_files_are_for_the_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let (history, _) = start(dir.path(), 10);
    history.record(record("sb-1", "a", SnapshotStatus::Ready));
    assert_eq!(list(&history, BranchQuery::default()).await.len(), 1);
    let files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap()).collect();
    assert_eq!(files.len(), 3, "{files:?}");
    for file in files {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{file:?}");
    }
}

fn any_record() -> impl Strategy<Value = BranchRecord> {
    let numbers = proptest::array::uniform5(0..=i64::MAX as u64);
    let texts = proptest::collection::vec(any::<String>(), 0..4);
    (numbers, texts, 0..DataPath::ALL.len(), any::<[bool; 3]>()).prop_map(|(numbers, texts, path, flags)| {
        let mut record = record("sb-1", "a", SnapshotStatus::Ready);
        record.branch.data_path = DataPath::ALL[path];
        record.branch.mode = if flags[0] { BranchMode::Full } else { BranchMode::Diff };
        record.branch.fell_back_to_disk = flags[1];
        record.durable = flags[2];
        record.error = texts.first().cloned();
        record.branch.warnings = texts;
        record.branch.pause_ns = numbers[0];
        record.branch.diff_physical_bytes = numbers[1];
        record.branch.staged_bytes = numbers[2];
        record.started_at_unix_ms = numbers[3];
        let span = |phase| PhaseSpan { phase, start_ns: numbers[4], ns: numbers[0] };
        record.branch.phases = BranchPhase::ALL.map(span).to_vec();
        record.branch.pause_ms = numbers[0] as f64 / 1e6;
        record.branch.diff_ms = numbers[0] as f64 / 1e6;
        record
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn whatever_is_recorded_is_read_back(records in proptest::collection::vec(any_record(), 1..8)) {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (history, _) = start(dir.path(), 100);
            records.iter().for_each(|record| history.record(record.clone()));
            let mut read = history.list(BranchQuery::default()).await.unwrap();
            read.sort_by(|a, b| a.branch.id.cmp(&b.branch.id));
            let mut expected = records.clone();
            expected.sort_by(|a, b| a.branch.id.cmp(&b.branch.id));
            prop_assert_eq!(read, expected);
            Ok(())
        })?;
    }
}
