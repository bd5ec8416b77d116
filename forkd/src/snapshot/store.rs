//! The snapshot root: lists, opens, stages and deletes snapshots.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::chain::Links;
use super::manifest::{Manifest, Memory};
use super::probe::tells_data_from_holes;
use super::staging::{Staging, sync_dir};
use super::tag::Tag;
use super::verify::Verifier;
use super::{DRIVE_FILE, LAYER_FILE, MEMORY_FILE, VMSTATE_FILE};
use crate::unique;

/// Holds what is being made or deleted; its name is no tag, so it is never listed.
const STAGING_DIR: &str = ".staging";
/// Holds memory images of layers, made when first needed.
const IMAGES_DIR: &str = ".images";
/// Holds the drives that sandboxes write to.
const DRIVES_DIR: &str = ".drives";
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
    /// Layers lie on it.
    #[error(
        "snapshot '{tag}' is the parent of {}: delete those first, or use cascade (deletes them too) or flatten \
         (makes them whole first)",
        dependents.join(", ")
    )]
    HasDependents {
        /// The snapshot.
        tag: String,
        /// The tags of the layers that lie directly on it.
        dependents: Vec<String>,
    },
    /// It is being turned into an image.
    #[error("snapshot '{0}' is being compacted: wait for that to end")]
    BeingReplaced(String),
    /// A BRANCH or an unpacking under way puts a layer on it, or it is being packed.
    #[error("snapshot '{0}' is in use by a BRANCH, a pack or an unpack under way: wait for that to end")]
    Pinned(String),
    /// It has its name, and could not be made sure of; taking the name back failed too.
    #[error(
        "snapshot '{tag}' is there and whole, but a power cut may take it away again ({unsynced}), and it could \
         not be withdrawn ({withdrawal}): delete it, or copy what you need from it"
    )]
    NotWithdrawn {
        /// The snapshot.
        tag: String,
        /// Why its name may be lost.
        unsynced: io::Error,
        /// Why it is still visible.
        withdrawal: io::Error,
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

/// A whole snapshot: its manifest, and where its files are.
#[derive(Clone, Debug)]
pub struct Whole {
    /// Its manifest.
    pub manifest: Manifest,
    /// Its directory.
    pub dir: PathBuf,
}

impl Whole {
    /// Path of the memory image, or of the layer file.
    pub fn memory_path(&self) -> PathBuf {
        self.dir.join(memory_file(&self.manifest))
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

/// A whole snapshot, opened: its files stay readable when the tag is deleted meanwhile.
#[derive(Debug)]
pub struct Opened {
    /// Its manifest.
    pub manifest: Manifest,
    /// Its directory.
    pub dir: PathBuf,
    /// Its memory image, or its layer file, read-only.
    pub memory: File,
    /// Firecracker's device and CPU state, read-only.
    pub vmstate: File,
    /// The drive that the guest writes to, read-only; `None` for a guest without one.
    pub drive: Option<File>,
}

impl Opened {
    /// A second handle on the same files.
    pub fn try_clone(&self) -> io::Result<Self> {
        let (memory, vmstate) = (self.memory.try_clone()?, self.vmstate.try_clone()?);
        let drive = self.drive.as_ref().map(File::try_clone).transpose()?;
        Ok(Self { manifest: self.manifest.clone(), dir: self.dir.clone(), memory, vmstate, drive })
    }

    /// Path of the memory image, or of the layer file.
    pub fn memory_path(&self) -> PathBuf {
        self.dir.join(memory_file(&self.manifest))
    }

    /// Path of Firecracker's device and CPU state.
    pub fn vmstate_path(&self) -> PathBuf {
        self.dir.join(VMSTATE_FILE)
    }
}

/// All snapshots below one directory, which this process alone writes to.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    names: Arc<Mutex<Names>>,
    verifier: Verifier,
    pub(super) links: Links,
    /// Whether the file system says exactly which pages of a sparse file were written. A diff needs that: a
    /// hole that counts as data would lay zeros over the parent's pages.
    pub tells_data_from_holes: bool,
    /// Held for as long as this lives; `None` where the root is only looked at.
    _lock: Option<File>,
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
        let tells_data_from_holes = tells_data_from_holes(&staging).map_err(at("probe", &staging))?;
        if !tells_data_from_holes {
            tracing::warn!(root = %root.display(), "this file system does not say which pages of a file were written: every BRANCH is full");
        }
        Ok(Self::at_root(root, tells_data_from_holes, Some(lock)))
    }

    /// The root as it is, not taken and not touched: for [`super::list::View`], which only reads.
    pub(super) fn unlocked(root: &Path) -> Result<Self, StoreError> {
        let root = root.canonicalize().map_err(at("read", root))?;
        Ok(Self::at_root(root, false, None))
    }

    fn at_root(root: PathBuf, tells_data_from_holes: bool, lock: Option<File>) -> Self {
        let (names, verifier, links) = (Arc::default(), Verifier::default(), Links::default());
        Self { root, names, verifier, links, tells_data_from_holes, _lock: lock }
    }

    /// The directory that holds the snapshots.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What is known of its files' digests.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// The names below the root that are tags, whether or not a snapshot is behind each.
    pub(super) fn tags(&self) -> Result<Vec<Tag>, StoreError> {
        let mut tags = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(at("list", &self.root))? {
            let name = entry.map_err(at("list", &self.root))?.file_name();
            tags.extend(name.to_str().and_then(|name| name.parse::<Tag>().ok()));
        }
        Ok(tags)
    }

    /// Looks at the snapshot of that name and checks that it is whole: manifest, state, memory and drive of the
    /// right size. Opens no file of it but the manifest.
    pub fn whole(&self, tag: &Tag) -> Result<Whole, StoreError> {
        let manifest = self.manifest(tag)?;
        self.file_of_size(tag, memory_file(&manifest), manifest.memory_file_bytes())?;
        self.file_of(tag, VMSTATE_FILE)?;
        if let Some(drive) = manifest.drive {
            self.file_of_size(tag, DRIVE_FILE, drive.bytes)?;
        }
        Ok(Whole { manifest, dir: self.root.join(tag.as_str()) })
    }

    /// Opens the snapshot of that name and checks that it is whole, as [`Self::whole`] does.
    pub fn snapshot(&self, tag: &Tag) -> Result<Opened, StoreError> {
        let whole = self.whole(tag)?;
        let damaged = |reason: String| StoreError::Damaged { tag: tag.to_string(), reason };
        // Never through a link, and never waiting for the writer of a pipe: files only.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let open = |path: PathBuf| {
            File::options().read(true).custom_flags(flags).open(&path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => damaged(format!("{}: {error}", path.display())),
                _ => at("open", &path)(error),
            })
        };
        let (memory, vmstate) = (open(whole.memory_path())?, open(whole.vmstate_path())?);
        let Whole { manifest, dir } = whole;
        let require = |file: &File, name: &str, expected: u64| {
            let bytes = file.metadata().map_err(at("read", &dir))?.len();
            match bytes == expected {
                true => Ok(()),
                false => Err(damaged(format!("{name} has {bytes} bytes instead of {expected}"))),
            }
        };
        require(&memory, memory_file(&manifest), manifest.memory_file_bytes())?;
        let drive = manifest.drive.map(|_| open(dir.join(DRIVE_FILE))).transpose()?;
        if let (Some(drive), Some(described)) = (&drive, &manifest.drive) {
            require(drive, DRIVE_FILE, described.bytes)?;
        }
        Ok(Opened { manifest, dir, memory, vmstate, drive })
    }

    /// Every whole snapshot, newest first. A damaged one is left out, and logged.
    pub fn snapshots(&self) -> Result<Vec<Whole>, StoreError> {
        let mut whole = Vec::new();
        for tag in self.tags()? {
            match self.whole(&tag) {
                Ok(snapshot) => whole.push(snapshot),
                // Deleted since it was listed.
                Err(StoreError::NotFound(_)) => {}
                Err(error @ StoreError::Damaged { .. }) => tracing::warn!(%error, "left out of the list"),
                Err(error) => return Err(error),
            }
        }
        whole.sort_by(|a, b| {
            (b.manifest.created_at_ms(), &a.manifest.tag).cmp(&(a.manifest.created_at_ms(), &b.manifest.tag))
        });
        Ok(whole)
    }

    /// How many snapshots there are, damaged ones included: cheap enough to be asked all the time.
    pub fn count(&self) -> Result<u64, StoreError> {
        Ok(self.tags()?.len() as u64)
    }

    /// Begins a snapshot: the tag is reserved until the staging directory is published or dropped.
    pub fn stage(&self, tag: Tag) -> Result<Staging, StoreError> {
        let reservation = self.reserve(tag, false)?;
        self.new_staging(reservation)
    }

    /// Begins what will stand in the place of a snapshot that exists.
    pub fn stage_replacement(&self, tag: Tag) -> Result<Staging, StoreError> {
        let reservation = self.reserve(tag, true)?;
        self.new_staging(reservation)
    }

    fn new_staging(&self, reservation: Reservation) -> Result<Staging, StoreError> {
        let dir = self.staging_path();
        DirBuilder::new().mode(0o700).create(&dir).map_err(at("create", &dir))?;
        Ok(Staging::new(dir, self.root.clone(), reservation))
    }

    /// Whether a snapshot of that name is under way.
    pub fn is_being_made(&self, tag: &Tag) -> bool {
        self.names().reserved.contains(tag)
    }

    /// Opens `tag`, and keeps it from being deleted while a layer on it is made.
    pub fn pin(&self, tag: &Tag) -> Result<(Reservation, Opened), StoreError> {
        let pin = self.hold(tag.clone());
        // Looked at after the pin: whoever deleted it was faster, and nobody can from here on.
        self.snapshot(tag).map(|opened| (pin, opened))
    }

    /// Keeps a snapshot of that name, whether or not there is one yet, from being deleted.
    pub fn hold(&self, tag: Tag) -> Reservation {
        self.names().pinned.push(tag.clone());
        Reservation { tag, names: Arc::clone(&self.names), pin: true }
    }

    /// Deletes a snapshot that no layer lies on, whole or damaged. It is gone from the list first and from the
    /// disk after; whoever has its files open keeps them.
    pub fn delete_snapshot(&self, tag: &Tag) -> Result<(), StoreError> {
        let dir = self.root.join(tag.as_str());
        let doomed = self.staging_path();
        {
            // Held from the check to the rename: no layer on it can be begun in between.
            let names = self.names();
            if names.pinned.contains(tag) {
                return Err(StoreError::Pinned(tag.to_string()));
            }
            if names.reserved.contains(tag) && dir.exists() {
                return Err(StoreError::BeingReplaced(tag.to_string()));
            }
            let dependents = self.dependents(tag)?;
            if !dependents.is_empty() {
                let dependents = dependents.iter().map(Tag::to_string).collect();
                return Err(StoreError::HasDependents { tag: tag.to_string(), dependents });
            }
            match fs::rename(&dir, &doomed) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(StoreError::NotFound(tag.to_string()));
                }
                Err(error) => return Err(at("delete", &dir)(error)),
            }
        }
        self.links.forget(tag);
        // Its space is given back whether or not the name is sure to stay away.
        let synced = sync_dir(&self.root);
        fs::remove_dir_all(&doomed).map_err(at("delete", &doomed))?;
        synced
    }

    /// Where the drives of sandboxes are kept.
    pub(super) fn drives_dir(&self) -> PathBuf {
        self.root.join(DRIVES_DIR)
    }

    /// Where materialised images are kept; nothing in it is needed after it is lost.
    pub(super) fn images_dir(&self) -> PathBuf {
        self.root.join(IMAGES_DIR)
    }

    fn reserve(&self, tag: Tag, replace: bool) -> Result<Reservation, StoreError> {
        let mut names = self.names();
        // Looked up under the lock: a publish in between would otherwise be missed.
        let exists = self.root.join(tag.as_str()).exists();
        if replace && !exists {
            return Err(StoreError::NotFound(tag.to_string()));
        }
        if (exists && !replace) || !names.reserved.insert(tag.clone()) {
            return Err(StoreError::Taken(tag.to_string()));
        }
        Ok(Reservation { tag, names: Arc::clone(&self.names), pin: false })
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn staging_path(&self) -> PathBuf {
        self.root.join(STAGING_DIR).join(unique::hex(8))
    }
}

