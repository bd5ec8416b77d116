//! What lies on what: a snapshot and the layers below it, down to an image.

use std::collections::{HashMap, HashSet};
use std::fs::{self, Metadata};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::digest::Digest;
use super::file_id::FileId;
use super::manifest::{Manifest, Parent};
use super::store::{Store, StoreError, at, memory_file};
use super::tag::{InvalidTag, Tag};
use super::{DRIVE_FILE, MANIFEST_FILE, VMSTATE_FILE};

/// As much of a manifest as it takes to walk a chain. Holds no file open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The snapshot.
    pub tag: Tag,
    /// What it is.
    pub identity: Digest,
    /// The snapshot it lies on; `None` for an image.
    pub parent: Option<Parent>,
    /// Guest memory in MiB.
    pub mem_mib: u32,
    /// Whether it was synced before it became visible.
    pub durable: bool,
    memory_file: &'static str,
    memory_file_bytes: u64,
    drive_bytes: Option<u64>,
}

impl Link {
    fn of(tag: &Tag, manifest: &Manifest) -> Self {
        Self {
            tag: tag.clone(),
            identity: manifest.identity,
            parent: manifest.parent().cloned(),
            mem_mib: manifest.mem_mib,
            durable: manifest.durable,
            memory_file: memory_file(manifest),
            memory_file_bytes: manifest.memory_file_bytes(),
            drive_bytes: manifest.drive.map(|drive| drive.bytes),
        }
    }
}

/// The links of manifests that have been read, each good for as long as its file is unchanged.
#[derive(Debug, Default)]
pub(super) struct Links(Mutex<HashMap<Tag, (FileId, Arc<Link>)>>);

