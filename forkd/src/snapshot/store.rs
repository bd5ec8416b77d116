//! The snapshot root: lists, opens, stages and deletes snapshots.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FlockOperation, flock};

use super::manifest::{Manifest, SCHEMA};
use super::staging::{Staging, sync_dir};
use super::tag::Tag;
use super::{MANIFEST_FILE, MEMORY_FILE, VMSTATE_FILE};
use crate::unique;

/// Holds what is being made or deleted; its name is no tag, so it is never listed.
const STAGING_DIR: &str = ".staging";
/// Held for as long as a daemon uses the root.
const LOCK_FILE: &str = ".lock";

/// Why a snapshot could not be found, made or deleted.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No snapshot has that tag.
    #[error("no snapshot has the tag '{0}'; GET /v1/snapshots lists those there are")]
    NotFound(String),
    /// The tag is in use, or a snapshot of that name is being made.
    #[error("the tag '{0}' is taken: delete that snapshot first, or choose another tag")]
    Taken(String),
    /// The directory is there, but it is not a whole snapshot.
    #[error("snapshot '{tag}' is damaged: {reason}")]
    Damaged {
        /// The snapshot.
        tag: String,
        /// The file, and what is wrong with it.
        reason: String,
    },
    /// Another daemon uses the same root.
    #[error("{0} is in use by another forkd: give this one a snapshot root of its own")]
    InUse(PathBuf),
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

impl StoreError {
    /// Whether the disk, or the user's share of it, is full.
    pub fn is_out_of_space(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }
}

/// Wraps an I/O error with what was tried on which path.
pub fn at<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io { what, path: path.to_owned(), source }
}

/// A whole snapshot, opened: its files stay readable when the tag is deleted meanwhile.
#[derive(Debug)]
pub struct Opened {
    /// Its manifest.
    pub manifest: Manifest,
    /// Its directory.
    pub dir: PathBuf,
    /// Its memory image, read-only.
    pub memory: File,
}

impl Opened {
    /// Path of the memory image.
    pub fn memory_path(&self) -> PathBuf {
        self.dir.join(MEMORY_FILE)
    }

    /// Path of Firecracker's device and CPU state.
    pub fn vmstate_path(&self) -> PathBuf {
        self.dir.join(VMSTATE_FILE)
    }

    /// Disk space of all its files, in bytes.
    pub fn physical_bytes(&self) -> io::Result<u64> {
        fs::read_dir(&self.dir)?.try_fold(0, |sum, entry| Ok(sum + entry?.metadata()?.blocks() * 512))
    }
}

/// All snapshots below one directory, which this process alone writes to.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    reserved: Arc<Mutex<BTreeSet<Tag>>>,
    _lock: File,
}

impl Store {
    /// Takes the root for this process, creating it if need be, and deletes what an earlier one left unfinished.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let mut private = DirBuilder::new();
        private.recursive(true).mode(0o700);
        let staging = root.join(STAGING_DIR);
        private.create(root).map_err(at("create", root))?;
        let root = root.canonicalize().map_err(at("resolve", root))?;
        let lock_path = root.join(LOCK_FILE);
        let lock = File::create(&lock_path).map_err(at("create", &lock_path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| StoreError::InUse(root.clone()))?;
        if staging.exists() {
            fs::remove_dir_all(&staging).map_err(at("delete", &staging))?;
        }
        private.create(&staging).map_err(at("create", &staging))?;
        Ok(Self { root, reserved: Arc::default(), _lock: lock })
    }

    /// The directory that holds the snapshots.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Opens the snapshot of that name and checks that it is whole: manifest, state, and memory of the right size.
    pub fn snapshot(&self, tag: &Tag) -> Result<Opened, StoreError> {
        let dir = self.root.join(tag.as_str());
        let damaged = |reason: String| StoreError::Damaged { tag: tag.to_string(), reason };
        let text = match fs::read(dir.join(MANIFEST_FILE)) {
            Ok(text) => text,
            Err(_) if !dir.exists() => return Err(StoreError::NotFound(tag.to_string())),
            Err(error) => return Err(damaged(format!("{MANIFEST_FILE}: {error}"))),
        };
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|error| damaged(format!("{MANIFEST_FILE}: {error}")))?;
        if manifest.schema != SCHEMA || manifest.tag != tag.as_str() {
            let Manifest { schema, tag, .. } = &manifest;
            return Err(damaged(format!("{MANIFEST_FILE} is of schema '{schema}' and tag '{tag}'")));
        }
        let memory =
            File::open(dir.join(MEMORY_FILE)).map_err(|error| damaged(format!("{MEMORY_FILE}: {error}")))?;
        let bytes = memory.metadata().map_err(at("read", &dir))?.len();
        if bytes != manifest.memory_bytes() {
            return Err(damaged(format!(
                "{MEMORY_FILE} has {bytes} bytes instead of {}",
                manifest.memory_bytes()
            )));
        }
        fs::metadata(dir.join(VMSTATE_FILE)).map_err(|error| damaged(format!("{VMSTATE_FILE}: {error}")))?;
        Ok(Opened { manifest, dir, memory })
    }

    /// Every whole snapshot, newest first. A damaged one is left out, and logged.
    pub fn snapshots(&self) -> Result<Vec<Opened>, StoreError> {
        let mut whole = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(at("list", &self.root))? {
            let entry = entry.map_err(at("list", &self.root))?;
            let Some(tag) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            match self.snapshot(&tag) {
                Ok(opened) => whole.push(opened),
                // Deleted since it was listed.
                Err(StoreError::NotFound(_)) => {}
                Err(error) => tracing::warn!(%error, "left out of the list"),
            }
        }
        whole.sort_by(|a, b| {
            (b.manifest.created_at_unix, &a.manifest.tag).cmp(&(a.manifest.created_at_unix, &b.manifest.tag))
        });
        Ok(whole)
    }

    /// Begins a snapshot: the tag is reserved until the staging directory is published or dropped.
    pub fn stage(&self, tag: Tag) -> Result<Staging, StoreError> {
        let reservation = self.reserve(tag)?;
        let dir = self.staging_path();
        DirBuilder::new().mode(0o700).create(&dir).map_err(at("create", &dir))?;
        Ok(Staging::new(dir, self.root.clone(), reservation))
    }

    /// Deletes a snapshot, whole or damaged. It is gone from the list first and from the disk after; whoever
    /// has its files open keeps them.
    pub fn delete_snapshot(&self, tag: &Tag) -> Result<(), StoreError> {
        // A directory without a manifest is what is left of a snapshot, and may go too; any other is not ours.
        let dir = self.root.join(tag.as_str());
        let doomed = self.staging_path();
        match fs::rename(&dir, &doomed) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::NotFound(tag.to_string()));
            }
            Err(error) => return Err(at("delete", &dir)(error)),
        }
        sync_dir(&self.root)?;
        fs::remove_dir_all(&doomed).map_err(at("delete", &doomed))
    }

    fn reserve(&self, tag: Tag) -> Result<Reservation, StoreError> {
        let taken = || StoreError::Taken(tag.to_string());
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked up under the lock: a publish in between would otherwise be missed.
        if self.root.join(tag.as_str()).exists() || !reserved.insert(tag.clone()) {
            return Err(taken());
        }
        Ok(Reservation { tag: tag.clone(), reserved: Arc::clone(&self.reserved) })
    }

    fn staging_path(&self) -> PathBuf {
        self.root.join(STAGING_DIR).join(unique::hex(8))
    }
}

