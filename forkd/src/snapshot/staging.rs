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
}

impl Staging {
    pub(super) fn new(dir: PathBuf, root: PathBuf, reservation: Reservation) -> Self {
        Self { dir, root, reservation, published: false }
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
    /// Blocks for as long as the disk takes. On an error nothing is visible and everything is deleted.
    pub fn publish(mut self, manifest: &Manifest) -> Result<PathBuf, StoreError> {
        self.complete(manifest)?;
        let visible = self.visible_path();
        fs::rename(&self.dir, &visible).map_err(at("rename to", &visible))?;
        self.published = true;
        if manifest.durable {
            sync_dir(&self.root)?;
        }
        Ok(visible)
    }

    /// As [`Self::publish`], in the place of the snapshot that has the tag now, which is deleted. There is no
    /// moment at which neither is there.
    pub fn replace(self, manifest: &Manifest) -> Result<(), StoreError> {
        self.complete(manifest)?;
        let visible = self.visible_path();
        renameat_with(CWD, &self.dir, CWD, &visible, RenameFlags::EXCHANGE)
            .map_err(|error| at("exchange", &visible)(error.into()))?;
        sync_dir(&self.root)
        // What was visible before is in the staging directory now, and goes with `self`.
    }

    fn complete(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let memory = match manifest.memory {
            Memory::Image { .. } => self.memory_path(),
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
    let mut text = serde_json::to_vec_pretty(manifest).map_err(|error| at("encode", path)(error.into()))?;
    text.push(b'\n');
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).map_err(at("create", path))?;
    file.write_all(&text).map_err(at("write", path))?;
    if manifest.durable { file.sync_all().map_err(at("sync", path)) } else { Ok(()) }
}

/// Makes the names in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(at("sync", dir))
}
