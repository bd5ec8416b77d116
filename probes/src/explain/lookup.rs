//! Names of devices, files and processes, looked up when they are needed.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};

use super::devices::DeviceNames;
use crate::device::Disks;
use crate::proc;

/// Directory entries that are looked at, at most, to find the name of one inode: snapshots have few files, and a
/// name is worth no more than that.
const LOOKED_AT: usize = 4_000;

/// Names that were found, and will not change while they are of use.
#[derive(Debug, Default)]
pub struct Lookup {
    disks: Disks,
    files: HashMap<(String, u64), String>,
    processes: HashMap<u32, String>,
}

impl Lookup {
    /// Looks at the disks, of which some may be new, and forgets processes, whose ids are used again.
    pub fn refresh(&mut self) {
        self.disks.look();
        self.processes.clear();
    }
}

impl DeviceNames for Lookup {
    fn disk(&mut self, id: &str) -> String {
        self.disks.name(id)
    }

    fn file(&mut self, id: &str, inode: u64) -> String {
        let key = (id.to_owned(), inode);
        let name = || mounted(id).and_then(|root| find(&root, id, inode));
        self.files.entry(key).or_insert_with(|| name().unwrap_or_else(|| format!("inode {inode}"))).clone()
    }

    fn process(&mut self, pid: u32) -> String {
        self.processes.entry(pid).or_insert_with(|| proc::process_comm(pid)).clone()
    }
}

/// Where a device is mounted.
fn mounted(id: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let is_of_device = |line: &&str| line.split(' ').nth(2) == Some(id);
    mounts.lines().find(is_of_device)?.split(' ').nth(4).map(PathBuf::from)
}

/// The name of an inode, breadth first below `root`.
fn find(root: &Path, id: &str, inode: u64) -> Option<String> {
    let mut folders = VecDeque::from([root.to_owned()]);
    let mut looked_at = 0;
    while let Some(folder) = folders.pop_front() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            looked_at += 1;
            if looked_at > LOOKED_AT {
                return None;
            }
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() && device(metadata.dev()) == id {
                folders.push_back(entry.path());
            } else if metadata.ino() == inode && device(metadata.dev()) == id {
                return Some(entry.file_name().to_string_lossy().into_owned());
            }
        }
    }
    None
}

fn device(number: u64) -> String {
    format!("{}:{}", major(number), minor(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_by_its_inode_below_folders_of_its_device() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("snapshots/one");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("vmstate.bin"), b"x").unwrap();
        fs::write(folder.join("memory.bin"), b"x").unwrap();
        let metadata = fs::metadata(folder.join("memory.bin")).unwrap();
        let id = device(metadata.dev());
        assert_eq!(find(root.path(), &id, metadata.ino()).as_deref(), Some("memory.bin"));
        assert_eq!(find(root.path(), "0:0", metadata.ino()), None, "another device");
        assert_eq!(Lookup::default().file("0:0", 7), "inode 7");
    }
}
