//! Limits on one Firecracker's memory and CPU time, by a control group of its own.
//!
//! Each of the two controllers is used where it is mounted: on cgroup v2 where the unified hierarchy has it, else
//! on v1. `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/` of the kernel describe the files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::cgroup_mounts::{Controller, Hierarchy, Mounts, Version};
use super::process::is_sandbox_id;

/// The period over which CPU time is counted, which is the kernel's own default.
const CPU_PERIOD_US: u64 = 100_000;
/// A group whose last process has just been reaped may be busy for a moment.
const REMOVE_ATTEMPTS: u32 = 10;
const REMOVE_PAUSE: Duration = Duration::from_millis(2);

/// What a sandbox may use at most.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Memory that its Firecracker is charged for, in MiB.
    pub memory_mib: Option<u32>,
    /// CPU time, as a number of CPUs: 1.5 is one and a half.
    pub cpus: Option<f64>,
}

impl Limits {
    /// Whether there are none.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Why limits cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The controller is nowhere, or not handed down to us.
    #[error("{limit} cannot be set: {reason}")]
    Unavailable {
        /// The field that asked for it.
        limit: &'static str,
        /// Why not, and what to do.
        reason: String,
    },
    /// The kernel said no.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn at<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> CgroupError + 'a {
    move |source| CgroupError::Io { what, path: path.to_owned(), source }
}

/// Where the groups of one daemon's sandboxes are made.
#[derive(Debug)]
pub struct Cgroups {
    memory: Result<Hierarchy, String>,
    cpu: Result<Hierarchy, String>,
}

impl Cgroups {
    /// The groups below `root`, a cgroup as `/proc/self/cgroup` writes it (`/machines/forkd`), or below the
    /// daemon's own cgroup; in a directory whose name is `owner`, which no other daemon on the host has.
    ///
    /// A controller that cannot be had is no error before somebody asks for its limit.
    pub fn open(root: Option<&Path>, owner: &str) -> Self {
        let mounts = Mounts::of_this_process();
        let prepare = |controller| {
            let mounts =
                mounts.as_ref().map_err(|error| format!("cannot read the cgroup mounts: {error}"))?;
            let hierarchy = mounts.find(controller, root)?;
            Ok(Hierarchy { dir: hierarchy.dir.join(owner), ..hierarchy })
        };
        Self { memory: prepare(Controller::Memory), cpu: prepare(Controller::Cpu) }
    }

    /// Deletes the groups of sandboxes that an earlier daemon of the same name left and that nothing runs in. What
    /// has just been killed may take a while to be gone: tries again until all are deleted or `wait` is over.
    pub fn delete_leftovers(&self, wait: Duration) {
        let begun = Instant::now();
        for ours in [&self.memory, &self.cpu].into_iter().flatten() {
            while delete_empty_groups(&ours.dir) > 0 && begun.elapsed() < wait {
                sleep(REMOVE_PAUSE);
            }
        }
    }

    /// Makes the group of the sandbox `id` and sets its limits; `None` where there are none to set.
    pub fn create(&self, id: &str, limits: Limits) -> Result<Option<Cgroup>, CgroupError> {
        if limits.is_none() {
            return Ok(None);
        }
        let mut cgroup = Cgroup { limits, groups: Vec::new(), entries: Vec::new() };
        if let Some(mib) = limits.memory_mib {
            let group = cgroup.join(&self.memory, id, "memory_limit_mib", Controller::Memory)?;
            let file = match group.version {
                Version::V1 => "memory.limit_in_bytes",
                Version::V2 => "memory.max",
            };
            set(&group.dir.join(file), &(u64::from(mib) << 20).to_string())?;
        }
        if let Some(cpus) = limits.cpus {
            let group = cgroup.join(&self.cpu, id, "cpu_quota", Controller::Cpu)?;
            let quota_us = quota_us(cpus);
            match group.version {
                Version::V1 => {
                    set(&group.dir.join("cpu.cfs_period_us"), &CPU_PERIOD_US.to_string())?;
                    set(&group.dir.join("cpu.cfs_quota_us"), &quota_us.to_string())?;
                }
                Version::V2 => set(&group.dir.join("cpu.max"), &format!("{quota_us} {CPU_PERIOD_US}"))?,
            }
        }
        Ok(Some(cgroup))
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for ours in [&self.memory, &self.cpu].into_iter().flatten() {
            // Absent where nobody asked for a limit, and not empty where a sandbox lives on.
            let _ = fs::remove_dir(&ours.dir);
        }
    }
}

