//! Opening the database, and setting aside one that cannot be used.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::database::{Database, SCHEMA, VERSION};
use super::record::COLUMNS;
use crate::clock;

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// SQLite said no.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// It is no history of BRANCHes, or not one of this daemon.
    #[error("{0}")]
    Unusable(String),
    /// The file system said no.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl OpenError {
    fn is_damage(&self) -> bool {
        match self {
            Self::Sqlite(error) => is_damage(error),
            Self::Unusable(_) => true,
            Self::Io { .. } => false,
        }
    }
}

/// Whether this error says that the database's file is no database, or not one of this schema.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => {
            matches!(failure.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
                // A statement that does not fit the tables: they are not those of the schema.
                || failure.extended_code == rusqlite::ffi::SQLITE_ERROR
        }
        rusqlite::Error::SqlInputError { .. } => true,
        _ => false,
    }
}

/// Opens the database at `path`. One that is damaged is renamed, which deletes nothing, and begun afresh.
pub(super) fn open(path: &Path, keep: u64) -> Result<Database, OpenError> {
    match open_as_it_is(path, keep) {
        Err(error) if error.is_damage() => {
            set_aside(path, &error.to_string())?;
            open_as_it_is(path, keep)
        }
        other => other,
    }
}

/// Renames the database and what SQLite keeps beside it.
pub(super) fn set_aside(path: &Path, reason: &str) -> Result<(), OpenError> {
    let kept = beside(path, &format!(".damaged-{}", clock::unix_ms()));
    for suffix in ["", "-wal", "-shm"] {
        let (from, to) = (beside(path, suffix), beside(&kept, suffix));
        match fs::rename(&from, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(OpenError::Io { what: "rename", path: from, source: error });
            }
            _ => {}
        }
    }
    tracing::warn!(
        database = %path.display(), kept = %kept.display(), reason,
        "the history of BRANCHes cannot be used: it is set aside and begun afresh; no snapshot is lost"
    );
    Ok(())
}

fn open_as_it_is(path: &Path, keep: u64) -> Result<Database, OpenError> {
    // SQLite would create it for everybody whom the umask lets.
    let mut private = OpenOptions::new();
    private.read(true).write(true).create(true).truncate(false).mode(0o600);
    private.open(path).map_err(|source| OpenError::Io { what: "create", path: path.to_owned(), source })?;
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(Duration::from_secs(1))?;
    // Looked at before anything is changed: what is not ours is set aside as it is.
    let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: u32 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let is_fresh = (version, tables) == (0, 0);
    if !is_fresh && version != VERSION {
        return Err(OpenError::Unusable(format!("its schema is {version}, and this daemon's is {VERSION}")));
    }
    if !is_fresh {
        connection.prepare(&format!("SELECT {COLUMNS} FROM branches"))?;
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // Synced at checkpoints only: a power cut may take the last rows, and never the database.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    if is_fresh {
        let create = format!("BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;");
        connection.execute_batch(&create)?;
    }
    let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if check != "ok" {
        return Err(OpenError::Unusable(check));
    }
    Ok(Database::new(connection, keep)?)
}

/// Device and inode of the file of that name; `None` where there is none.
pub(super) fn file_at(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
