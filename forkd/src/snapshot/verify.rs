//! Which files have been compared with their digests, and how that ended.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::digest::Digest;
use super::file_id::FileId;
use super::pace::Pace;
use super::store::{StoreError, at};

/// Files remembered. Beyond that all are forgotten, and read again when they are next needed.
const MAX_REMEMBERED: usize = 1 << 16;

/// Compares files with their digests: each once, for as long as stat(2) shows it unchanged.
#[derive(Debug, Default)]
pub struct Verifier(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    whole: HashMap<FileId, Digest>,
    damaged: HashMap<FileId, String>,
}

impl Verifier {
    /// Refuses `file`, which belongs to the snapshot `tag` and is at `path`, unless its digest is `expected`.
    /// The file that is open is read: it stays the right one when the tag is replaced or deleted meanwhile.
    pub fn check(
        &self,
        tag: &str,
        (file, path): (&File, &Path),
        expected: Digest,
        pace: &dyn Pace,
    ) -> Result<(), StoreError> {
        let id = || Ok(FileId::of(&file.metadata().map_err(at("read", path))?));
        let before = id()?;
        if self.known().whole.get(&before) == Some(&expected) {
            return Ok(());
        }
        let begun = SystemTime::now();
        let found = Digest::of_open(file, pace).map_err(at("read", path))?;
        if found != expected {
            let reason = format!("{} has the digest {found} instead of {expected}", path.display());
            self.remember(|known| known.damaged.insert(before, reason.clone()).is_some());
            return Err(StoreError::Damaged { tag: tag.to_owned(), reason });
        }
        if id()? == before && before.is_settled(begun) {
            self.remember(|known| known.whole.insert(before, found).is_some());
        }
        Ok(())
    }

    /// What was found wrong with that file when it was read.
    pub fn damage(&self, file: &FileId) -> Option<String> {
        self.known().damaged.get(file).cloned()
    }

    fn remember(&self, note: impl FnOnce(&mut Known) -> bool) {
        let mut known = self.known();
        if known.whole.len() + known.damaged.len() >= MAX_REMEMBERED {
            *known = Known::default();
        }
        note(&mut known);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing that holds the lock can leave the maps half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs::{self, File};
    use std::io;
    use std::path::Path;
    use std::time::Duration;

    use super::{Digest, FileId, Pace, Verifier};

    /// Counts the pieces that were read.
    #[derive(Default)]
    struct Counting(Cell<u32>);

    impl Pace for Counting {
        fn next_piece(&self) -> io::Result<()> {
            self.0.set(self.0.get() + 1);
            Ok(())
        }
        fn is_urgent(&self) -> bool {
            false
        }
    }

    fn check(verifier: &Verifier, path: &Path, expected: Digest) -> (bool, u32) {
        let pace = Counting::default();
        let file = File::open(path).unwrap();
        let outcome = verifier.check("a", (&file, path), expected, &pace);
        (outcome.is_ok(), pace.0.get())
    }

    #[test]
    fn a_file_is_read_once_until_it_changes_and_damage_is_remembered() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"memory").unwrap();
        std::thread::sleep(Duration::from_millis(30));
        let verifier = Verifier::default();
        let expected = Digest::of(b"memory");
        let first = check(&verifier, file.path(), expected);
        assert!(first.0 && first.1 > 0);
        assert_eq!(check(&verifier, file.path(), expected), (true, 0));
        assert!(!check(&verifier, file.path(), Digest::of(b"other")).0);
        fs::write(file.path(), b"memorY").unwrap();
        assert!(!check(&verifier, file.path(), expected).0);
        let id = FileId::of(&fs::metadata(file.path()).unwrap());
        let damage = verifier.damage(&id).unwrap();
        assert!(damage.contains(&expected.to_string()) && damage.contains(file.path().to_str().unwrap()));
        fs::write(file.path(), b"memory").unwrap();
        assert!(check(&verifier, file.path(), expected).0);
    }

    #[test]
    fn a_file_that_was_changed_a_moment_ago_is_read_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"memory").unwrap();
        let verifier = Verifier::default();
        let first = check(&verifier, file.path(), Digest::of(b"memory"));
        let second = check(&verifier, file.path(), Digest::of(b"memory"));
        assert!(first.1 > 0 && second.1 > 0);
    }
}
