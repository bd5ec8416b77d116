//! A control group for one injection, on cgroup v1 and v2.
//!
//! The kernel's `Documentation/admin-guide/cgroup-v1/` and `cgroup-v2.rst` describe the files.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use crate::Error;
use crate::host::mountinfo;

/// The name of every group of the battery, by which the next run finds what a killed one left.
const NAME: &str = "forkd-battery";
/// A group whose last process has just ended may be busy for a moment.
const REMOVE_ATTEMPTS: u32 = 100;
const REMOVE_PAUSE: Duration = Duration::from_millis(5);

/// What a group can limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    /// CPU time.
    Cpu,
    /// Memory.
    Memory,
    /// Reads and writes of block devices.
    Io,
    /// Whether its processes run at all.
    Freezer,
}

impl Controller {
    const ALL: [Self; 4] = [Self::Cpu, Self::Memory, Self::Io, Self::Freezer];

    const fn v1_name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Io => "blkio",
            Self::Freezer => "freezer",
        }
    }

    /// Its name on v2, where freezing is part of every group and of no controller.
    const fn v2_name(self) -> Option<&'static str> {
        match self {
            Self::Cpu => Some("cpu"),
            Self::Memory => Some("memory"),
            Self::Io => Some("io"),
            Self::Freezer => None,
        }
    }
}

/// The files of a group have other names and meanings in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for each controller.
    V1,
    /// One for all.
    V2,
}

/// Where a controller is mounted.
#[derive(Debug)]
struct Hierarchy {
    version: Version,
    point: PathBuf,
}

impl Hierarchy {
    fn find(controller: Controller) -> Result<Self, Error> {
        let mounts = mountinfo::all()?;
        let v1 = mounts.iter().find(|mount| {
            let has = |name: &str| mount.options.split([',', ' ']).any(|option| option == name);
            mount.file_system == "cgroup" && has(controller.v1_name())
        });
        if let Some(mount) = v1 {
            return Ok(Self { version: Version::V1, point: mount.point.clone() });
        }
        let v2 = mounts.into_iter().find(|mount| {
            let controllers = fs::read_to_string(mount.point.join("cgroup.controllers")).unwrap_or_default();
            let has = |name: &str| controllers.split_whitespace().any(|listed| listed == name);
            mount.file_system == "cgroup2" && controller.v2_name().is_none_or(has)
        });
        v2.map(|mount| Self { version: Version::V2, point: mount.point }).ok_or_else(|| {
            let name = controller.v1_name();
            Error::Missing(format!("needs the {name} controller: no cgroup hierarchy with it is mounted"))
        })
    }

    /// The cgroup that `pid` is in; the hierarchy's root where that is outside of what is mounted here.
    fn of(&self, pid: u32, controller: Controller) -> PathBuf {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let path = text.lines().find_map(|line| {
            let (id, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let is_it = match self.version {
                Version::V1 => controllers.split(',').any(|name| name == controller.v1_name()),
                Version::V2 => id == "0",
            };
            is_it.then(|| path.trim_start_matches('/').to_owned())
        });
        let dir = self.point.join(path.unwrap_or_default());
        if dir.is_dir() { dir } else { self.point.clone() }
    }
}

/// A group of the battery's own. Dropping it lets its processes run, moves each back to where it was, and deletes
/// the group.
#[derive(Debug)]
pub struct Group {
    controller: Controller,
    hierarchy: Hierarchy,
    dir: PathBuf,
    /// Processes that were moved in, each with the group that it was in before.
    moved: Vec<(u32, PathBuf)>,
}

impl Group {
    /// An empty group without limits.
    pub fn make(controller: Controller) -> Result<Self, Error> {
        let hierarchy = Hierarchy::find(controller)?;
        // On v2 below the root: only there may processes and groups stand side by side.
        let parent = match hierarchy.version {
            Version::V1 => hierarchy.of(std::process::id(), controller),
            Version::V2 => hierarchy.point.clone(),
        };
        if let (Version::V2, Some(name)) = (hierarchy.version, controller.v2_name()) {
            write(&parent.join("cgroup.subtree_control"), &format!("+{name}"))?;
        }
        let dir = parent.join(NAME);
        match fs::create_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => delete(&dir, &parent),
            made => made.map_err(Error::file("create", &dir))?,
        }
        fs::create_dir_all(&dir).map_err(Error::file("create", &dir))?;
        Ok(Self { controller, hierarchy, dir, moved: Vec::new() })
    }

