//! A BRANCH as a row, and back.

use probes_common::BranchPhase;
use rusqlite::Row;
use rusqlite::types::Type;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::{Branch, BranchMode, BranchRecord, DataPath, SnapshotStatus};

/// The columns, in the order of [`from_row`].
pub(super) const COLUMNS: &str = "id, source, tag, mode, data_path, durable, started_at_unix_ms, status, error, \
     pause_ns, phases, diff_physical_bytes, staged_bytes, fell_back_to_disk, warnings, firecracker, forkd, attribution";

/// A BRANCH that has just been admitted and has done nothing yet.
pub fn begun(id: String, (source, tag): (&str, &str), mode: BranchMode, data_path: DataPath) -> Branch {
    Branch {
        id,
        tag: tag.to_owned(),
        branched_from: source.to_owned(),
        mode,
        data_path,
        pause_ns: 0,
        pause_ms: 0.0,
        diff_ms: 0.0,
        diff_physical_bytes: 0,
        staged_bytes: 0,
        fell_back_to_disk: false,
        drive_copy_ns: 0,
        status: SnapshotStatus::Writing,
        phases: Vec::new(),
        warnings: Vec::new(),
    }
}

pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<BranchRecord> {
    let mut branch = Branch {
        pause_ns: row.get(9)?,
        phases: from_json(row, 10)?,
        diff_physical_bytes: row.get(11)?,
        staged_bytes: row.get(12)?,
        fell_back_to_disk: row.get(13)?,
        warnings: from_json(row, 14)?,
        status: from_word(row, 7)?,
        ..begun(
            row.get(0)?,
            (&row.get::<_, String>(1)?, &row.get::<_, String>(2)?),
            from_word(row, 3)?,
            from_word(row, 4)?,
        )
    };
    branch.pause_ms = branch.pause_ns as f64 / 1e6;
    branch.diff_ms = branch.phase_ns(BranchPhase::Create) as f64 / 1e6;
    let attribution: Option<String> = row.get(17)?;
    Ok(BranchRecord {
        branch,
        durable: row.get(5)?,
        started_at_unix_ms: row.get(6)?,
        error: row.get(8)?,
        firecracker: row.get(15)?,
        forkd: row.get(16)?,
        attribution: attribution.map(|text| parse(&text, 17)).transpose()?,
    })
}

/// The word that an enum without fields has in JSON.
pub(super) fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        other => unreachable!("an enum without fields is a string in JSON, not {other:?}"),
    }
}

pub(super) fn json(value: &impl Serialize) -> String {
    // Nothing that is recorded has maps with other keys than strings, which is all that can fail here.
    serde_json::to_string(value).expect("a record is JSON")
}

fn from_word<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let word = Value::String(row.get(column)?);
    serde_json::from_value(word).map_err(|error| not_ours(column, error))
}

fn from_json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    parse(&row.get::<_, String>(column)?, column)
}

fn parse<T: DeserializeOwned>(text: &str, column: usize) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(|error| not_ours(column, error))
}

fn not_ours(column: usize, error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}
