//! Memory images of layers: made when first needed, kept within a budget, never needed after they are lost.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustix::fs::ioctl_ficlone;

use super::copy::{Method, overlay, unpack};
use super::digest::Digest;
use super::manifest::Memory;
use super::store::{Opened, Store, StoreError, at};
use super::tag::Tag;
use crate::clock::monotonic_ns;
use crate::metrics::Materialisations;
use crate::unique;

/// Names the boot in which the images were written: after another one they may be incomplete.
const BOOT_FILE: &str = "boot_id";

/// The images below one snapshot root.
#[derive(Debug)]
pub struct Images {
    dir: PathBuf,
    budget_bytes: u64,
    materialisations: Materialisations,
    // By the identity of the snapshot: whoever comes second waits for the image that is being made.
    making: Mutex<HashMap<Digest, Arc<Mutex<()>>>>,
}

/// A memory image, open: it stays readable when it is dropped from the budget.
#[derive(Debug)]
pub struct Image {
    /// The image, read-only.
    pub file: File,
}

impl Image {
    /// A second handle.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()? })
    }
}

impl Images {
    /// The images of `store`. Keeps those that were made since the host booted and deletes all others: they
    /// are renamed into place whole, but not synced.
    pub fn open(store: &Store, budget_bytes: u64) -> Result<Self, StoreError> {
        let dir = store.images_dir();
        let boot_id = fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        if fs::read(dir.join(BOOT_FILE)).ok().as_ref() != Some(&boot_id) && dir.exists() {
            fs::remove_dir_all(&dir).map_err(at("delete", &dir))?;
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(at("create", &dir))?;
        fs::write(dir.join(BOOT_FILE), boot_id).map_err(at("write", &dir))?;
        delete_unfinished(&dir).map_err(at("clean up", &dir))?;
        Ok(Self {
            dir,
            budget_bytes,
            materialisations: Materialisations::default(),
            making: Mutex::default(),
        })
    }

    /// The same, with each image that is made noted in `materialisations`.
    pub fn noted_in(self, materialisations: Materialisations) -> Self {
        Self { materialisations, ..self }
    }

    /// A snapshot and its memory image: its own, or the one made of its layers, made now if need be. Both come
    /// from one look at the tag, so they belong together whatever becomes of the tag meanwhile.
    ///
    /// Every layer's digest is checked while its image is made, and that of the image it begins with, unless
    /// that was made here; the digest of device and CPU state always. Blocks for as long as the disk takes.
    pub fn snapshot_with_image(&self, store: &Store, tag: &Tag) -> Result<(Opened, Image), StoreError> {
        let mut chain = store.chain(tag)?;
        let image = self.image_of(&chain)?;
        let snapshot = chain.swap_remove(0);
        check_vmstate(&snapshot)?;
        Ok((snapshot, image))
    }

    fn image_of(&self, chain: &[Opened]) -> Result<Image, StoreError> {
        if let (Memory::Image { .. }, [image]) = (&chain[0].manifest.memory, chain) {
            let file = image.memory.try_clone().map_err(at("open", &image.dir))?;
            return Ok(Image { file });
        }
        let identity = chain[0].manifest.identity;
        let turn = {
            let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(making.entry(identity).or_default())
        };
        let made = {
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            self.kept(identity).map_or_else(|| self.make(chain), Ok)
        };
        self.making.lock().unwrap_or_else(PoisonError::into_inner).remove(&identity);
        self.drop_oldest_beyond_budget(identity);
        made
    }

    /// Deletes the image of this snapshot, where there is one.
    pub fn delete_image(&self, identity: Digest) {
        if let Err(error) = fs::remove_file(self.path(identity))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%identity, %error, "cannot delete an image");
        }
    }

    fn kept(&self, identity: Digest) -> Option<Image> {
        let path = self.path(identity);
        let file = OpenOptions::new().read(true).write(true).open(&path).ok()?;
        // Its modification time is the time of its last use: nothing else changes an image.
        file.set_modified(SystemTime::now()).ok()?;
        Some(Image { file: File::open(&path).ok()? })
    }

    fn make(&self, chain: &[Opened]) -> Result<Image, StoreError> {
        let start_ns = monotonic_ns();
        let identity = chain[0].manifest.identity;
        let unfinished = Unfinished(self.dir.join(format!("{}.unfinished", unique::hex(8))));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let image = options.open(&unfinished.0).map_err(at("create", &unfinished.0))?;
        // From the nearest image on: one that was made of a part of the chain, else the one at its end.
        let nearest = chain
            .iter()
            .enumerate()
            .skip(1)
            .find_map(|(at, one)| Some((at, self.kept(one.manifest.identity)?.file)));
        compose(chain, nearest, &image, &unfinished.0)?;
        let path = self.path(identity);
        fs::rename(&unfinished.0, &path).map_err(at("rename to", &path))?;
        self.materialisations.note(chain[0].manifest.memory_bytes(), monotonic_ns() - start_ns);
        Ok(Image { file: File::open(&path).map_err(at("open", &path))? })
    }

    fn path(&self, identity: Digest) -> PathBuf {
        self.dir.join(format!("{identity}.memory.bin"))
    }

    /// Least recently used first. The one just used stays even if it alone is beyond the budget.
    fn drop_oldest_beyond_budget(&self, used: Digest) {
        let mut images = Vec::new();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if let (true, Ok(metadata)) = (path.extension().is_some_and(|end| end == "bin"), entry.metadata())
            {
                images.push((
                    metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                    metadata.blocks() * 512,
                    path,
                ));
            }
        }
        images.sort();
        let mut total: u64 = images.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in images {
            if total > self.budget_bytes && path != self.path(used) && fs::remove_file(&path).is_ok() {
                total -= bytes;
                tracing::info!(image = %path.display(), "dropped to stay within the budget of images");
            }
        }
    }
}

