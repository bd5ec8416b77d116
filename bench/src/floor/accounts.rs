//! What the kernel says of a disk and of a process.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::Error;
use crate::host::device;

/// A mounted file system and the block device below it.
#[derive(Debug)]
pub struct Disk {
    root: File,
    name: String,
}

impl Disk {
    /// The file system of `root`, which lies on the block device `name`.
    pub fn new(root: &Path, name: &str) -> Result<Self, Error> {
        let root = File::open(root).map_err(Error::file("open", root))?;
        Ok(Self { root, name: name.to_owned() })
    }

    /// Syncs the file system, then returns the bytes that the device has been told to write since it was made.
    pub fn synced_written_bytes(&self) -> Result<u64, Error> {
        let path = || PathBuf::from("/sys/block").join(&self.name);
        rustix::fs::syncfs(&self.root).map_err(|error| Error::file("sync", &path())(error.into()))?;
        device::written_bytes(&self.name).ok_or_else(|| {
            let strange =
                std::io::Error::new(std::io::ErrorKind::InvalidData, "it counts no written sectors");
            Error::file("read", &path().join("stat"))(strange)
        })
    }
}

/// Memory of the process `pid`, in bytes: what is resident, and what its open memfds hold beside that.
pub fn memory_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let resident = line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024;
    let files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    let memfds = files.filter(|file| {
        fs::read_link(file.path()).is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:"))
    });
    // Two descriptors of one memfd count once.
    let mut held: Vec<(u64, u64)> = memfds
        .filter_map(|file| fs::metadata(file.path()).ok())
        .map(|metadata| (metadata.ino(), metadata.blocks() * 512))
        .collect();
    held.sort_unstable();
    held.dedup_by_key(|(inode, _)| *inode);
    Some(resident + held.iter().map(|(_, bytes)| bytes).sum::<u64>())
}

/// Looks at the memory of a process every millisecond, on a thread of its own, until it is stopped.
#[derive(Debug)]
pub struct PeakMemory {
    stop: Arc<AtomicBool>,
    watcher: JoinHandle<u64>,
}

impl PeakMemory {
    /// Begins to look at `pid`.
    pub fn watch(pid: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let watcher = thread::spawn(move || {
            let mut peak = 0;
            while !stopped.load(Ordering::Relaxed) {
                peak = peak.max(memory_bytes(pid).unwrap_or(0));
                thread::sleep(Duration::from_millis(1));
            }
            peak
        });
        Self { stop, watcher }
    }

    /// The most that it had, in bytes.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.watcher.join().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::memory_bytes;

    #[test]
    fn a_memfd_counts_once_however_often_it_is_open_and_mapped_or_not() {
        const BYTES: usize = 256 << 20;
        let before = memory_bytes(std::process::id()).unwrap();
        let memfd = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
        let _second = memfd.try_clone().unwrap();
        let chunk = vec![1; 1 << 20];
        for at in (0..BYTES).step_by(chunk.len()) {
            memfd.write_all_at(&chunk, at as u64).unwrap();
        }
        let grown = memory_bytes(std::process::id()).unwrap() - before;
        // Other tests of this process take and free memory beside this one.
        assert!(grown.abs_diff(BYTES as u64) < 96 << 20, "{grown}");
    }
}
