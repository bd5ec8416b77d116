//! The snapshot root: lists, opens, stages and deletes snapshots.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, flock};

use super::extents::{Extent, data_extents, total_bytes};
use super::manifest::{Manifest, Memory, SCHEMA};
use super::staging::{Staging, sync_dir};
use super::tag::{InvalidTag, Tag};
use super::{LAYER_FILE, MANIFEST_FILE, MEMORY_FILE, VMSTATE_FILE};
use crate::unique;

/// Holds what is being made or deleted; its name is no tag, so it is never listed.
const STAGING_DIR: &str = ".staging";
/// Holds memory images of layers, made when first needed.
const IMAGES_DIR: &str = ".images";
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
    /// A BRANCH under way becomes a layer on it.
    #[error("snapshot '{0}' is the parent of a BRANCH under way: wait for that BRANCH to end")]
    Pinned(String),
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
    /// Its memory image, or its layer file, read-only.
    pub memory: File,
    /// Firecracker's device and CPU state, read-only.
    pub vmstate: File,
}

impl Opened {
    /// A second handle on the same files.
    pub fn try_clone(&self) -> io::Result<Self> {
        let (memory, vmstate) = (self.memory.try_clone()?, self.vmstate.try_clone()?);
        Ok(Self { manifest: self.manifest.clone(), dir: self.dir.clone(), memory, vmstate })
    }

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

/// All snapshots below one directory, which this process alone writes to.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    names: Arc<Mutex<Names>>,
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
        Ok(Self { tells_data_from_holes, root, names: Arc::default(), _lock: Some(lock) })
    }

    /// The root as it is, not taken and not touched: for [`super::list::View`], which only reads.
    pub(super) fn unlocked(root: &Path) -> Result<Self, StoreError> {
        let root = root.canonicalize().map_err(at("read", root))?;
        Ok(Self { tells_data_from_holes: false, root, names: Arc::default(), _lock: None })
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
        manifest.check_extents().map_err(|reason| damaged(format!("{MANIFEST_FILE}: {reason}")))?;
        let name = memory_file(&manifest);
        // A file that is not there is damage; one that cannot be opened now may be whole.
        let open = |name: &str| {
            File::open(dir.join(name)).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => damaged(format!("{name}: {error}")),
                _ => at("open", &dir.join(name))(error),
            })
        };
        let (memory, vmstate) = (open(name)?, open(VMSTATE_FILE)?);
        let expected = match &manifest.memory {
            Memory::Image { .. } => manifest.memory_bytes(),
            Memory::Layer { extents, .. } => total_bytes(extents),
        };
        let bytes = memory.metadata().map_err(at("read", &dir))?.len();
        if bytes != expected {
            return Err(damaged(format!("{name} has {bytes} bytes instead of {expected}")));
        }
        Ok(Opened { manifest, dir, memory, vmstate })
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
                Err(error @ StoreError::Damaged { .. }) => tracing::warn!(%error, "left out of the list"),
                Err(error) => return Err(error),
            }
        }
        whole.sort_by(|a, b| {
            (b.manifest.created_at_unix, &a.manifest.tag).cmp(&(a.manifest.created_at_unix, &b.manifest.tag))
        });
        Ok(whole)
    }

    /// How many snapshots there are, damaged ones included: cheap enough to be asked all the time.
    pub fn count(&self) -> Result<u64, StoreError> {
        let names = fs::read_dir(&self.root).map_err(at("list", &self.root))?.flatten();
        let is_tag = |name: &str| name.parse::<Tag>().is_ok();
        Ok(names.filter(|entry| entry.file_name().to_str().is_some_and(is_tag)).count() as u64)
    }

    /// A snapshot and all that it lies on, itself first, the image last. Refuses a chain with a parent that is
    /// gone, damaged, or another one than the layer was made on.
    pub fn chain(&self, tag: &Tag) -> Result<Vec<Opened>, StoreError> {
        let mut chain = vec![self.snapshot(tag)?];
        while let Some(parent) = chain[chain.len() - 1].manifest.parent().cloned() {
            let damaged = |reason: String| StoreError::Damaged { tag: tag.to_string(), reason };
            let name: Tag = parent.tag.parse().map_err(|error: InvalidTag| damaged(error.to_string()))?;
            let opened = match self.snapshot(&name) {
                Ok(opened) if opened.manifest.identity == parent.identity => opened,
                Ok(_) => {
                    return Err(damaged(format!(
                        "its parent '{name}' has been replaced by another snapshot"
                    )));
                }
                Err(StoreError::NotFound(_)) => return Err(damaged(format!("its parent '{name}' is gone"))),
                Err(error) => return Err(damaged(error.to_string())),
            };
            // An identity is a digest over the parent's: a chain that comes back to itself is forged.
            if chain.iter().any(|earlier| earlier.manifest.tag == opened.manifest.tag) {
                return Err(damaged(format!("its parents come back to '{name}'")));
            }
            chain.push(opened);
        }
        Ok(chain)
    }

    /// The tags of the layers that lie directly on `tag`, by their manifests alone: a layer whose files are
    /// damaged counts, and a manifest that cannot be read now is an error, not an absence.
    pub fn dependents(&self, tag: &Tag) -> Result<Vec<Tag>, StoreError> {
        let mut dependents = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(at("list", &self.root))? {
            let name = entry.map_err(at("list", &self.root))?.file_name();
            let Some(name) = name.to_str().and_then(|name| name.parse::<Tag>().ok()) else { continue };
            let path = self.root.join(name.as_str()).join(MANIFEST_FILE);
            let text = match fs::read(&path) {
                Ok(text) => text,
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
                {
                    continue;
                }
                Err(error) => return Err(at("read", &path)(error)),
            };
            // What is no manifest cannot be forked from either, with or without its parent.
            let manifest: Option<Manifest> = serde_json::from_slice(&text).ok();
            if manifest
                .is_some_and(|manifest| manifest.parent().is_some_and(|parent| parent.tag == tag.as_str()))
            {
                dependents.push(name);
            }
        }
        Ok(dependents)
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
        self.names().pinned.push(tag.clone());
        let pin = Reservation { tag: tag.clone(), names: Arc::clone(&self.names), pin: true };
        // Looked at after the pin: whoever deleted it was faster, and nobody can from here on.
        self.snapshot(tag).map(|opened| (pin, opened))
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
        sync_dir(&self.root)?;
        fs::remove_dir_all(&doomed).map_err(at("delete", &doomed))
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

/// Writes one page of data and one of zeros to a sparse file, and looks whether just these count as data.
fn tells_data_from_holes(dir: &Path) -> io::Result<bool> {
    const PAGE: u64 = 4096;
    let path = dir.join("probe");
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    file.set_len(1024 * PAGE)?;
    file.write_all_at(&[1; PAGE as usize], 100 * PAGE)?;
    file.write_all_at(&[0; PAGE as usize], 600 * PAGE)?;
    file.sync_all()?;
    let expected = [100, 600].map(|page| Extent { start: page * PAGE, bytes: PAGE });
    Ok(data_extents(&file)? == expected)
}

fn memory_file(manifest: &Manifest) -> &'static str {
    match manifest.memory {
        Memory::Image { .. } => MEMORY_FILE,
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

    use super::{Extent, Manifest, Memory, SCHEMA, Store, StoreError, Tag};
    use crate::api::{BranchMode, DataPath};
    use crate::snapshot::digest::Digest;
    use crate::snapshot::manifest::Parent;

    fn tag(name: &str) -> Tag {
        name.parse().unwrap()
    }

    fn manifest(tag: &str) -> Manifest {
        Manifest {
            schema: SCHEMA.to_owned(),
            tag: tag.to_owned(),
            created_at_unix: 1,
            branched_from: None,
            mode: BranchMode::Full,
            data_path: DataPath::Naive,
            durable: true,
            mem_mib: 1,
            vcpus: 1,
            rootfs: None,
            firecracker: "1.12.1".to_owned(),
            identity: Digest::of(tag.as_bytes()),
            vmstate: Digest::of(b"state"),
            memory: Memory::Image { digest: Digest::of(&vec![7; 1 << 20]) },
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
        staging.publish(&Manifest { memory, ..manifest(name) }).unwrap();
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
            store.chain(&tag("c")).unwrap().into_iter().map(|one| one.manifest.tag).collect();
        assert_eq!(chain, ["c", "b", "a"]);
        fs::rename(root.path().join("a"), root.path().join("old")).unwrap();
        assert!(store.chain(&tag("c")).unwrap_err().to_string().contains("parent 'a' is gone"));
        let staging = store.stage(tag("a")).unwrap();
        fs::write(staging.memory_path(), vec![7; 1 << 20]).unwrap();
        fs::write(staging.vmstate_path(), b"state").unwrap();
        staging.publish(&Manifest { identity: Digest::of(b"another"), ..manifest("a") }).unwrap();
        assert!(store.chain(&tag("c")).unwrap_err().to_string().contains("'a' has been replaced"));
    }
}
