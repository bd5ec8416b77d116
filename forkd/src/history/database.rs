//! The database: its schema, and what is asked of it.

use rusqlite::{Connection, OptionalExtension, ToSql, params};
use serde_json::Value;

use super::record::{COLUMNS, from_row, json, word};
use crate::api::{BranchQuery, BranchRecord};

/// `user_version` of a database with [`SCHEMA`].
pub(super) const VERSION: u32 = 1;

/// `id` is a UUID of version 7: its order is that of the BRANCHes.
pub(super) const SCHEMA: &str = "
    CREATE TABLE branches (
        id TEXT PRIMARY KEY NOT NULL,
        source TEXT NOT NULL,
        tag TEXT NOT NULL,
        mode TEXT NOT NULL,
        data_path TEXT NOT NULL,
        durable INTEGER NOT NULL,
        started_at_unix_ms INTEGER NOT NULL,
        status TEXT NOT NULL,
        error TEXT,
        pause_ns INTEGER NOT NULL,
        phases TEXT NOT NULL,
        diff_physical_bytes INTEGER NOT NULL,
        staged_bytes INTEGER NOT NULL,
        fell_back_to_disk INTEGER NOT NULL,
        warnings TEXT NOT NULL,
        firecracker TEXT NOT NULL,
        forkd TEXT NOT NULL,
        attribution TEXT
    ) STRICT;
    CREATE INDEX branches_by_source ON branches (source, id);
    CREATE INDEX branches_by_tag ON branches (tag, id);
    CREATE INDEX branches_writing ON branches (id) WHERE status = 'writing';
";

/// Rows that may come before the oldest are deleted: deleting one by one would double the writes.
const TRIM_EVERY: u32 = 64;

/// Why a BRANCH failed that was `writing` when its daemon ended.
const ENDED: &str = "the daemon ended before it was whole";

/// An open database with the schema of this daemon.
#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
    keep: u64,
    until_trim: u32,
}

impl Database {
    /// `connection` must have [`SCHEMA`].
    pub fn new(connection: Connection, keep: u64) -> rusqlite::Result<Self> {
        let mut database = Self { connection, keep, until_trim: TRIM_EVERY };
        database.trim()?;
        Ok(database)
    }

    /// Inserts a BRANCH, or puts it in the place of the row with its id.
    pub fn record(&mut self, record: &BranchRecord) -> rusqlite::Result<()> {
        let branch = &record.branch;
        let sql = format!(
            "INSERT INTO branches ({COLUMNS})
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)
             ON CONFLICT (id) DO UPDATE SET mode = ?4, data_path = ?5, status = ?8, error = ?9, pause_ns = ?10,
                 phases = ?11, diff_physical_bytes = ?12, staged_bytes = ?13, fell_back_to_disk = ?14,
                 warnings = ?15, attribution = coalesce(?18, attribution)"
        );
        self.connection.prepare_cached(&sql)?.execute(params![
            branch.id,
            branch.branched_from,
            branch.tag,
            word(branch.mode),
            word(branch.data_path),
            record.durable,
            record.started_at_unix_ms,
            word(branch.status),
            record.error,
            branch.pause_ns,
            json(&branch.phases),
            branch.diff_physical_bytes,
            branch.staged_bytes,
            branch.fell_back_to_disk,
            json(&branch.warnings),
            record.firecracker,
            record.forkd,
            record.attribution.as_ref().map(json),
        ])?;
        self.until_trim -= 1;
        if self.until_trim == 0 { self.trim() } else { Ok(()) }
    }

    /// Adds the attribution to the row with that id, where there is one.
    pub fn attribute(&self, id: &str, attribution: &Value) -> rusqlite::Result<()> {
        let sql = "UPDATE branches SET attribution = ?2 WHERE id = ?1";
        self.connection.prepare_cached(sql)?.execute(params![id, json(attribution)]).map(drop)
    }

    /// The row with that id.
    pub fn get(&self, id: &str) -> rusqlite::Result<Option<BranchRecord>> {
        let sql = format!("SELECT {COLUMNS} FROM branches WHERE id = ?1");
        self.connection.prepare_cached(&sql)?.query_row([id], from_row).optional()
    }

    /// At most `limit` rows, the newest first.
    pub fn list(&self, query: &BranchQuery, limit: u32) -> rusqlite::Result<Vec<BranchRecord>> {
        let asked = [("source =", &query.source), ("tag =", &query.tag), ("id <", &query.before)];
        let asked: Vec<_> =
            asked.into_iter().filter_map(|(test, value)| Some((test, value.as_ref()?))).collect();
        // One condition for each that is asked for: an index serves no condition that may be absent.
        let conditions: Vec<String> = asked.iter().map(|(test, _)| format!("{test} ?")).collect();
        let filter = if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") };
        let sql = format!("SELECT {COLUMNS} FROM branches WHERE {filter} ORDER BY id DESC LIMIT ?");
        let mut values: Vec<&dyn ToSql> = asked.iter().map(|(_, value)| *value as &dyn ToSql).collect();
        values.push(&limit);
        self.connection.prepare_cached(&sql)?.query_map(&*values, from_row)?.collect()
    }

    /// Settles the rows that a daemon which is no more left `writing`; returns how many failed.
    pub fn settle_unfinished(&self, is_there: impl Fn(&str, &str) -> bool) -> rusqlite::Result<usize> {
        let sql = "SELECT id, source, tag FROM branches WHERE status = 'writing'";
        let mut unfinished = self.connection.prepare(sql)?;
        let rows = unfinished.query_map([], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
        })?;
        let mut failed = 0;
        for row in rows.collect::<rusqlite::Result<Vec<_>>>()? {
            let (id, source, tag) = row;
            let (status, error) =
                if is_there(&source, &tag) { ("ready", None) } else { ("failed", Some(ENDED)) };
            failed += usize::from(error.is_some());
            let sql = "UPDATE branches SET status = ?2, error = ?3 WHERE id = ?1";
            self.connection.execute(sql, params![id, status, error])?;
        }
        Ok(failed)
    }

    fn trim(&mut self) -> rusqlite::Result<()> {
        self.until_trim = TRIM_EVERY;
        let sql =
            "DELETE FROM branches WHERE id <= (SELECT id FROM branches ORDER BY id DESC LIMIT 1 OFFSET ?1)";
        self.connection.prepare_cached(sql)?.execute([self.keep]).map(drop)
    }
}