/// A tag that nobody else can take while this lives.
#[derive(Debug)]
pub(super) struct Reservation {
    tag: Tag,
    reserved: Arc<Mutex<BTreeSet<Tag>>>,
}

impl Reservation {
    pub(super) fn tag(&self) -> &Tag {
        &self.tag
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.tag);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Manifest, SCHEMA, Store, StoreError, Tag};
    use crate::api::{BranchMode, DataPath};

    fn tag(name: &str) -> Tag {
        name.parse().unwrap()
    }

    fn manifest(tag: &str) -> Manifest {
        Manifest {
            schema: SCHEMA.to_owned(),
            tag: tag.to_owned(),
            created_at_unix: 1,
            branched_from: None,
            parent: None,
            mode: BranchMode::Full,
            data_path: DataPath::Naive,
            durable: true,
            mem_mib: 1,
            vcpus: 1,
            rootfs: None,
            firecracker: "1.12.1".to_owned(),
        }
    }

    fn publish(store: &Store, name: &str) {
        let staging = store.stage(tag(name)).unwrap();
        fs::write(staging.memory_path(), vec![7; 1 << 20]).unwrap();
        fs::write(staging.vmstate_path(), b"state").unwrap();
        fs::write(staging.diff_path(), b"diff").unwrap();
        staging.publish(&manifest(name)).unwrap();
    }

    #[test]
    fn a_snapshot_is_listed_only_after_it_is_published_and_without_the_diff() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let staging = store.stage(tag("a")).unwrap();
        assert!(store.snapshots().unwrap().is_empty());
        drop(staging);
        publish(&store, "a");
        let listed = store.snapshots().unwrap();
        assert_eq!(listed.len(), 1);
        let mut files: Vec<_> =
            fs::read_dir(&listed[0].dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        files.sort();
        assert_eq!(files, ["manifest.json", "memory.bin", "vmstate.bin"]);
    }

    #[test]
    fn a_tag_is_taken_while_it_is_being_made_and_after_and_free_once_given_up() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let staging = store.stage(tag("a")).unwrap();
        assert!(matches!(store.stage(tag("a")), Err(StoreError::Taken(_))));
        drop(staging);
        publish(&store, "a");
        assert!(matches!(store.stage(tag("a")), Err(StoreError::Taken(_))));
        store.delete_snapshot(&tag("a")).unwrap();
        assert!(matches!(store.delete_snapshot(&tag("a")), Err(StoreError::NotFound(_))));
        publish(&store, "a");
    }

    #[test]
    fn a_second_daemon_on_the_root_is_refused_and_leftovers_of_a_dead_one_are_deleted() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        assert!(matches!(Store::open(root.path()), Err(StoreError::InUse(_))));
        std::mem::forget(store.stage(tag("a")).unwrap());
        drop(store);
        assert_eq!(fs::read_dir(root.path().join(".staging")).unwrap().count(), 1);
        let _store = Store::open(root.path()).unwrap();
        assert_eq!(fs::read_dir(root.path().join(".staging")).unwrap().count(), 0);
    }

    #[test]
    fn a_truncated_memory_file_is_refused_by_name_and_can_still_be_deleted() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        publish(&store, "a");
        fs::write(root.path().join("a/memory.bin"), b"short").unwrap();
        let error = store.snapshot(&tag("a")).unwrap_err().to_string();
        assert!(error.contains("memory.bin has 5 bytes"), "{error}");
        assert!(store.snapshots().unwrap().is_empty());
        store.delete_snapshot(&tag("a")).unwrap();
    }
}
