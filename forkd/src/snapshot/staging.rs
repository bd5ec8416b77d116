//! A snapshot in the making: a directory that nobody lists until it is published.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::manifest::{Manifest, Memory};
use super::store::{Reservation, StoreError, at};
use super::{DRIVE_FILE, LAYER_FILE, MANIFEST_FILE, MEMORY_FILE, VMSTATE_FILE};

/// Firecracker's sparse diff, until it is merged.
const DIFF_FILE: &str = "diff.bin";

/// A staging directory and the tag it is to become. Dropping it deletes the directory and frees the tag.
#[derive(Debug)]
pub struct Staging {
    dir: PathBuf,
    root: PathBuf,
    reservation: Reservation,
    published: bool,
    sync_root: fn(&Path) -> Result<(), StoreError>,
}

impl Staging {
    pub(super) fn new(dir: PathBuf, root: PathBuf, reservation: Reservation) -> Self {
        Self { dir, root, reservation, published: false, sync_root: sync_dir }
    }

    /// Where the memory image belongs.
    pub fn memory_path(&self) -> PathBuf {
        self.dir.join(MEMORY_FILE)
    }

    /// Where Firecracker's device and CPU state belongs.
    pub fn vmstate_path(&self) -> PathBuf {
        self.dir.join(VMSTATE_FILE)
    }

    /// Where the copy of the guest's drive belongs.
    pub fn drive_path(&self) -> PathBuf {
        self.dir.join(DRIVE_FILE)
    }

    /// Where a layer's pages belong.
    pub fn layer_path(&self) -> PathBuf {
        self.dir.join(LAYER_FILE)
    }

    /// Where Firecracker may write a diff; not part of the snapshot that is published.
    pub fn diff_path(&self) -> PathBuf {
        self.dir.join(DIFF_FILE)
    }

    /// Makes the snapshot visible, in this order: its files synced, the diff deleted, the manifest
    /// written and synced, the directory synced, renamed to the tag, and the root synced. Nothing is synced
    /// where the manifest does not say that it is durable.
    ///
    /// Blocks for as long as the disk takes. On an error nothing is visible and everything is deleted, also
    /// when only the last sync failed; where even that cannot be had, the error says so
    /// ([`StoreError::NotWithdrawn`]). A sync that failed is not tried again: the kernel would report success
    /// for data that it has given up (fsync(2)).
    pub fn publish(mut self, manifest: &Manifest) -> Result<PathBuf, StoreError> {
        self.complete(manifest)?;
        let visible = self.visible_path();
        fs::rename(&self.dir, &visible).map_err(at("rename to", &visible))?;
        self.published = true;
        if manifest.durable
            && let Err(unsynced) = (self.sync_root)(&self.root)
        {
            return Err(self.withdraw(unsynced, |dir, visible| fs::rename(visible, dir)));
        }
        Ok(visible)
    }

    /// As [`Self::publish`], in the place of the snapshot that has the tag now, which is deleted. There is no
    /// moment at which neither is there; on an error the one that was there stays.
    pub fn replace(mut self, manifest: &Manifest) -> Result<(), StoreError> {
        self.complete(manifest)?;
        let visible = self.visible_path();
        exchange(&self.dir, &visible).map_err(at("exchange", &visible))?;
        // What was visible before is in the staging directory from here on, and goes with `self`.
        (self.sync_root)(&self.root).map_err(|unsynced| self.withdraw(unsynced, exchange))
    }

    /// Takes the name back from what could not be made durable, by `undo`.
    fn withdraw(&mut self, unsynced: StoreError, undo: fn(&Path, &Path) -> io::Result<()>) -> StoreError {
        match (undo(&self.dir, &self.visible_path()), unsynced) {
            (Ok(()), unsynced) => {
                self.published = false;
                unsynced
            }
            (Err(withdrawal), StoreError::Io { source: unsynced, .. }) => {
                let tag = self.reservation.tag().to_string();
                // Nothing that is visible may be deleted, nor what is needed to put it right.
                self.published = true;
                StoreError::NotWithdrawn { tag, unsynced, withdrawal }
            }
            (Err(_), other) => other,
        }
    }

