//! The kernel, its limits and its control groups.

use std::fs;

use rustix::process::{Resource, getrlimit};
use rustix::system::uname;

use super::Check;
use super::parse::{cgroups, major_minor};

/// Each sandbox holds several files open.
const FEW_FILES: u64 = 4096;
/// Typed tracepoints with the arguments that the probes read.
const ENOUGH: (u32, u32) = (5, 18);

pub fn kernel() -> Check {
    kernel_of(&uname().release().to_string_lossy())
}

fn kernel_of(release: &str) -> Check {
    const NAME: &str = "kernel";
    match major_minor(release) {
        Some(version) if version >= ENOUGH => Check::ok(NAME, format!("Linux {release}")),
        _ => Check::warn(NAME, format!("Linux {release}: the probes need 5.18"), "boot a newer kernel"),
    }
}

pub fn checks() -> Vec<Check> {
    vec![open_files(), control_groups(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())]
}

fn open_files() -> Check {
    const NAME: &str = "open files";
    match getrlimit(Resource::Nofile).maximum {
        Some(limit) if limit < FEW_FILES => {
            Check::warn(NAME, format!("at most {limit}: too few for many sandboxes"), "ulimit -Hn 65536")
        }
        Some(limit) => Check::ok(NAME, format!("at most {limit}, which the daemon takes")),
        None => Check::ok(NAME, "no limit"),
    }
}

/// `memory_limit_mib` and `cpu_quota` of sandboxes need the controllers memory and cpu.
fn control_groups(mountinfo: &str) -> Check {
    const NAME: &str = "control groups";
    let (v1, v2) = cgroups(mountinfo);
    let controllers =
        v2.as_ref().map(|dir| fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default());
    let has = |controllers: &str, name: &str| controllers.split_whitespace().any(|one| one == name);
    if let Some(controllers) = controllers.filter(|list| has(list, "memory") && has(list, "cpu")) {
        return Check::ok(NAME, format!("version 2 with {}", controllers.trim()));
    }
    let found = |what: &str| format!("{what}: memory and CPU of a sandbox cannot be limited");
    let mend = "boot with systemd.unified_cgroup_hierarchy=1, or mount -t cgroup2 none /sys/fs/cgroup";
    if ["memory", "cpu"].iter().all(|name| v1.iter().any(|one| one == name)) {
        return Check::ok(NAME, format!("version 1 with {}", v1.join(" ")));
    }
    Check::warn(NAME, found("neither version has the controllers memory and cpu"), mend)
}

#[cfg(test)]
mod tests {
    use super::{control_groups, kernel_of};
    use crate::doctor::Level;

    #[test]
    fn an_old_kernel_is_warned_of() {
        for (release, level) in [
            ("6.18.5", Level::Ok),
            ("5.18.0", Level::Ok),
            ("5.10.0-21-amd64", Level::Warn),
            ("?", Level::Warn),
        ] {
            assert_eq!(kernel_of(release).level, level, "{release}");
        }
    }

    #[test]
    fn version_one_serves_where_it_has_both_controllers() {
        let memory = "40 23 0:30 / /sys/fs/cgroup/memory rw - cgroup none rw,memory\n";
        let cpu = "41 23 0:31 / /sys/fs/cgroup/cpu rw - cgroup none rw,cpu,cpuacct\n";
        assert_eq!(control_groups(&[memory, cpu].concat()).level, Level::Ok);
        assert_eq!(control_groups(memory).level, Level::Warn);
        assert_eq!(control_groups("").level, Level::Warn);
    }
}
