//! Where a cgroup controller is mounted, and which cgroup is ours there.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// The group that the daemon moves itself to where cgroup v2 wants its own one empty.
const DAEMON_GROUP: &str = "forkd-daemon";

/// A controller that limits are set with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    /// Memory.
    Memory,
    /// CPU time.
    Cpu,
}

impl Controller {
    /// The kernel's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
        }
    }
}

/// The files of a cgroup have other names and meanings in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for each controller.
    V1,
    /// One for all.
    V2,
}

/// A cgroup in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Of which version the hierarchy is.
    pub version: Version,
    /// The cgroup's directory.
    pub dir: PathBuf,
}

/// The hierarchies that this process sees, and its cgroup in each.
#[derive(Debug)]
pub struct Mounts {
    mountinfo: String,
    own: String,
}

impl Mounts {
    /// Reads `/proc/self/mountinfo` (proc(5)) and `/proc/self/cgroup` (cgroups(7)).
    pub fn of_this_process() -> io::Result<Self> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
        Ok(Self { mountinfo, own: fs::read_to_string("/proc/self/cgroup")? })
    }

    /// The cgroup `root`, or the process's own, where `controller` can be used below it; or why it cannot.
    ///
    /// On v2 the controller is handed down to the groups below, which the kernel allows only where no process is
    /// in the group itself: if it is only this one, it moves to a group of its own.
    pub fn find(&self, controller: Controller, root: Option<&Path>) -> Result<Hierarchy, String> {
        let hierarchy = self.locate(controller.name(), root)?;
        if !hierarchy.dir.is_dir() {
            return Err(format!("there is no cgroup {}: create it first", hierarchy.dir.display()));
        }
        if hierarchy.version == Version::V2 {
            hand_down(&hierarchy.dir, controller.name())?;
        }
        Ok(hierarchy)
    }

    fn locate(&self, controller: &str, root: Option<&Path>) -> Result<Hierarchy, String> {
        let v1 = self.mounts().find(|mount| mount.version == Version::V1 && mount.has(controller));
        let v2 = || self.mounts().find(|mount| mount.version == Version::V2);
        let Some(mount) = v1.or_else(v2) else {
            return Err(format!("no cgroup hierarchy with the {controller} controller is mounted"));
        };
        let own = || self.own(&mount, controller);
        let path = root.map(Path::to_owned).or_else(own).unwrap_or_else(|| "/".into());
        // Where only a part of the hierarchy is mounted, as in a container, paths still begin at its root.
        let below = path.strip_prefix(&mount.root).or_else(|_| path.strip_prefix("/")).unwrap_or(&path);
        Ok(Hierarchy { version: mount.version, dir: mount.point.join(below) })
    }

    fn mounts(&self) -> impl Iterator<Item = Mount> {
        self.mountinfo.lines().filter_map(Mount::parse)
    }

    /// `id:controllers:path`; v2 has the id 0 and names none.
    fn own(&self, mount: &Mount, controller: &str) -> Option<PathBuf> {
        self.own.lines().find_map(|line| {
            let (id, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let is_it = match mount.version {
                Version::V1 => controllers.split(',').any(|name| name == controller),
                Version::V2 => id == "0",
            };
            is_it.then(|| PathBuf::from(path))
        })
    }
}

/// For [`crate::fuzzing`]: where the files say that cgroups are, without a look there.
#[cfg(any(test, feature = "fuzzing"))]
pub fn parse_all(text: &str) {
    let mounts = Mounts { mountinfo: text.to_owned(), own: text.to_owned() };
    for controller in [Controller::Memory, Controller::Cpu] {
        let _ = mounts.locate(controller.name(), None);
    }
}

#[derive(Debug)]
struct Mount {
    version: Version,
    root: PathBuf,
    point: PathBuf,
    options: String,
}

impl Mount {
    /// `id parent major:minor root point options [fields] - type source super-options`.
    fn parse(line: &str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut file_system = file_system.split(' ');
        let version = match file_system.next()? {
            "cgroup" => Version::V1,
            "cgroup2" => Version::V2,
            _ => return None,
        };
        let options = file_system.nth(1)?.to_owned();
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (mount.next()?.into(), mount.next()?.into());
        Some(Self { version, root, point, options })
    }

    fn has(&self, controller: &str) -> bool {
        self.options.split(',').any(|option| option == controller)
    }
}

/// Enables `controller` for the groups below `dir` (`cgroup.subtree_control`).
fn hand_down(dir: &Path, controller: &str) -> Result<(), String> {
    let lists = |file: &str| {
        let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
        text.split_whitespace().any(|name| name == controller)
    };
    if !lists("cgroup.controllers") {
        return Err(format!(
            "cgroup {} has no {controller} controller: delegate it (systemd: Delegate=yes), or name another cgroup with --cgroup-root",
            dir.display()
        ));
    }
    if lists("cgroup.subtree_control") {
        return Ok(());
    }
    let enable = || write(&dir.join("cgroup.subtree_control"), &format!("+{controller}"));
    let outcome = match enable() {
        Err(error) if is_busy(&error) && move_out_of(dir) => enable(),
        outcome => outcome,
    };
    outcome.map_err(|error| match is_busy(&error) {
        true => format!(
            "other processes are in cgroup {}, which cgroup v2 wants empty: run forkd as a service with Delegate=yes, or \
             name an empty cgroup with --cgroup-root",
            dir.display()
        ),
        false => format!("cannot enable the {controller} controller below {}: {error}", dir.display()),
    })
}

fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::BUSY.raw_os_error())
}

/// Moves this process to a group below `dir`, where it is the only one in `dir`; whether it did.
fn move_out_of(dir: &Path) -> bool {
    let own = std::process::id().to_string();
    let alone = fs::read_to_string(dir.join("cgroup.procs")).is_ok_and(|pids| pids.trim() == own);
    let group = dir.join(DAEMON_GROUP);
    alone
        && (group.is_dir() || fs::create_dir(&group).is_ok())
        && write(&group.join("cgroup.procs"), &own).is_ok()
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Hierarchy, Mounts, Version};

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const UNIFIED: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const CONTAINER: &str =
        "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro,relatime - cgroup cgroup rw,memory\n";

    fn check(mountinfo: &str, own: &str, root: Option<&str>, expected: Result<(Version, &str), &str>) {
        let mounts = Mounts { mountinfo: mountinfo.to_owned(), own: own.to_owned() };
        let found = mounts.locate("memory", root.map(Path::new));
        let expected = expected
            .map(|(version, dir)| Hierarchy { version, dir: PathBuf::from(dir) })
            .map_err(str::to_owned);
        assert_eq!(found, expected, "{mountinfo}{own}");
    }

    #[test]
    fn the_memory_controller_is_found_on_v1_on_v2_and_in_a_container() {
        let own = "4:memory:/jobs/7\n1:cpu,cpuacct:/other\n0::/user.slice\n";
        check(HYBRID, own, None, Ok((Version::V1, "/sys/fs/cgroup/memory/jobs/7")));
        check(HYBRID, own, Some("/forkd"), Ok((Version::V1, "/sys/fs/cgroup/memory/forkd")));
        check(
            UNIFIED,
            "0::/system.slice/forkd.service\n",
            None,
            Ok((Version::V2, "/sys/fs/cgroup/system.slice/forkd.service")),
        );
        check(CONTAINER, "4:memory:/docker/abc\n", None, Ok((Version::V1, "/sys/fs/cgroup/memory/")));
        check("", own, None, Err("no cgroup hierarchy with the memory controller is mounted"));
    }
}
