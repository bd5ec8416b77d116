//! The memory file of a snapshot in the making: created, preallocated where the data path asks for it, filled.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::api::DataPath;
use crate::snapshot::copy::{Method, overlay};

/// A memory file of its final size that nothing has been written to.
#[derive(Debug)]
pub struct Destination {
    file: File,
    /// Why its blocks are not allocated though the data path asks for it.
    pub not_preallocated: Option<String>,
}

impl Destination {
    /// Creates the file at `path` with `bytes` bytes, and allocates all its blocks for [`DataPath::Fallocate`].
    ///
    /// A file system that cannot preallocate is not an error: the file is sparse then, and says so. A full
    /// disk is an error. Nothing that follows truncates the file, so blocks it has are the ones it keeps.
    pub fn create(path: &Path, bytes: u64, data_path: DataPath) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(path)?;
        let not_preallocated = match data_path {
            DataPath::Naive | DataPath::Direct | DataPath::Uring | DataPath::Stage => None,
            // Not posix_fallocate(3), which writes zeros where the file system cannot.
            DataPath::Fallocate => match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
                Ok(()) => None,
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    Some("the file system cannot preallocate: the destination is sparse".to_owned())
                }
                Err(error) => return Err(error.into()),
            },
        };
        file.set_len(bytes)?;
        Ok(Self { file, not_preallocated })
    }

    /// A second handle, for a copy that runs beside the pause.
    pub fn try_clone(&self) -> io::Result<Self> {
        let file = self.file.try_clone()?;
        Ok(Self { file, not_preallocated: None })
    }

    /// Lays the data of `source` over it and returns the bytes written. Blocks for as long as the disk takes.
    pub fn overlay(&self, method: Method, source: &File) -> io::Result<u64> {
        overlay(method, source, &self.file)
    }
}
