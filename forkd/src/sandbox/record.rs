//! What a later daemon must know of a sandbox to take it over: `sandbox.json` in its run directory.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::snapshot::digest::Digest;
use crate::snapshot::manifest::{Manifest, Memory};
use crate::snapshot::origin::Origin;
use crate::vmm::cgroup::Limits;
use crate::vmm::identity::Identity;

/// The `schema` of [`Record`].
pub const SCHEMA: &str = "forkd.sandbox/1";

const RECORD_FILE: &str = "sandbox.json";

/// One sandbox, as a later daemon finds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: String,
    /// Its id.
    pub id: String,
    /// Seconds since the Unix epoch.
    pub created_at_unix: u64,
    /// Its Firecracker.
    pub process: Identity,
    /// The manifest of the snapshot it was forked from, without the list of its extents.
    pub origin: Manifest,
    /// The Firecracker and the processor that it runs on.
    pub runs_on: Origin,
    /// What it may use.
    #[serde(default)]
    pub limits: Limits,
    /// The network namespace it runs in; absent where that is the daemon's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// From the request for it to its guest running.
    #[serde(default)]
    pub running_after_ns: u64,
    /// What the next diff BRANCH builds on; absent where only a full one is right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff_base: Option<RecordedBase>,
    /// BRANCHes taken of it that succeeded.
    #[serde(default)]
    pub branches: u64,
    /// A BRANCH is under way, or failed to resume the guest: where the guest is found paused, that BRANCH did it.
    #[serde(default)]
    pub branching: bool,
    /// Its user has paused it: nobody else resumes it.
    #[serde(default)]
    pub paused_by_user: bool,
}

/// The snapshot that a diff BRANCH builds on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedBase {
    /// Its tag.
    pub tag: String,
    /// Its identity, which tells it from a later snapshot of the same name.
    pub identity: Digest,
}

impl Record {
    /// Reads the record in `dir`; `None` where there is none.
    pub fn read(dir: &Path) -> io::Result<Option<Self>> {
        let text = match fs::read(dir.join(RECORD_FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Self::decode(&text).map(Some)
    }

    /// Reads the contents of such a file.
    pub fn decode(text: &[u8]) -> io::Result<Self> {
        let record: Self = serde_json::from_slice(text)?;
        if record.schema != SCHEMA {
            let reason = format!("its schema is '{}', and this daemon knows '{SCHEMA}'", record.schema);
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(record)
    }

    /// Writes it into `dir`, whole or not at all. It is not synced: the process that it describes does not
    /// survive a power cut either.
    fn write(&self, dir: &Path) -> io::Result<()> {
        let partial = dir.join(format!(".{RECORD_FILE}"));
        fs::write(&partial, serde_json::to_vec(self)?)?;
        fs::rename(partial, dir.join(RECORD_FILE))
    }
}

/// A record and the directory that it is kept in. Nothing is written before [`Recorder::begin`].
#[derive(Debug)]
pub(super) struct Recorder {
    dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    record: Record,
    is_kept: bool,
}

impl Recorder {
    /// For a sandbox in the making.
    pub fn new(dir: &Path, mut record: Record) -> Self {
        if let Memory::Layer { extents, .. } = &mut record.origin.memory {
            // Of no use to a sandbox, and long.
            extents.clear();
        }
        Self { dir: dir.to_owned(), state: Mutex::new(State { record, is_kept: false }) }
    }

    /// For a sandbox whose record is there already.
    pub fn adopted(dir: &Path, record: Record) -> Self {
        Self { dir: dir.to_owned(), state: Mutex::new(State { record, is_kept: true }) }
    }

    /// Writes the record for the first time: from here on a later daemon adopts the sandbox.
    pub fn begin(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.record.write(&self.dir)?;
        state.is_kept = true;
        Ok(())
    }

    /// Changes the record, on disk first. Where that fails, it stays what it was.
    pub fn change(&self, change: impl FnOnce(&mut Record)) -> io::Result<()> {
        let mut state = self.lock();
        let mut record = state.record.clone();
        change(&mut record);
        if state.is_kept && record != state.record {
            record.write(&self.dir)?;
        }
        state.record = record;
        Ok(())
    }

    /// The record as it stands.
    pub fn record(&self) -> Record {
        self.lock().record.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can leave the record half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One with everything that a record can have, for tests and for [`crate::fuzzing`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn sample() -> Record {
    use crate::snapshot::extents::Extent;
    use crate::snapshot::manifest::Parent;
    use crate::snapshot::testing::manifest_of;

    let digest = Digest::of(b"x");
    let parent = Parent { tag: "base".to_owned(), identity: digest };
    let extents = vec![Extent { start: 0, bytes: 4096 }];
    let origin = manifest_of("one", digest, Memory::Layer { parent, extents, digest });
    Record {
        schema: SCHEMA.to_owned(),
        id: "sb-0123456789ab".to_owned(),
        created_at_unix: 2,
        process: Identity { pid: 3, start_ticks: 4 },
        runs_on: Origin::of(&origin),
        origin,
        limits: Limits { memory_mib: Some(64), cpus: Some(1.5) },
        netns: Some("blue".to_owned()),
        running_after_ns: 6,
        diff_base: Some(RecordedBase { tag: "one".to_owned(), identity: digest }),
        branches: 5,
        branching: false,
        paused_by_user: false,
    }
}

#[cfg(test)]
mod tests {
    use super::{Record, Recorder, SCHEMA, sample as record};

    #[test]
    fn a_record_is_there_once_begun_and_always_as_it_was_last_changed() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::new(dir.path(), record());
        recorder.change(|record| record.branches += 1).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), None);
        recorder.begin().unwrap();
        recorder.change(|record| record.branching = true).unwrap();
        let found = Record::read(dir.path()).unwrap().unwrap();
        assert_eq!(found, recorder.record());
        assert_eq!((found.branches, found.branching, found.origin.tag.as_str()), (6, true, "one"));
    }

    #[test]
    fn a_change_that_cannot_be_written_is_refused_and_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::new(dir.path(), record());
        recorder.begin().unwrap();
        drop(dir);
        assert!(recorder.change(|record| record.branching = true).is_err());
        assert!(!recorder.record().branching);
    }

    #[test]
    fn a_record_of_another_schema_or_half_a_record_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(super::RECORD_FILE);
        let text = serde_json::to_string(&record()).unwrap();
        std::fs::write(&path, text.replace(SCHEMA, "forkd.sandbox/9")).unwrap();
        assert!(Record::read(dir.path()).unwrap_err().to_string().contains("forkd.sandbox/9"));
        std::fs::write(&path, &text[..text.len() / 2]).unwrap();
        assert!(Record::read(dir.path()).is_err());
    }
}
