//! The one folder below which a run puts everything, and what a killed run left there.
//!
//! ```text
//! lock        held with flock(2) while a run lives: the kernel lets go of it however the run ends
//! processes   the processes that a run started, so that the next can end them
//! throttles   block devices that a run slowed down, so that the next can let them go
//! site/       mount points, images, sockets and logs of the trial that runs
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::Error;
use crate::host::{device, mountinfo, tools};
use crate::site::throttle::Throttle;

mod process;

pub use process::Recorded;

/// Where runs work unless told otherwise: on the disk, since `/tmp` may be a tmpfs.
pub const DEFAULT: &str = "/var/tmp/forkd-bench";

const THROTTLES: &str = "throttles";

/// The work folder, locked until it is dropped.
#[derive(Debug)]
pub struct Work {
    folder: PathBuf,
    _lock: File,
}

impl Work {
    /// Takes the folder for this process and clears what a killed run left in it: processes, mounts, loop
    /// devices, files. Gives a line for each thing that was cleared.
    ///
    /// Fails with [`Error::Missing`] while another run holds the folder.
    pub fn take(folder: &Path) -> Result<(Self, Vec<String>), Error> {
        fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        // Mounts and loop devices are listed by their real paths.
        let folder = folder.canonicalize().map_err(Error::file("resolve", folder))?;
        let path = folder.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(Error::file("open", &path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Error::Missing(format!(
                "another run holds {}: wait for it, or use another --work-dir",
                path.display()
            ))
        })?;
        let work = Self { folder, _lock: lock };
        let cleared = work.clear()?;
        Ok((work, cleared))
    }

    /// A fresh, empty folder for one trial.
    pub fn site(&self) -> Result<PathBuf, Error> {
        let site = self.folder.join("site");
        remove_tree(&site)?;
        fs::create_dir_all(&site).map_err(Error::file("create", &site))?;
        Ok(site)
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes down a process that must not outlive this run, so that the next can end it if this is killed.
    pub fn record(&self, pid: u32) -> Result<(), Error> {
        let path = self.folder.join("processes");
        let Some(process) = Recorded::of(pid) else { return Ok(()) };
        let file = OpenOptions::new().create(true).append(true).open(&path);
        file.and_then(|mut file| writeln!(file, "{process}")).map_err(Error::file("write", &path))
    }

    /// Writes down a block device (`major:minor`) that must not stay throttled.
    pub fn record_throttle(&self, number: &str) -> Result<(), Error> {
        let path = self.folder.join(THROTTLES);
        let file = OpenOptions::new().create(true).append(true).open(&path);
        file.and_then(|mut file| writeln!(file, "{number}")).map_err(Error::file("write", &path))
    }

    fn clear(&self) -> Result<Vec<String>, Error> {
        let mut cleared = Vec::new();
        let list = self.folder.join("processes");
        for process in fs::read_to_string(&list).unwrap_or_default().lines().filter_map(Recorded::parse) {
            if process.end() {
                cleared.push(format!("ended process {} of an earlier run", process.pid));
            }
        }
        let throttles = self.folder.join(THROTTLES);
        for number in fs::read_to_string(&throttles).unwrap_or_default().lines() {
            // Where no rule can be there any more, none is in the way.
            if Throttle::lift(number).is_ok() {
                cleared.push(format!("lifted the limit of block device {number} of an earlier run"));
            }
        }
        let _ = fs::remove_file(throttles);
        for mount in mountinfo::below(&self.folder)? {
            unmount(&mount.point).map_err(Error::file("unmount", &mount.point))?;
            cleared.push(format!("unmounted {} of an earlier run", mount.point.display()));
        }
        for name in device::loops_below(&self.folder) {
            tools::run(std::process::Command::new("losetup").arg("-d").arg(format!("/dev/{name}")), "mount")?;
            cleared.push(format!("detached /dev/{name} of an earlier run"));
        }
        remove_tree(&self.folder.join("site"))?;
        let _ = fs::remove_file(list);
        Ok(cleared)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // The lock file stays: who waits for it must not wait for a file that is gone.
        let _ = remove_tree(&self.folder.join("site"));
        for list in ["processes", THROTTLES] {
            let _ = fs::remove_file(self.folder.join(list));
        }
    }
}

/// Unmounts `point`; a mount that stays busy is taken out of the tree and goes when its last user does.
pub fn unmount(point: &Path) -> std::io::Result<()> {
    use rustix::mount::{UnmountFlags, unmount};
    for _ in 0..100 {
        match unmount(point, UnmountFlags::empty()) {
            Err(rustix::io::Errno::BUSY) => std::thread::sleep(std::time::Duration::from_millis(20)),
            done => return Ok(done?),
        }
    }
    Ok(unmount(point, UnmountFlags::DETACH)?)
}

/// Removes `folder` and all in it, unless something is still mounted there.
fn remove_tree(folder: &Path) -> Result<(), Error> {
    if let Some(mount) = mountinfo::below(folder)?.first() {
        let busy = std::io::Error::other("a file system is mounted there");
        return Err(Error::file("remove", &mount.point)(busy));
    }
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::file("remove", folder)(error))
        }
        _ => Ok(()),
    }
}
