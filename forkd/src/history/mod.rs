//! What BRANCHes there were: one row each, in an SQLite file under the data directory.
//!
//! Snapshots are described by the manifests in their own directories: a lost database loses history and no
//! snapshot. All of it happens on one thread that no BRANCH waits for.

mod database;
mod open;
mod record;
mod writer;

use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use prometheus_client::metrics::counter::Counter;
use serde_json::Value;
use tokio::sync::{Semaphore, oneshot};

use self::database::Database;
pub use self::record::begun;
use self::writer::Writer;
use crate::api::{BranchQuery, BranchRecord};

/// Name of the database in the data directory.
pub const FILE: &str = "history.sqlite";

/// Records that may wait for the database.
const QUEUE: usize = 1024;
/// Reads that may wait at the same time, so that they never fill the queue.
const READS: usize = 4;

/// Rows of one answer where a query names no limit, and the most that it may name.
const DEFAULT_LIMIT: u32 = 100;

/// Why history could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The database cannot be opened or read.
    #[error("the history of BRANCHes cannot be read: {0}; BRANCHes themselves go on")]
    Unreadable(String),
    /// Its thread is gone.
    #[error("the history of BRANCHes is closed: the daemon is stopping")]
    Closed,
}

/// Given the database, or why there is none, and answers by a channel of its own.
type Read = Box<dyn FnOnce(Result<&Database, HistoryError>) + Send>;

/// What the thread is asked to do.
enum Job {
    Record(Box<BranchRecord>),
    Attribute { id: String, attribution: Box<Value> },
    Read(Read),
    Close,
}

/// Counts the records that did not get into the history.
#[derive(Clone, Debug, Default)]
pub struct Lost {
    /// Dropped because too many were waiting.
    pub queue_full: Counter,
    /// Refused by the database.
    pub database: Counter,
}

/// The history of BRANCHes. Dropping it waits until what was recorded is written.
#[derive(Debug)]
pub struct History {
    queue: SyncSender<Job>,
    reads: Semaphore,
    lost: Lost,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl History {
    /// Opens the database at `path`, keeping its newest `keep` rows, and starts its thread.
    ///
    /// A row that is `writing` was left by a daemon that ended: it becomes `ready` where `is_there` says that
    /// the tag of that source is listed, else `failed`. A database that is damaged, or that this daemon does
    /// not know the schema of, is renamed and begun afresh. One that cannot be opened at all is tried again later.
    pub fn start(
        path: PathBuf,
        keep: u64,
        lost: Lost,
        is_there: impl Fn(&str, &str) -> bool,
    ) -> std::io::Result<Self> {
        let mut writer = Writer::new(path, keep, lost.clone());
        writer.repair(is_there);
        let (queue, jobs) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("history".to_owned()).spawn(move || {
            for job in jobs {
                match job {
                    Job::Close => break,
                    job => writer.run(job),
                }
            }
        })?;
        Ok(Self { queue, reads: Semaphore::new(READS), lost, thread: Mutex::new(Some(thread)) })
    }

    /// Notes how far a BRANCH has come, in the place of what was noted under its id before. Never waits: where
    /// the database does not keep up, the record is dropped and counted.
    pub fn record(&self, record: BranchRecord) {
        self.send(Job::Record(Box::new(record)));
    }

    /// Notes where the time of a BRANCH's pause went. Never waits, as [`Self::record`].
    pub fn attribute(&self, id: &str, attribution: Value) {
        self.send(Job::Attribute { id: id.to_owned(), attribution: Box::new(attribution) });
    }

    /// The BRANCHes that `query` asks for, the newest first, with all that was recorded before the call.
    pub async fn list(&self, query: BranchQuery) -> Result<Vec<BranchRecord>, HistoryError> {
        let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
        self.read(move |database| database.list(&query, limit)).await
    }

    /// The BRANCH with that id, as it stands after all that was recorded before the call.
    pub async fn get(&self, id: &str) -> Result<Option<BranchRecord>, HistoryError> {
        let id = id.to_owned();
        self.read(move |database| database.get(&id)).await
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Database) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, HistoryError> {
        // The semaphore is never closed.
        let _turn = self.reads.acquire().await.map_err(|_| HistoryError::Closed)?;
        let (answer, answered) = oneshot::channel();
        let job = Job::Read(Box::new(move |database| {
            let result = database.and_then(|database| {
                read(database).map_err(|error| HistoryError::Unreadable(error.to_string()))
            });
            // An error says that the client is gone.
            let _ = answer.send(result);
        }));
        let mut job = Some(job);
        while let Some(waiting) = job.take() {
            match self.queue.try_send(waiting) {
                Ok(()) => {}
                Err(TrySendError::Disconnected(_)) => return Err(HistoryError::Closed),
                Err(TrySendError::Full(back)) => {
                    job = Some(back);
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            }
        }
        answered.await.map_err(|_| HistoryError::Closed)?
    }

    fn send(&self, job: Job) {
        if self.queue.try_send(job).is_err() && self.lost.queue_full.inc() == 0 {
            tracing::warn!(
                "the history of BRANCHes does not keep up: records are dropped, and counted in /metrics"
            );
        }
    }
}

impl Drop for History {
    fn drop(&mut self) {
        // Behind everything that was recorded; an error says that the thread is gone.
        let _ = self.queue.send(Job::Close);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the history panicked: its last records are lost");
        }
    }
}

#[cfg(test)]
mod tests;