/// CPU time in one period, in microseconds.
fn quota_us(cpus: f64) -> u64 {
    // The caller has checked that it is positive and finite.
    (cpus * CPU_PERIOD_US as f64).round() as u64
}

/// The group of one sandbox, in each hierarchy that it has a limit in.
///
/// Dropping it deletes it, unless something still runs in it after a moment, for which it waits.
#[derive(Debug)]
pub struct Cgroup {
    limits: Limits,
    groups: Vec<Hierarchy>,
    // `cgroup.procs` of each, open for writing.
    entries: Vec<File>,
}

impl Cgroup {
    fn join(
        &mut self,
        ours: &Result<Hierarchy, String>,
        id: &str,
        limit: &'static str,
        controller: Controller,
    ) -> Result<Hierarchy, CgroupError> {
        let unavailable = |reason: &String| CgroupError::Unavailable { limit, reason: reason.clone() };
        let ours = ours.as_ref().map_err(unavailable)?;
        let dir = ours.dir.join(id);
        fs::create_dir_all(&ours.dir).map_err(at("create", &ours.dir))?;
        if ours.version == Version::V2 {
            set(&ours.dir.join("cgroup.subtree_control"), &format!("+{}", controller.name()))?;
        }
        let group = Hierarchy { dir, ..ours.clone() };
        // Both limits are in one directory where both controllers are in one hierarchy.
        if !self.groups.contains(&group) {
            fs::create_dir(&group.dir).map_err(at("create", &group.dir))?;
            self.groups.push(group.clone());
            let procs = group.dir.join("cgroup.procs");
            self.entries.push(OpenOptions::new().write(true).open(&procs).map_err(at("open", &procs))?);
        }
        Ok(group)
    }

    /// The limits it was made with.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Moves the calling process into the group: for a child between fork and exec, so that everything that the
    /// program allocates is charged to it. Allocates nothing.
    pub fn enter(&self) -> io::Result<()> {
        // "0" is the process that writes.
        self.entries.iter().try_for_each(|mut procs| procs.write_all(b"0"))
    }

    /// Times that the kernel killed a process of the group because it was beyond its memory limit.
    pub fn oom_kills(&self) -> u64 {
        let count = |group: &Hierarchy| {
            let file = match group.version {
                Version::V1 => "memory.oom_control",
                Version::V2 => "memory.events",
            };
            oom_kills_in(&fs::read_to_string(group.dir.join(file)).ok()?)
        };
        self.groups.iter().find_map(count).unwrap_or(0)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for _ in 0..REMOVE_ATTEMPTS {
            self.groups.retain(|group| !is_gone(&group.dir));
            if self.groups.is_empty() {
                return;
            }
            sleep(REMOVE_PAUSE);
        }
        tracing::warn!(groups = ?self.groups, "a cgroup is still in use; the next start deletes it");
    }
}

/// Deletes an empty group; whether there is none any more.
fn is_gone(dir: &Path) -> bool {
    match fs::remove_dir(dir) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Deletes the groups of sandboxes below `dir` that nothing runs in, and counts the others, which the kernel
/// refuses to delete.
fn delete_empty_groups(dir: &Path) -> usize {
    let groups = fs::read_dir(dir).into_iter().flatten().flatten();
    let groups = groups.filter(|entry| entry.file_name().to_str().is_some_and(is_sandbox_id));
    groups.filter(|entry| !is_gone(&entry.path())).count()
}

fn oom_kills_in(events: &str) -> Option<u64> {
    events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

fn set(path: &Path, value: &str) -> Result<(), CgroupError> {
    // Not created: a file that is not there is a controller that is not.
    let written =
        OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(at("write to", path))
}

#[cfg(test)]
mod tests {
    use super::{oom_kills_in, quota_us};

    #[test]
    fn a_quota_is_the_share_of_the_period() {
        assert_eq!([1.5, 0.01, 0.333_333, 32.0].map(quota_us), [150_000, 1_000, 33_333, 3_200_000]);
    }

    #[test]
    fn oom_kills_are_read_from_the_files_of_both_versions() {
        assert_eq!(oom_kills_in("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), Some(2));
        assert_eq!(oom_kills_in("low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n"), Some(1));
        assert_eq!(oom_kills_in("oom_kill_disable 0\nunder_oom 0\n"), None);
    }
}
