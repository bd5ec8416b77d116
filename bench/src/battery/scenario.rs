//! What a scenario is: one cause that is put in the way of a window, and what the verdict must then say.

use std::path::{Path, PathBuf};

use forkd::api::{BranchMode, DataPath};

use super::host::process::Part;
use super::host::slow_fs::SlowFs;
use crate::Error;

/// A scenario. Whoever gives the verdict never sees it.
pub struct Scenario {
    /// Its name, in the table and on the command line.
    pub name: &'static str,
    /// What the verdict must say.
    pub expected: Expected,
    /// What the window is of.
    pub subject: Subject,
    /// Sure to end the same way on a busy host, in a few seconds.
    pub quick: bool,
    /// What the account must name beside the cause: who holds the lock, whose load it is, who merely waits. A name
    /// may go on after these letters.
    pub names: &'static [&'static str],
    /// Puts the cause in the way, before the guest dirties its pages.
    pub inject: Inject,
}

/// Puts a cause in the way.
pub type Inject = fn(&Scene<'_>) -> Result<Box<dyn Injection>, Error>;

/// What the verdict of a scenario must say, in ids of the cause table.
#[derive(Clone, Copy, Debug)]
pub enum Expected {
    /// One of these, and uninjected none of them: a kernel has more than one place to wait for the same thing.
    OneOf(&'static [&'static str]),
    /// Each of these, with the share that is known from outside; for each the ids that it may have.
    Shares(&'static [&'static [&'static str]]),
    /// None of the causes that the other scenarios inject.
    Nothing,
}

/// Whose window is explained.
#[derive(Clone, Copy, Debug)]
pub enum Subject {
    /// That of a real BRANCH: its pause.
    Branch(BranchOf),
    /// That of a program of the battery's own, by the name of its part.
    Program(&'static str),
}

/// A BRANCH, and the guest it is taken of.
#[derive(Clone, Copy, Debug)]
pub struct BranchOf {
    /// What the snapshots lie on.
    pub place: Place,
    /// Guest memory in MiB.
    pub mem_mib: u32,
    /// Pages (4 KiB) that the guest dirties before the BRANCH.
    pub dirty_pages: u64,
    /// What is otherwise where nothing is injected.
    pub otherwise: Otherwise,
    /// What Firecracker writes.
    pub mode: BranchMode,
    /// How it gets to disk.
    pub data_path: DataPath,
}

impl BranchOf {
    /// All memory of a guest of `mem_mib` MiB, which Firecracker writes to the file system of `place`.
    pub const fn full(place: Place, mem_mib: u32) -> Self {
        let (mode, data_path) = (BranchMode::Full, DataPath::Naive);
        Self { place, mem_mib, dirty_pages: 64, otherwise: Otherwise::Nothing, mode, data_path }
    }

    /// The pages that a guest of `mem_mib` MiB has dirtied, which Firecracker writes to memory.
    pub const fn staged(mem_mib: u32, dirty_pages: u64) -> Self {
        let (mode, data_path) = (BranchMode::Diff, DataPath::Stage);
        let place = Place::Memory;
        Self { place, mem_mib, dirty_pages, otherwise: Otherwise::Nothing, mode, data_path }
    }

    /// The same where nothing is injected.
    pub const fn uninjected(self) -> Self {
        match self.otherwise {
            Otherwise::Nothing => self,
            Otherwise::DirtyPages(dirty_pages) => Self { dirty_pages, ..self },
            Otherwise::Place(place) => Self { place, ..self },
        }
    }
}

/// Of a BRANCH whose cause lies in the BRANCH itself: what is otherwise without it.
#[derive(Clone, Copy, Debug)]
pub enum Otherwise {
    /// Nothing: the cause comes from elsewhere.
    Nothing,
    /// The pages that the guest dirties.
    DirtyPages(u64),
    /// What the snapshots lie on.
    Place(Place),
}

/// What snapshots lie on. All of it is in memory: a disk that others use too would be an injection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// A tmpfs.
    Memory,
    /// ext4 on a loop device whose file is on a tmpfs.
    Ext4,
    /// The same, mounted so that a journal commit waits for the data of new blocks (`nodioread_nolock`): by default
    /// ext4 marks them unwritten instead, and no commit waits for them (fs/ext4/inode.c, `ext4_map_blocks`).
    Ext4Ordered,
    /// A FUSE file system of the battery's own.
    Fuse,
}

/// What an injection may act on.
pub struct Scene<'a> {
    /// The process whose window is explained: Firecracker, or the program.
    pub pid: u32,
    /// The snapshot root.
    pub root: &'a Path,
    /// A folder on the same file system, for neighbours.
    pub neighbours: PathBuf,
    /// Name of the block device below it, such as `loop0`.
    pub device: Option<String>,
    /// The FUSE file system, where that is what it is.
    pub slow_fs: Option<&'a SlowFs>,
}

impl Scene<'_> {
    /// The block device, or why the scenario cannot be.
    pub fn device(&self) -> Result<&str, Error> {
        let missing = || Error::Missing("needs a block device below the snapshots".to_owned());
        self.device.as_deref().ok_or_else(missing)
    }

    /// A file of the device's queue, in /sys.
    pub fn queue_file(&self, name: &str) -> Result<PathBuf, Error> {
        Ok(PathBuf::from(format!("/sys/block/{}/queue/{name}", self.device()?)))
    }

    /// The device as `major:minor`.
    pub fn device_number(&self) -> Result<String, Error> {
        let path = PathBuf::from(format!("/sys/block/{}/dev", self.device()?));
        let number = std::fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        Ok(number.trim().to_owned())
    }

    /// Starts a neighbour on the same file system.
    pub fn neighbour(&self, part: &str) -> Result<Part, Error> {
        Part::start([part, self.neighbours.to_string_lossy().as_ref()])
    }

    /// Starts one that does its part with this many threads.
    pub fn neighbour_of(&self, part: &str, threads: usize) -> Result<Part, Error> {
        Part::start([part, self.neighbours.to_string_lossy().as_ref(), &threads.to_string()])
    }
}

/// What was put in the way. Dropping it takes it away again.
pub trait Injection {
    /// Called once more when the guest has dirtied its pages, right before the window.
    fn right_before(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// The shares of the window that the causes took, as far as they are known from outside, in the order in which
    /// they are expected. `window` is its first nanosecond and the one after it, of CLOCK_MONOTONIC.
    fn known_shares(&mut self, _window: (u64, u64)) -> Result<Vec<f64>, Error> {
        Ok(Vec::new())
    }
}

/// Guards that do nothing but last.
pub struct Lasting<T>(pub T);

impl<T> Injection for Lasting<T> {}

/// An injection that lasts as long as `guards`.
pub fn lasting<T: 'static>(guards: T) -> Box<dyn Injection> {
    Box::new(Lasting(guards))
}

/// Nothing: what the subject does by itself is the cause.
pub fn nothing(_: &Scene<'_>) -> Result<Box<dyn Injection>, Error> {
    Ok(lasting(()))
}

/// Nanoseconds that two stretches have in common.
pub fn common_ns(one: (u64, u64), other: (u64, u64)) -> u64 {
    one.1.min(other.1).saturating_sub(one.0.max(other.0))
}

/// Part of `window` that `ns` is.
pub fn share(ns: u64, window: (u64, u64)) -> f64 {
    ns as f64 / (window.1.saturating_sub(window.0)).max(1) as f64
}
