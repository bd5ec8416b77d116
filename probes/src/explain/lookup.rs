//! Names of devices, files and processes, looked up when they are needed.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};

use super::devices::DeviceNames;
use crate::device::Disks;
use crate::proc;

/// Directory entries of a file system that are looked at, at most, to find names of inodes: snapshots have few files,
/// and a name is worth no more than that.
const LOOKED_AT: usize = 4_000;

/// Names that were found for one window. The next one looks again: ids of processes and inodes are used anew.
#[derive(Debug, Default)]
pub struct Lookup {
    disks: Disks,
    /// The watched processes, whose open files are looked at first.
    pids: Vec<u32>,
    files: HashMap<(String, u64), String>,
    /// What was seen of file systems so far, by their device.
    trees: HashMap<String, Tree>,
    processes: HashMap<u32, String>,
}

impl Lookup {
    /// For the next window, of these processes: looks at the disks, of which some may be new, and forgets the rest.
    pub fn refresh(&mut self, pids: &[u32]) {
        self.disks.look();
        self.pids = pids.to_vec();
        self.files.clear();
        self.trees.clear();
        self.processes.clear();
    }

    fn find(&mut self, id: &str, inode: u64) -> Option<String> {
        let opened = self.pids.iter().find_map(|pid| open_file(*pid, id, inode));
        opened.or_else(|| {
            let tree = || Tree::below(mounted(id).into_iter().collect(), id);
            self.trees.entry(id.to_owned()).or_insert_with(tree).name(inode)
        })
    }
}

impl DeviceNames for Lookup {
    fn disk(&mut self, id: &str) -> String {
        self.disks.name(id)
    }

    fn file(&mut self, id: &str, inode: u64) -> String {
        let key = (id.to_owned(), inode);
        if let Some(known) = self.files.get(&key) {
            return known.clone();
        }
        let name = self.find(id, inode).unwrap_or_else(|| format!("inode {inode}"));
        self.files.insert(key, name.clone());
        name
    }

    fn process(&mut self, pid: u32) -> String {
        self.processes.entry(pid).or_insert_with(|| proc::process_comm(pid)).clone()
    }
}

/// The name of an inode that the process has open, also where the file is deleted.
fn open_file(pid: u32, id: &str, inode: u64) -> Option<String> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let numbers = fs::read_dir(folder.join("fd")).ok()?.flatten().map(|entry| entry.file_name());
    let is_it = |path: &PathBuf| {
        Entry::at(path, AtFlags::empty()).is_some_and(|found| found.inode == inode && found.device == id)
    };
    let may_be = |number: &std::ffi::OsString| {
        let info = fs::read_to_string(folder.join("fdinfo").join(number)).unwrap_or_default();
        inode_of(&info).is_none_or(|found| found == inode)
    };
    // Whoever asks for a file's metadata may wait for its file system, which may be one that does not answer.
    let path = numbers.filter(may_be).map(|number| folder.join("fd").join(number)).find(is_it)?;
    let target = fs::read_link(path).ok()?;
    let name = target.file_name()?.to_string_lossy();
    Some(name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned())
}

/// What `/proc/PID/fdinfo` tells of the inode, since Linux 5.14.
fn inode_of(info: &str) -> Option<u64> {
    info.lines().find_map(|line| line.strip_prefix("ino:")?.trim().parse().ok())
}

/// Where a device is mounted.
fn mounted(id: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let is_of_device = |line: &&str| line.split(' ').nth(2) == Some(id);
    mounts.lines().find(is_of_device)?.split(' ').nth(4).map(PathBuf::from)
}

/// Names of inodes of one file system, breadth first, as far as was needed.
#[derive(Debug)]
struct Tree {
    id: String,
    folders: VecDeque<PathBuf>,
    names: HashMap<u64, String>,
    looked_at: usize,
}

impl Tree {
    fn below(roots: VecDeque<PathBuf>, id: &str) -> Self {
        Self { id: id.to_owned(), folders: roots, names: HashMap::new(), looked_at: 0 }
    }

