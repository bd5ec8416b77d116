//! The memory of a layer, made of all that it lies on.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::ioctl_ficlone;

use super::DRIVE_FILE;
use super::chain::Link;
use super::copy::{overlay_paced, unpack_paced};
use super::manifest::Memory;
use super::pace::Pace;
use super::store::{Opened, Store, StoreError, at};

/// Writes the memory of `chain`'s first snapshot to the empty file `image`: the image that it begins with, or
/// `nearest`, an image of the chain's element of that number, and the layers above laid over it, each checked.
/// Has the files of one snapshot open at a time, however long the chain is.
pub(super) fn compose(
    store: &Store,
    chain: &[std::sync::Arc<Link>],
    nearest: Option<(usize, File)>,
    (image, path): (&File, &Path),
    pace: &dyn Pace,
) -> Result<(), StoreError> {
    let bytes = u64::from(chain[0].mem_mib) << 20;
    let (above, base) = match nearest {
        Some((at, base)) => (at, base),
        None => {
            let end = open(store, &chain[chain.len() - 1])?;
            check_memory(store, &end, pace)?;
            (chain.len() - 1, end.memory)
        }
    };
    clone_or_copy(&base, image, bytes, pace).map_err(at("write", path))?;
    for link in chain[..above].iter().rev() {
        let layer = open(store, link)?;
        check_memory(store, &layer, pace)?;
        let written = match &layer.manifest.memory {
            Memory::Layer { extents, .. } => unpack_paced(&layer.memory, extents, image, pace),
            // Compacted since the chain was walked: it has the same memory, all of it.
            Memory::Image { .. } | Memory::Compacted { .. } => overlay_whole(&layer.memory, image, pace),
        };
        written.map_err(at("write", path))?;
    }
    Ok(())
}

/// Opens the snapshot that `link` is of, and no other that has its tag by now.
pub(crate) fn open(store: &Store, link: &Link) -> Result<Opened, StoreError> {
    let changed = |what: &str| StoreError::Damaged {
        tag: link.tag.to_string(),
        reason: format!("it was {what} while what lies on it was being made: try again"),
    };
    match store.snapshot(&link.tag) {
        Ok(opened) if opened.manifest.identity == link.identity => Ok(opened),
        Ok(_) => Err(changed("replaced")),
        Err(StoreError::NotFound(_)) => Err(changed("deleted")),
        Err(error) => Err(error),
    }
}

/// Compares a snapshot's memory file with the digest in its manifest.
pub(crate) fn check_memory(store: &Store, snapshot: &Opened, pace: &dyn Pace) -> Result<(), StoreError> {
    let Opened { manifest, memory, .. } = snapshot;
    let file = (memory, &*snapshot.memory_path());
    store.verifier().check(&manifest.tag, file, manifest.memory.digest(), pace)
}

/// Compares a snapshot's device and CPU state with the digest in its manifest.
pub(crate) fn check_vmstate(store: &Store, snapshot: &Opened, pace: &dyn Pace) -> Result<(), StoreError> {
    let Opened { manifest, vmstate, .. } = snapshot;
    let file = (vmstate, &*snapshot.vmstate_path());
    store.verifier().check(&manifest.tag, file, manifest.vmstate, pace)
}

/// Compares a snapshot's drive, where it has one, with the digest in its manifest.
pub(crate) fn check_drive(store: &Store, snapshot: &Opened, pace: &dyn Pace) -> Result<(), StoreError> {
    let (Some(drive), Some(described)) = (&snapshot.drive, &snapshot.manifest.drive) else { return Ok(()) };
    let file = (drive, &*snapshot.dir.join(DRIVE_FILE));
    store.verifier().check(&snapshot.manifest.tag, file, described.digest, pace)
}

/// Makes the empty file `image` equal to `base`: sharing its blocks where the file system can, else as a copy, in
/// which holes stay holes. Returns whether blocks are shared.
pub(super) fn clone_or_copy(base: &File, image: &File, bytes: u64, pace: &dyn Pace) -> io::Result<bool> {
    if ioctl_ficlone(image, base).is_ok() {
        return Ok(true);
    }
    image.set_len(bytes)?;
    overlay_paced(base, image, pace).map(|()| false)
}

/// Makes `image`, which has other contents, equal to `base`: where that has a hole, `image` gets one.
fn overlay_whole(base: &File, image: &File, pace: &dyn Pace) -> io::Result<()> {
    let bytes = base.metadata()?.len();
    image.set_len(0)?;
    image.set_len(bytes)?;
    overlay_paced(base, image, pace)
}
