//! Root drives that guests write to: a file for each sandbox, and one in each snapshot of such a guest.
//!
//! Firecracker records the path under which it opened a drive, and opens the same path when the snapshot is
//! restored. So it is given a relative one: a link of that name in the run directory of each sandbox, which is
//! Firecracker's working directory, leads to the sandbox's own file.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use super::DRIVE_FILE;
use super::compose::clone_or_copy;
use super::digest::Digest;
use super::manifest;
use super::pace::Urgent;
use super::store::{Opened, Store, StoreError, at};
use crate::clock::monotonic_ns;

/// The drives of the sandboxes of one daemon, beside its snapshots, so that they can share blocks with them.
#[derive(Debug)]
pub struct Drives {
    dir: PathBuf,
}

impl Drives {
    /// The drives of `store`. Deletes those of sandboxes that are no more: those without a directory in `run_dir`.
    pub fn open(store: &Store, run_dir: &Path) -> Result<Self, StoreError> {
        let dir = store.drives_dir();
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(at("create", &dir))?;
        for entry in fs::read_dir(&dir).map_err(at("list", &dir))? {
            let entry = entry.map_err(at("list", &dir))?;
            if !run_dir.join(entry.file_name()).is_dir() {
                fs::remove_file(entry.path()).map_err(at("delete", &entry.path()))?;
            }
        }
        Ok(Self { dir })
    }

    /// Makes the drive of the sandbox `id`, with the contents of `source`. Blocks for as long as the disk takes.
    pub fn create(&self, id: &str, source: &File) -> Result<Drive, StoreError> {
        let path = self.dir.join(id);
        let file = create_file(&path).map_err(at("create", &path))?;
        let drive = Drive { file, path };
        let bytes = source.metadata().map_err(at("read", &drive.path))?.len();
        clone_or_copy(source, &drive.file, bytes, &Urgent).map_err(at("write", &drive.path))?;
        Ok(drive)
    }

    /// Makes the drive of a child of `snapshot`; `None` where that has none.
    pub fn create_for_child(&self, id: &str, snapshot: &Opened) -> Result<Option<Drive>, StoreError> {
        snapshot.drive.as_ref().map(|source| self.create(id, source)).transpose()
    }
}

/// One sandbox's drive. Dropping it deletes the file.
#[derive(Debug)]
pub struct Drive {
    file: File,
    path: PathBuf,
}

/// What it took to copy a drive while its guest stood still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriveCopy {
    /// How long.
    pub ns: u64,
    /// Whether blocks are shared with the drive; otherwise each was copied.
    pub shares_blocks: bool,
}

impl Drive {
    /// Puts the link that Firecracker opens it by into the sandbox's run directory.
    pub fn link_into(&self, sandbox_dir: &Path) -> io::Result<()> {
        symlink(&self.path, sandbox_dir.join(DRIVE_FILE))
    }

    /// Writes what the guest has written so far back to the disk, so that a pause that follows has less to wait for.
    pub fn write_back(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Copies it to `destination`, which does not exist yet.
    ///
    /// Right only while the guest stands still, and after Firecracker has written its state: a request that the
    /// guest had put into the queue is then either in both or, in memory, still to be done, and is done again.
    pub fn copy_of_paused_guest(&self, destination: &Path) -> Result<DriveCopy, StoreError> {
        let start_ns = monotonic_ns();
        let copy = create_file(destination).map_err(at("create", destination))?;
        let bytes = self.file.metadata().map_err(at("read", &self.path))?.len();
        let shares_blocks =
            clone_or_copy(&self.file, &copy, bytes, &Urgent).map_err(at("write", destination))?;
        Ok(DriveCopy { ns: monotonic_ns() - start_ns, shares_blocks })
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(drive = %self.path.display(), %error, "a drive is left; the next start deletes it");
        }
    }
}

/// Describes the drive that was copied to `path`, where there is one.
pub fn describe(path: &Path) -> Result<Option<manifest::Drive>, StoreError> {
    let bytes = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at("read", path)(error)),
    };
    Ok(Some(manifest::Drive { bytes, digest: Digest::of_file(path).map_err(at("read", path))? }))
}

fn create_file(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create_new(true).mode(0o600).open(path)
}
