//! Which file it is, and in which state: as much as stat(2) tells.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// The kernel stamps files with a clock that advances with its tick, 10 ms at the longest (CONFIG_HZ=100). A
/// change within the same tick as the last one could go unseen.
const TICK: Duration = Duration::from_millis(20);

/// A file that has the same one still has the same contents: every write and every change of its inode moves
/// its change time, which no system call can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileId {
    dev: u64,
    ino: u64,
    bytes: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileId {
    /// Of the file that `metadata` is of.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether a change after `now` is sure to give it another change time.
    pub fn is_settled(&self, now: SystemTime) -> bool {
        let (seconds, ns) = self.changed;
        let (Ok(seconds), Ok(ns)) = (u64::try_from(seconds), u64::try_from(ns)) else { return false };
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(ns);
        now.duration_since(changed).is_ok_and(|age| age > TICK)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, SystemTime};

    use super::FileId;

    #[test]
    fn a_write_that_keeps_size_and_modification_time_is_seen() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"one").unwrap();
        let metadata = fs::metadata(file.path()).unwrap();
        let before = FileId::of(&metadata);
        std::thread::sleep(Duration::from_millis(25));
        assert!(before.is_settled(SystemTime::now()));
        fs::write(file.path(), b"two").unwrap();
        let open = fs::File::options().write(true).open(file.path()).unwrap();
        open.set_modified(metadata.modified().unwrap()).unwrap();
        let after = FileId::of(&fs::metadata(file.path()).unwrap());
        assert_ne!(before, after);
        assert_eq!(before.modified, after.modified);
    }

    #[test]
    fn what_was_changed_a_moment_ago_or_in_times_to_come_is_not_settled() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let id = FileId::of(&fs::metadata(file.path()).unwrap());
        assert!(!id.is_settled(SystemTime::UNIX_EPOCH));
        assert!(id.is_settled(SystemTime::now() + Duration::from_secs(1)));
    }
}