pub(super) fn memory_file(manifest: &Manifest) -> &'static str {
    match manifest.memory {
        Memory::Image { .. } | Memory::Compacted { .. } => MEMORY_FILE,
        Memory::Layer { .. } => LAYER_FILE,
    }
}

/// The names that something is being done with.
#[derive(Debug, Default)]
struct Names {
    /// Being made.
    reserved: BTreeSet<Tag>,
    /// Parents of layers that are being made, once for each.
    pinned: Vec<Tag>,
}

/// A tag that nobody else can take, or that nobody can delete, while this lives.
#[derive(Debug)]
pub struct Reservation {
    tag: Tag,
    names: Arc<Mutex<Names>>,
    pin: bool,
}

impl Reservation {
    pub(super) fn tag(&self) -> &Tag {
        &self.tag
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.pin {
            names.reserved.remove(&self.tag);
        } else if let Some(at) = names.pinned.iter().position(|pinned| *pinned == self.tag) {
            names.pinned.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Manifest, Memory, Store, StoreError, Tag};
    use crate::snapshot::digest::Digest;
    use crate::snapshot::extents::Extent;
    use crate::snapshot::manifest::Parent;
    use crate::snapshot::testing::manifest_of;

    fn tag(name: &str) -> Tag {
        name.parse().unwrap()
    }

    fn manifest(tag: &str) -> Manifest {
        manifest_of(tag, Digest::of(b"state"), Memory::Image { digest: Digest::of(&vec![7; 1 << 20]) })
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

    fn publish_layer(store: &Store, name: &str, parent: &str) {
        let staging = store.stage(tag(name)).unwrap();
        fs::write(staging.layer_path(), vec![9; 4096]).unwrap();
        fs::write(staging.vmstate_path(), b"state").unwrap();
        let identity = store.snapshot(&tag(parent)).unwrap().manifest.identity;
        let memory = Memory::Layer {
            parent: Parent { tag: parent.to_owned(), identity },
            extents: vec![Extent { start: 8192, bytes: 4096 }],
            digest: Digest::of(&[9; 4096]),
        };
        staging.publish(&manifest_of(name, Digest::of(b"state"), memory)).unwrap();
    }

    #[test]
    fn a_parent_cannot_be_deleted_before_its_layers_nor_while_one_is_being_made() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        publish(&store, "a");
        let pin = store.pin(&tag("a")).unwrap();
        assert!(matches!(store.delete_snapshot(&tag("a")), Err(StoreError::Pinned(_))));
        publish_layer(&store, "b", "a");
        drop(pin);
        let refused = store.delete_snapshot(&tag("a")).unwrap_err();
        assert!(refused.to_string().contains("is the parent of b"), "{refused}");
        store.delete_snapshot(&tag("b")).unwrap();
        store.delete_snapshot(&tag("a")).unwrap();
        assert!(matches!(store.pin(&tag("a")), Err(StoreError::NotFound(_))));
    }

    #[test]
    fn a_chain_ends_in_an_image_and_a_replaced_parent_is_not_taken_for_the_old_one() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        publish(&store, "a");
        publish_layer(&store, "b", "a");
        publish_layer(&store, "c", "b");
        let chain: Vec<String> =
            store.chain(&tag("c")).unwrap().iter().map(|link| link.tag.to_string()).collect();
        assert_eq!(chain, ["c", "b", "a"]);
        fs::rename(root.path().join("a"), root.path().join("old")).unwrap();
        assert!(store.chain(&tag("c")).unwrap_err().to_string().contains("parent 'a' is gone"));
        let staging = store.stage(tag("a")).unwrap();
        fs::write(staging.memory_path(), vec![7; 1 << 20]).unwrap();
        fs::write(staging.vmstate_path(), b"other").unwrap();
        staging.publish(&manifest_of("a", Digest::of(b"other"), manifest("a").memory)).unwrap();
        assert!(store.chain(&tag("c")).unwrap_err().to_string().contains("'a' has been replaced"));
    }
}
