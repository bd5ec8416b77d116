//! Files and folders in memory.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::io::Errno;

/// The number of the root, by FUSE's own rule.
const ROOT: u64 = 1;
/// Kinds, as `st_mode` has them (inode(7)).
pub const FILE: u32 = 0o100_000;
/// As [`FILE`].
pub const FOLDER: u32 = 0o040_000;

/// What is known of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Its number.
    pub number: u64,
    /// Bytes.
    pub size: u64,
    /// Kind and permissions.
    pub mode: u32,
    /// When it was made, in seconds since the Unix epoch.
    pub changed_s: u64,
}

/// A file or a folder.
#[derive(Debug)]
pub struct Node {
    content: Content,
    /// Permissions.
    mode: u32,
    changed_s: u64,
}

#[derive(Debug)]
pub enum Content {
    /// Bytes.
    File(Vec<u8>),
    /// Names, with the numbers of their nodes.
    Folder(BTreeMap<OsString, u64>),
}

/// All of them, by their numbers.
#[derive(Debug)]
pub struct Tree {
    nodes: HashMap<u64, Node>,
    next: u64,
}

impl Default for Tree {
    fn default() -> Self {
        Self { nodes: HashMap::from([(ROOT, Node::folder(0o700))]), next: ROOT + 1 }
    }
}

impl Node {
    fn new(content: Content, mode: u32) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self { content, mode, changed_s: now.map_or(0, |since| since.as_secs()) }
    }

    /// An empty file.
    pub fn file(mode: u32) -> Self {
        Self::new(Content::File(Vec::new()), mode)
    }

    /// An empty folder.
    pub fn folder(mode: u32) -> Self {
        Self::new(Content::Folder(BTreeMap::new()), mode)
    }
}

impl Tree {
    /// The names in a folder.
    pub fn folder(&mut self, number: u64) -> Result<&mut BTreeMap<OsString, u64>, Errno> {
        match &mut self.nodes.get_mut(&number).ok_or(Errno::NOENT)?.content {
            Content::Folder(entries) => Ok(entries),
            Content::File(_) => Err(Errno::NOTDIR),
        }
    }

    /// The bytes of a file.
    pub fn file(&mut self, number: u64) -> Result<&mut Vec<u8>, Errno> {
        match &mut self.nodes.get_mut(&number).ok_or(Errno::NOENT)?.content {
            Content::File(bytes) => Ok(bytes),
            Content::Folder(_) => Err(Errno::ISDIR),
        }
    }

    /// What is known of a node.
    pub fn attributes(&self, number: u64) -> Result<Attributes, Errno> {
        let node = self.nodes.get(&number).ok_or(Errno::NOENT)?;
        let (size, kind) = match &node.content {
            Content::File(bytes) => (bytes.len() as u64, FILE),
            Content::Folder(_) => (0, FOLDER),
        };
        Ok(Attributes { number, size, mode: kind | (node.mode & 0o7777), changed_s: node.changed_s })
    }

    /// The node of that name.
    pub fn find(&mut self, parent: u64, name: &OsStr) -> Result<Attributes, Errno> {
        let number = *self.folder(parent)?.get(name).ok_or(Errno::NOENT)?;
        self.attributes(number)
    }

    /// Adds a node under a name that is free.
    pub fn add(&mut self, parent: u64, name: &OsStr, node: Node) -> Result<Attributes, Errno> {
        let number = self.next;
        let entries = self.folder(parent)?;
        if entries.contains_key(name) {
            return Err(Errno::EXIST);
        }
        entries.insert(name.to_owned(), number);
        self.nodes.insert(number, node);
        self.next += 1;
        self.attributes(number)
    }

    /// Takes the name away. The node itself stays: somebody may have it open, and all of it goes with the mount.
    pub fn take(&mut self, parent: u64, name: &OsStr) -> Result<u64, Errno> {
        let entries = self.folder(parent)?;
        let number = *entries.get(name).ok_or(Errno::NOENT)?;
        let is_full = |node: &Node| matches!(&node.content, Content::Folder(entries) if !entries.is_empty());
        if self.nodes.get(&number).is_some_and(is_full) {
            return Err(Errno::NOTEMPTY);
        }
        self.folder(parent)?.remove(name);
        Ok(number)
    }

    /// Gives a node another name; what had it goes, unless that is not wanted.
    pub fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr), no_replace: bool) -> Result<(), Errno> {
        let number = *self.folder(from.0)?.get(from.1).ok_or(Errno::NOENT)?;
        let is_there = self.folder(to.0)?.contains_key(to.1);
        match is_there {
            true if no_replace => return Err(Errno::EXIST),
            true => drop(self.take(to.0, to.1)?),
            false => {}
        }
        self.folder(from.0)?.remove(from.1);
        self.folder(to.0)?.insert(to.1.to_owned(), number);
        Ok(())
    }

    /// Sets permissions and size, where they are given.
    pub fn change(&mut self, number: u64, mode: Option<u32>, size: Option<u64>) -> Result<Attributes, Errno> {
        if let Some(size) = size {
            self.file(number)?.resize(size as usize, 0);
        }
        let node = self.nodes.get_mut(&number).ok_or(Errno::NOENT)?;
        node.mode = mode.unwrap_or(node.mode);
        self.attributes(number)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use rustix::io::Errno;

    use super::{Node, ROOT, Tree};

    #[test]
    fn names_are_found_moved_and_taken_away() {
        let mut tree = Tree::default();
        let [a, b, folder] = ["a", "b", "folder"].map(OsStr::new);
        let file = tree.add(ROOT, a, Node::file(0o600)).unwrap().number;
        let inner = tree.add(ROOT, folder, Node::folder(0o700)).unwrap().number;
        tree.file(file).unwrap().extend([1, 2, 3]);
        assert_eq!(tree.add(ROOT, a, Node::file(0o600)), Err(Errno::EXIST));
        tree.rename((ROOT, a), (inner, b), false).unwrap();
        assert_eq!(tree.find(ROOT, a), Err(Errno::NOENT));
        assert_eq!(tree.find(inner, b).unwrap().size, 3);
        assert_eq!(tree.take(ROOT, folder), Err(Errno::NOTEMPTY));
        tree.add(ROOT, a, Node::file(0o600)).unwrap();
        assert_eq!(tree.rename((ROOT, a), (inner, b), true), Err(Errno::EXIST));
        tree.rename((ROOT, a), (inner, b), false).unwrap();
        assert_eq!(tree.find(inner, b).unwrap().size, 0);
        assert_eq!(tree.change(inner, None, Some(1)), Err(Errno::ISDIR));
    }
}