/// Deletes what a daemon that was killed had not finished.
fn delete_unfinished(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "unfinished") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// A file that is deleted unless it was renamed.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Writes the memory of `chain`'s first snapshot to the empty file `image`: the image that it begins with, or
/// `nearest`, an image of the chain's element of that number, and the layers above laid over it, each checked.
pub(super) fn compose(
    chain: &[Opened],
    nearest: Option<(usize, File)>,
    image: &File,
    path: &Path,
) -> Result<(), StoreError> {
    let end = &chain[chain.len() - 1];
    let (above, base) = match nearest {
        Some((at, base)) => (at, base),
        None => {
            check(end)?;
            (chain.len() - 1, end.memory.try_clone().map_err(self::at("open", &end.dir))?)
        }
    };
    clone_or_copy(&base, image, end.manifest.memory_bytes()).map_err(self::at("write", path))?;
    for layer in chain[..above].iter().rev() {
        check(layer)?;
        if let Memory::Layer { extents, .. } = &layer.manifest.memory {
            unpack(&layer.memory, extents, image).map_err(self::at("write", path))?;
        }
    }
    Ok(())
}

/// Makes `image` equal to `base`: sharing its blocks where the file system can, else as a copy.
fn clone_or_copy(base: &File, image: &File, bytes: u64) -> io::Result<()> {
    if ioctl_ficlone(image, base).is_ok() {
        return Ok(());
    }
    image.set_len(bytes)?;
    overlay(Method::Kernel, base, image).map(drop)
}

/// Compares a snapshot's memory file with the digest in its manifest.
fn check(snapshot: &Opened) -> Result<(), StoreError> {
    let (Memory::Image { digest } | Memory::Layer { digest, .. }) = &snapshot.manifest.memory;
    check_file(snapshot, &snapshot.memory, &snapshot.memory_path(), *digest)
}

/// Compares a snapshot's device and CPU state with the digest in its manifest.
pub(super) fn check_vmstate(snapshot: &Opened) -> Result<(), StoreError> {
    check_file(snapshot, &snapshot.vmstate, &snapshot.vmstate_path(), snapshot.manifest.vmstate)
}

/// Reads the file that is open, which stays the right one when the snapshot is replaced or deleted meanwhile.
fn check_file(snapshot: &Opened, file: &File, path: &Path, expected: Digest) -> Result<(), StoreError> {
    let open = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let found = Digest::of_file(&open).map_err(at("read", path))?;
    if found == expected {
        return Ok(());
    }
    let reason = format!("{} has the digest {found} instead of {expected}", path.display());
    Err(StoreError::Damaged { tag: snapshot.manifest.tag.clone(), reason })
}