    fn complete(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let memory = match manifest.memory {
            Memory::Image { .. } | Memory::Compacted { .. } => self.memory_path(),
            Memory::Layer { .. } => self.layer_path(),
        };
        let drive = manifest.drive.map(|_| self.drive_path());
        for path in [memory, self.vmstate_path()].into_iter().chain(drive) {
            let file = File::open(&path).map_err(at("open", &path))?;
            file.set_permissions(Permissions::from_mode(0o600)).map_err(at("restrict", &path))?;
            if manifest.durable {
                file.sync_all().map_err(at("sync", &path))?;
            }
        }
        match fs::remove_file(self.diff_path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(at("delete", &self.diff_path())(error));
            }
            _ => {}
        }
        write_manifest(&self.dir.join(MANIFEST_FILE), manifest)?;
        if manifest.durable { sync_dir(&self.dir) } else { Ok(()) }
    }

    fn visible_path(&self) -> PathBuf {
        self.root.join(self.reservation.tag().as_str())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = fs::remove_dir_all(&self.dir)
        {
            tracing::warn!(dir = %self.dir.display(), %error, "a staging directory is left; the next start deletes it");
        }
    }
}

fn write_manifest(path: &Path, manifest: &Manifest) -> Result<(), StoreError> {
    let text = manifest.encode().map_err(|error| at("encode", path)(error.into()))?;
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).map_err(at("create", path))?;
    file.write_all(&text).map_err(at("write", path))?;
    if manifest.durable { file.sync_all().map_err(at("sync", path)) } else { Ok(()) }
}

fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

/// Makes the names in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(at("sync", dir))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io;
    use std::path::Path;

    use super::{Staging, StoreError};
    use crate::snapshot::digest::Digest;
    use crate::snapshot::manifest::{Manifest, Memory};
    use crate::snapshot::store::{Store, at};
    use crate::snapshot::testing::manifest_of;

    fn fails(root: &Path) -> Result<(), StoreError> {
        Err(at("sync", root)(io::Error::from_raw_os_error(libc::EIO)))
    }

    /// The root's directory has gone as well when its sync fails.
    fn fails_for_good(root: &Path) -> Result<(), StoreError> {
        fs::rename(root, root.with_extension("gone")).unwrap();
        fails(root)
    }

    fn staged(staging: &Staging, byte: u8) -> Manifest {
        let memory = vec![byte; 1 << 20];
        fs::write(staging.memory_path(), &memory).unwrap();
        fs::write(staging.vmstate_path(), b"state").unwrap();
        manifest_of("a", Digest::of(b"state"), Memory::Image { digest: Digest::of(&memory) })
    }

    #[test]
    fn a_failed_sync_after_the_rename_leaves_nothing_visible_and_the_tag_free() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let tag = "a".parse().unwrap();
        let mut staging = store.stage("a".parse().unwrap()).unwrap();
        let manifest = staged(&staging, 1);
        staging.sync_root = fails;
        let error = staging.publish(&manifest).unwrap_err().to_string();
        assert!(error.contains("cannot sync") && error.contains("Input/output error"), "{error}");
        assert!(matches!(store.snapshot(&tag), Err(StoreError::NotFound(_))));
        assert_eq!(fs::read_dir(root.path().join(".staging")).unwrap().count(), 0);
        let staging = store.stage(tag).unwrap();
        let manifest = staged(&staging, 1);
        staging.publish(&manifest).unwrap();
    }

    #[test]
    fn a_failed_sync_after_an_exchange_leaves_the_snapshot_that_was_there() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let staging = store.stage("a".parse().unwrap()).unwrap();
        let manifest = staged(&staging, 1);
        staging.publish(&manifest).unwrap();
        let mut staging = store.stage_replacement("a".parse().unwrap()).unwrap();
        let replacement = staged(&staging, 2);
        staging.sync_root = fails;
        staging.replace(&replacement).unwrap_err();
        assert_eq!(store.snapshot(&"a".parse().unwrap()).unwrap().manifest, manifest);
        assert_eq!(fs::read(root.path().join("a/memory.bin")).unwrap()[0], 1);
    }

    #[test]
    fn what_can_be_neither_synced_nor_withdrawn_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("root")).unwrap();
        let mut staging = store.stage("a".parse().unwrap()).unwrap();
        let manifest = staged(&staging, 1);
        staging.sync_root = fails_for_good;
        let error = staging.publish(&manifest).unwrap_err().to_string();
        assert!(error.contains("'a' is there and whole") && error.contains("not be withdrawn"), "{error}");
        assert!(dir.path().join("root.gone/a/manifest.json").exists());
    }
}