impl Links {
    /// Gives its memory back; it would not be taken for another manifest in any case.
    pub fn forget(&self, tag: &Tag) {
        self.lock().remove(tag);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Tag, (FileId, Arc<Link>)>> {
        // Nothing that holds the lock can leave the map half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// The manifest of that name, read and checked; nothing is said of the files beside it.
    pub fn manifest(&self, tag: &Tag) -> Result<Manifest, StoreError> {
        let dir = self.root().join(tag.as_str());
        let damaged = |reason: String| StoreError::Damaged {
            tag: tag.to_string(),
            reason: format!("{MANIFEST_FILE}: {reason}"),
        };
        let text = match fs::read(dir.join(MANIFEST_FILE)) {
            Ok(text) => text,
            Err(_) if !dir.exists() => return Err(StoreError::NotFound(tag.to_string())),
            Err(error) => return Err(damaged(error.to_string())),
        };
        let manifest = Manifest::decode(&text).map_err(damaged)?;
        if manifest.tag != tag.as_str() {
            return Err(damaged(format!("it is of the tag '{}'", manifest.tag)));
        }
        Ok(manifest)
    }

    /// The same, as far as chains go: read once, and again when the file is another one.
    pub fn link(&self, tag: &Tag) -> Result<Arc<Link>, StoreError> {
        let path = self.root().join(tag.as_str()).join(MANIFEST_FILE);
        // Where it cannot be looked at, reading it says why.
        let id = fs::symlink_metadata(&path).ok().map(|metadata| FileId::of(&metadata));
        if let (Some(id), Some((known, link))) = (id, self.links.lock().get(tag))
            && id == *known
        {
            return Ok(Arc::clone(link));
        }
        let manifest = self.manifest(tag).inspect_err(|_| self.links.forget(tag))?;
        let link = Arc::new(Link::of(tag, &manifest));
        if let Some(id) = id.filter(|id| id.is_settled(std::time::SystemTime::now())) {
            self.links.lock().insert(tag.clone(), (id, Arc::clone(&link)));
        }
        Ok(link)
    }

    /// A snapshot and all that it lies on, itself first, the image last. Refuses a chain with a parent that is
    /// gone, damaged, or another one than the layer was made on. Opens no file that it keeps open, and reads
    /// only manifests that have changed: the files are looked at with stat(2), and what was found wrong with
    /// one when it was last read is remembered.
    pub fn chain(&self, tag: &Tag) -> Result<Vec<Arc<Link>>, StoreError> {
        let mut chain = vec![self.whole_link(tag)?];
        // State and drive of the snapshot itself; those of what it lies on are of no use to it.
        self.refuse_known_damage(tag, &self.file_of(tag, VMSTATE_FILE)?)?;
        if let Some(bytes) = chain[0].drive_bytes {
            self.refuse_known_damage(tag, &self.file_of_size(tag, DRIVE_FILE, bytes)?)?;
        }
        let mut seen = HashSet::from([tag.clone()]);
        while let Some(Parent { tag: parent, identity }) = chain[chain.len() - 1].parent.clone() {
            let damaged = |reason: String| StoreError::Damaged { tag: tag.to_string(), reason };
            let name: Tag = parent.parse().map_err(|error: InvalidTag| damaged(error.to_string()))?;
            let link = match self.whole_link(&name) {
                Ok(link) if link.identity == identity => link,
                Ok(_) => {
                    return Err(damaged(format!(
                        "its parent '{name}' has been replaced by another snapshot"
                    )));
                }
                Err(StoreError::NotFound(_)) => return Err(damaged(format!("its parent '{name}' is gone"))),
                Err(error) => return Err(damaged(error.to_string())),
            };
            // An identity is a digest over the parent's, so a chain cannot come back to itself unless the
            // digest is broken; but a walk without an end would be worse than this look.
            if !seen.insert(name.clone()) {
                return Err(damaged(format!("its parents come back to '{name}'")));
            }
            if link.mem_mib != chain[0].mem_mib {
                return Err(damaged(format!("its parent '{name}' has another amount of memory")));
            }
            chain.push(link);
        }
        Ok(chain)
    }

    /// The link of `tag`, where its memory is there, of the right size, and not known to be damaged.
    fn whole_link(&self, tag: &Tag) -> Result<Arc<Link>, StoreError> {
        let link = self.link(tag)?;
        let memory = self.file_of_size(tag, link.memory_file, link.memory_file_bytes)?;
        self.refuse_known_damage(tag, &memory)?;
        Ok(link)
    }

    fn refuse_known_damage(&self, tag: &Tag, file: &Metadata) -> Result<(), StoreError> {
        match self.verifier().damage(&FileId::of(file)) {
            Some(reason) => Err(StoreError::Damaged { tag: tag.to_string(), reason }),
            None => Ok(()),
        }
    }

    /// A file of the snapshot, as stat(2) shows it; never one that a link leads to.
    pub(super) fn file_of(&self, tag: &Tag, name: &str) -> Result<Metadata, StoreError> {
        let path = self.root().join(tag.as_str()).join(name);
        let damaged = |reason: String| StoreError::Damaged { tag: tag.to_string(), reason };
        // A file that is not there is damage; one that cannot be looked at now may be whole.
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() => Ok(metadata),
            Ok(_) => Err(damaged(format!("{name} is no plain file"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(damaged(format!("{name}: {error}"))),
            Err(error) => Err(at("look at", &path)(error)),
        }
    }

    /// The same, refused where it has another size than `expected` bytes.
    pub(super) fn file_of_size(&self, tag: &Tag, name: &str, expected: u64) -> Result<Metadata, StoreError> {
        let metadata = self.file_of(tag, name)?;
        match metadata.len() {
            bytes if bytes == expected => Ok(metadata),
            bytes => {
                let reason = format!("{name} has {bytes} bytes instead of {expected}");
                Err(StoreError::Damaged { tag: tag.to_string(), reason })
            }
        }
    }

    /// The tags of the layers that lie directly on `tag`, by their manifests alone: a layer whose files are
    /// damaged counts, and a manifest that cannot be read now is an error, not an absence.
    pub fn dependents(&self, tag: &Tag) -> Result<Vec<Tag>, StoreError> {
        let mut dependents = Vec::new();
        for name in self.tags()? {
            match self.link(&name) {
                Ok(link) if link.parent.as_ref().is_some_and(|parent| parent.tag == tag.as_str()) => {
                    dependents.push(name);
                }
                // What is no manifest cannot be forked from either, with or without its parent.
                Ok(_) | Err(StoreError::NotFound(_)) => {}
                Err(StoreError::Damaged { .. }) => {
                    let path = self.root().join(name.as_str()).join(MANIFEST_FILE);
                    match fs::File::open(&path) {
                        Err(error) if is_unreadable(&error) => return Err(at("read", &path)(error)),
                        _ => {}
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(dependents)
    }
}

fn is_unreadable(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;
    use std::io;
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    use super::{Digest, Manifest, Parent, Store, StoreError, Tag};
    use crate::snapshot::compose::compose;
    use crate::snapshot::extents::Extent;
    use crate::snapshot::manifest::Memory;
    use crate::snapshot::pace::Pace;
    use crate::snapshot::testing::manifest_of;

    const LAYERS: u64 = 2000;

    fn tag(number: u64) -> Tag {
        format!("l{number}").parse().unwrap()
    }

    /// Publishes without syncing: thousands of syncs are not what is tested.
    fn publish(
        store: &Store,
        number: u64,
        memory: impl FnOnce(&crate::snapshot::staging::Staging) -> Memory,
    ) {
        let staging = store.stage(tag(number)).unwrap();
        let memory = memory(&staging);
        fs::write(staging.vmstate_path(), b"state").unwrap();
        let manifest = manifest_of(tag(number).as_str(), Digest::of(b"state"), memory);
        staging.publish(&Manifest { durable: false, ..manifest }).unwrap();
    }

    /// An image, and `layers` layers on it; each holds one page with its own number.
    fn lineage(store: &Store, layers: u64) {
        publish(store, 0, |staging| {
            fs::write(staging.memory_path(), vec![0; 1 << 20]).unwrap();
            Memory::Image { digest: Digest::of(&vec![0; 1 << 20]) }
        });
        for number in 1..=layers {
            let identity = store.manifest(&tag(number - 1)).unwrap().identity;
            publish(store, number, |staging| {
                let page = [&number.to_le_bytes()[..], &[1; 4088]].concat();
                fs::write(staging.layer_path(), &page).unwrap();
                let parent = Parent { tag: tag(number - 1).to_string(), identity };
                let extents = vec![Extent { start: number % 256 * 4096, bytes: 4096 }];
                Memory::Layer { parent, extents, digest: Digest::of(&page) }
            });
        }
    }

    fn open_below(root: &Path) -> usize {
        let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
        open.filter(|fd| fs::read_link(fd.path()).is_ok_and(|path| path.starts_with(root))).count()
    }

    /// Counts the files that are open below a root.
    struct Watching<'a>(&'a Path, Cell<usize>);

    impl Pace for Watching<'_> {
        fn next_piece(&self) -> io::Result<()> {
            self.1.set(self.1.get().max(open_below(self.0)));
            Ok(())
        }
        fn is_urgent(&self) -> bool {
            true
        }
    }

    #[test]
    fn thousands_of_layers_are_walked_and_composed_with_a_handful_of_files_open() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        lineage(&store, LAYERS);
        let chain = store.chain(&tag(LAYERS)).unwrap();
        assert_eq!(chain.len() as u64, LAYERS + 1);
        let image = tempfile::tempfile().unwrap();
        let watching = Watching(root.path(), Cell::new(0));
        compose(&store, &chain, None, (&image, Path::new("image")), &watching).unwrap();
        assert!((1..8).contains(&watching.1.get()), "{} files", watching.1.get());
        for page in 0..256 {
            let mut number = [0; 8];
            image.read_exact_at(&mut number, page * 4096).unwrap();
            let last = (1..=LAYERS).rev().find(|number| number % 256 == page).unwrap();
            assert_eq!(u64::from_le_bytes(number), last, "page {page}");
        }
    }

    #[test]
    fn a_missing_cut_or_linked_file_below_is_damage_above() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        lineage(&store, 2);
        let layer = root.path().join("l1/layer.bin");
        let refused = |expected: &str| {
            let error = store.chain(&tag(2)).unwrap_err();
            assert!(
                matches!(&error, StoreError::Damaged { .. }) && error.to_string().contains(expected),
                "{error}"
            );
        };
        fs::write(&layer, b"short").unwrap();
        refused("layer.bin has 5 bytes instead of 4096");
        fs::remove_file(&layer).unwrap();
        refused("layer.bin: No such file");
        std::os::unix::fs::symlink("/dev/zero", &layer).unwrap();
        refused("layer.bin is no plain file");
        assert!(store.snapshot(&tag(1)).is_err());
        assert_eq!(store.dependents(&tag(1)).unwrap(), [tag(2)]);
    }

    #[test]
    fn a_manifest_that_is_replaced_is_read_again() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        lineage(&store, 1);
        std::thread::sleep(std::time::Duration::from_millis(30));
        assert!(store.chain(&tag(1)).is_ok() && store.chain(&tag(1)).is_ok());
        let path = root.path().join("l0/manifest.json");
        let text = fs::read_to_string(&path).unwrap().replace("\"vcpus\": 1", "\"vcpus\": 2");
        fs::write(&path, text).unwrap();
        let error = store.chain(&tag(1)).unwrap_err().to_string();
        assert!(error.contains("manifest.json: its checksum does not fit"), "{error}");
    }
}
