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
use super::{MANIFEST_FILE, VMSTATE_FILE};

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
        // The state of the snapshot itself; that of what it lies on is of no use to it.
        self.refuse_known_damage(tag, &self.file_of(tag, VMSTATE_FILE)?)?;
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
        let name = link.memory_file;
        let metadata = self.file_of(tag, name)?;
        let (bytes, expected) = (metadata.len(), link.memory_file_bytes);
        if bytes != expected {
            let reason = format!("{name} has {bytes} bytes instead of {expected}");
            return Err(StoreError::Damaged { tag: tag.to_string(), reason });
        }
        self.refuse_known_damage(tag, &metadata)?;
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