    fn name(&mut self, inode: u64) -> Option<String> {
        while !self.names.contains_key(&inode) && self.looked_at < LOOKED_AT {
            let folder = self.folders.pop_front()?;
            self.look_into(&folder);
        }
        self.names.get(&inode).cloned()
    }

    fn look_into(&mut self, folder: &Path) {
        let left = LOOKED_AT - self.looked_at;
        for entry in fs::read_dir(folder).into_iter().flatten().flatten().take(left) {
            self.looked_at += 1;
            let Some(found) = Entry::at(&entry.path(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if found.device != self.id {
                continue;
            }
            if found.is_folder {
                self.folders.push_back(entry.path());
            }
            self.names.insert(found.inode, entry.file_name().to_string_lossy().into_owned());
        }
    }
}

/// What is known of an entry without asking a server for it: one that does not answer would keep us for ever.
struct Entry {
    device: String,
    inode: u64,
    is_folder: bool,
}

impl Entry {
    fn at(path: &Path, flags: AtFlags) -> Option<Self> {
        let flags = flags | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        let found = statx(CWD, path, flags, StatxFlags::INO | StatxFlags::TYPE).ok()?;
        Some(Self {
            device: format!("{}:{}", found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            is_folder: FileType::from_raw_mode(found.stx_mode.into()) == FileType::Directory,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::{major, minor};

    use super::*;

    fn id_and_inode(path: &Path) -> (String, u64) {
        let metadata = fs::metadata(path).unwrap();
        (format!("{}:{}", major(metadata.dev()), minor(metadata.dev())), metadata.ino())
    }

    #[test]
    fn a_file_is_found_by_its_inode_below_folders_of_its_device() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("snapshots/one");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("vmstate.bin"), b"x").unwrap();
        fs::write(folder.join("memory.bin"), b"x").unwrap();
        let (id, inode) = id_and_inode(&folder.join("memory.bin"));
        let tree = |id: &str| Tree::below(VecDeque::from([root.path().to_owned()]), id);
        let mut known = tree(&id);
        assert_eq!(known.name(inode).as_deref(), Some("memory.bin"));
        let (_, other) = id_and_inode(&folder.join("vmstate.bin"));
        assert_eq!(known.name(other).as_deref(), Some("vmstate.bin"));
        assert_eq!(known.name(u64::MAX), None);
        assert_eq!(tree("0:0").name(inode), None, "another device");
        assert_eq!(Lookup::default().file("0:0", 7), "inode 7");
    }

    #[test]
    fn a_file_that_a_watched_process_has_open_is_found_wherever_it_lies() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("layer.mem");
        let file = File::create(&path).unwrap();
        let (id, inode) = id_and_inode(&path);
        let pid = std::process::id();
        assert_eq!(open_file(pid, &id, inode).as_deref(), Some("layer.mem"));
        fs::remove_file(&path).unwrap();
        assert_eq!(open_file(pid, &id, inode).as_deref(), Some("layer.mem"), "no folder has it any more");
        assert_eq!(open_file(pid, "0:0", inode), None, "another device");
        drop(file);
        assert_eq!(open_file(pid, &id, inode), None);
    }

    #[test]
    fn the_next_window_does_not_take_a_new_file_for_the_one_that_had_its_inode() {
        let folder = tempfile::tempdir().unwrap();
        let (before, after) = (folder.path().join("before"), folder.path().join("after"));
        let _file = File::create(&before).unwrap();
        let (id, inode) = id_and_inode(&before);
        let mut lookup = Lookup::default();
        lookup.refresh(&[std::process::id()]);
        assert_eq!(lookup.file(&id, inode), "before");
        fs::rename(&before, &after).unwrap();
        assert_eq!(lookup.file(&id, inode), "before", "within a window a name stays");
        lookup.refresh(&[std::process::id()]);
        assert_eq!(lookup.file(&id, inode), "after");
    }

    #[test]
    fn fdinfo_tells_the_inode_where_the_kernel_does() {
        assert_eq!(inode_of("pos:\t0\nflags:\t02\nmnt_id:\t30\nino:\t2001\n"), Some(2001));
        assert_eq!(inode_of("pos:\t0\nflags:\t02\nmnt_id:\t30\n"), None);
    }
}
