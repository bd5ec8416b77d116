//! The thread's side of the history: keeps the database open, and lives without it where it must.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::database::Database;
use super::open::{file_at, is_damage, open, set_aside};
use super::{HistoryError, Job, Lost};

/// Between two attempts to open a database that cannot be opened.
const OPEN_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Holds the database.
pub(super) struct Writer {
    path: PathBuf,
    keep: u64,
    lost: Lost,
    state: State,
    warned: bool,
}

enum State {
    /// The database, and the file that it is in.
    Open(Database, Option<(u64, u64)>),
    Closed {
        reason: String,
        since: Instant,
    },
}

impl Writer {
    pub fn new(path: PathBuf, keep: u64, lost: Lost) -> Self {
        let state = State::Closed { reason: String::new(), since: Instant::now() };
        let mut writer = Self { path, keep, lost, state, warned: false };
        writer.open();
        writer
    }

    /// Settles what an earlier daemon left `writing`.
    pub fn repair(&mut self, is_there: impl Fn(&str, &str) -> bool) {
        let State::Open(database, _) = &self.state else { return };
        match database.settle_unfinished(is_there) {
            Ok(0) => {}
            Ok(failed) => tracing::warn!(failed, "BRANCHes that an earlier daemon did not end are failed"),
            Err(error) => self.note_failure(&error),
        }
    }

    pub fn run(&mut self, job: Job) {
        match job {
            Job::Record(record) => self.write(|database| database.record(&record)),
            Job::Attribute { id, attribution } => {
                self.write(|database| database.attribute(&id, &attribution));
            }
            Job::Read(read) => {
                self.open_if_due();
                read(match &self.state {
                    State::Open(database, _) => Ok(database),
                    State::Closed { reason, .. } => Err(HistoryError::Unreadable(reason.clone())),
                });
            }
            Job::Close => {}
        }
    }

    /// Writes; on damage, once more into a fresh database.
    fn write(&mut self, mut write: impl FnMut(&mut Database) -> rusqlite::Result<()>) {
        self.open_if_due();
        // SQLite would go on in a file that nobody finds again.
        if let State::Open(_, file) = &self.state
            && file_at(&self.path) != *file
        {
            self.begin_afresh("its file was deleted or replaced");
        }
        for _attempt in 0..2 {
            let State::Open(database, _) = &mut self.state else { break };
            match write(database) {
                Ok(()) => return,
                Err(error) if is_damage(&error) => self.begin_afresh(&error.to_string()),
                Err(error) => {
                    self.note_failure(&error);
                    break;
                }
            }
        }
        self.lost.database.inc();
    }

    fn begin_afresh(&mut self, reason: &str) {
        // Closed before the files are renamed: SQLite would go on with the names it knows.
        self.state = State::Closed { reason: reason.to_owned(), since: Instant::now() };
        match set_aside(&self.path, reason) {
            Ok(()) => self.open(),
            Err(error) => self.note_failure(&error),
        }
    }

    fn open_if_due(&mut self) {
        if let State::Closed { since, .. } = &self.state
            && since.elapsed() >= OPEN_AGAIN_AFTER
        {
            self.open();
        }
    }

    fn open(&mut self) {
        match open(&self.path, self.keep) {
            Ok(database) => {
                self.state = State::Open(database, file_at(&self.path));
            }
            Err(error) => {
                self.state = State::Closed { reason: error.to_string(), since: Instant::now() };
                self.note_failure(&error);
            }
        }
    }

    /// Said once: it would be said with every BRANCH otherwise, and the count is in the metrics.
    fn note_failure(&mut self, error: &dyn std::error::Error) {
        if !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(
                database = %self.path.display(), %error,
                "the history of BRANCHes cannot be written; BRANCHes go on, and what is lost is counted in /metrics"
            );
        }
    }
}