    /// Of which version it is.
    pub const fn version(&self) -> Version {
        self.hierarchy.version
    }

    /// The root of its hierarchy, as far as that is mounted here.
    pub fn root(&self) -> &Path {
        &self.hierarchy.point
    }

    /// Moves all threads of `pid` into it.
    pub fn take_in(&mut self, pid: u32) -> Result<(), Error> {
        let before = self.hierarchy.of(pid, self.controller);
        write(&self.dir.join("cgroup.procs"), &pid.to_string())?;
        self.moved.push((pid, before));
        Ok(())
    }

    /// Writes one of its files: `v1` or `v2`, each a name and a value.
    pub fn set(&self, v1: (&str, &str), v2: (&str, &str)) -> Result<(), Error> {
        let (file, value) = match self.version() {
            Version::V1 => v1,
            Version::V2 => v2,
        };
        write(&self.dir.join(file), value)
    }

    /// A number of `cpu.stat`, in nanoseconds: for how long its threads were throttled.
    ///
    /// v1 counts `throttled_time` in nanoseconds, v2 `throttled_usec`.
    pub fn throttled_ns(&self) -> Result<u64, Error> {
        let path = self.dir.join("cpu.stat");
        let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        let number =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        Ok(number("throttled_time ").or_else(|| Some(number("throttled_usec ")? * 1000)).unwrap_or(0))
    }

    /// Stops all its processes, or lets them go on. Waits until the kernel says that it is done, for at most a second.
    pub fn freeze(&self, frozen: bool) -> Result<(), Error> {
        let (v1, v2) = if frozen { ("FROZEN", "1") } else { ("THAWED", "0") };
        self.set(("freezer.state", v1), ("cgroup.freeze", v2))?;
        for _ in 0..1000 {
            let state = match self.version() {
                Version::V1 => fs::read_to_string(self.dir.join("freezer.state")).unwrap_or_default(),
                Version::V2 => fs::read_to_string(self.dir.join("cgroup.events")).unwrap_or_default(),
            };
            if state.trim() == v1 || state.contains(&format!("frozen {v2}")) {
                return Ok(());
            }
            sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        thaw(&self.dir);
        for (pid, before) in self.moved.drain(..) {
            // One that has ended, or is gone from here, has nothing to be moved.
            let _ = write(&before.join("cgroup.procs"), &pid.to_string());
        }
        if let Some(parent) = self.dir.parent() {
            delete(&self.dir, parent);
        }
    }
}

/// Deletes the groups that a killed run left, and lets what is in them run.
pub fn delete_leftovers() {
    for controller in Controller::ALL {
        let Ok(hierarchy) = Hierarchy::find(controller) else { continue };
        let parent = match hierarchy.version {
            Version::V1 => hierarchy.of(std::process::id(), controller),
            Version::V2 => hierarchy.point,
        };
        let dir = parent.join(NAME);
        if dir.is_dir() {
            thaw(&dir);
            delete(&dir, &parent);
        }
    }
}

/// Harmless where it is not frozen, and where the files are not there.
fn thaw(dir: &Path) {
    let _ = write(&dir.join("freezer.state"), "THAWED");
    let _ = write(&dir.join("cgroup.freeze"), "0");
}

/// Moves what is in it to `parent` and deletes it, as far as that is possible.
fn delete(dir: &Path, parent: &Path) {
    for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
        let _ = write(&parent.join("cgroup.procs"), pid);
    }
    for _ in 0..REMOVE_ATTEMPTS {
        match fs::remove_dir(dir) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                sleep(REMOVE_PAUSE);
            }
            _ => return,
        }
    }
}

/// Writes a file of the kernel's, which is there already.
pub fn write(path: &Path, value: &str) -> Result<(), Error> {
    let file = OpenOptions::new().write(true).open(path);
    file.and_then(|mut file| file.write_all(value.as_bytes())).map_err(Error::file("write", path))
}
