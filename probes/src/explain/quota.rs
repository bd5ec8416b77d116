//! How long processes have been held back by CPU quotas: those of their cgroups, and of all that these lie in.

use std::collections::BTreeMap;
use std::fs;

/// The counters of some processes' cgroups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Processes, each with the `cpu.stat` of a cgroup that it is in, or that this one lies in.
    counters: Vec<(u32, String)>,
}

impl Quotas {
    /// Of these processes, where they are now. Cgroups without a counter of quotas are left out: the root has none.
    pub fn of(pids: &[u32]) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let counters = pids.iter().flat_map(|pid| {
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            let files: Vec<String> = groups.lines().flat_map(|line| stat_files(line, &mounts)).collect();
            files.into_iter().filter(|path| read(path).is_some()).map(|path| (*pid, path))
        });
        Self { counters: counters.collect() }
    }

    /// Nanoseconds so far, of each counter.
    pub fn read(&self) -> Vec<u64> {
        self.counters.iter().map(|(_, path)| read(path).unwrap_or(0)).collect()
    }

    /// How long each process was held back between two readings: the longest of its cgroups' times, because a
    /// thread that several quotas hold back at once waits once.
    pub fn grown(&self, before: &[u64], after: &[u64]) -> Vec<(u32, u64)> {
        let mut longest: BTreeMap<u32, u64> = BTreeMap::new();
        for ((pid, _), (before, after)) in self.counters.iter().zip(before.iter().zip(after)) {
            let known = longest.entry(*pid).or_default();
            *known = after.saturating_sub(*before).max(*known);
        }
        longest.into_iter().collect()
    }
}

fn read(path: &str) -> Option<u64> {
    throttled(&fs::read_to_string(path).ok()?)
}

/// Version 1 counts `throttled_time` in nanoseconds, version 2 `throttled_usec` (Documentation/scheduler/sched-bwc.rst).
fn throttled(stat: &str) -> Option<u64> {
    let field = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        let value: u64 = value.trim().parse().ok()?;
        match name {
            "throttled_time" => Some(value),
            "throttled_usec" => Some(value.saturating_mul(1_000)),
            _ => None,
        }
    };
    stat.lines().filter_map(field).reduce(u64::saturating_add)
}

/// The `cpu.stat` of one line of `/proc/PID/cgroup` (`4:cpu,cpuacct:/path`, or `0::/path` of version 2) and of every
/// cgroup around it, up to the mount.
fn stat_files(line: &str, mounts: &str) -> Vec<String> {
    let Some((mount, path)) = cgroup(line, mounts) else { return Vec::new() };
    let mut rest = path.trim_end_matches('/');
    let mut files = vec![format!("{mount}{rest}/cpu.stat")];
    while let Some((around, _)) = rest.rsplit_once('/') {
        rest = around;
        files.push(format!("{mount}{rest}/cpu.stat"));
    }
    files
}

/// Where the hierarchy that has the `cpu` controller is mounted, and the cgroup's path in it.
fn cgroup<'a>(line: &'a str, mounts: &'a str) -> Option<(&'a str, &'a str)> {
    let mut fields = line.splitn(3, ':');
    let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let is_unified = controllers.is_empty();
    if !is_unified && !controllers.split(',').any(|controller| controller == "cpu") {
        return None;
    }
    let holds = |mount: &&str| {
        let Some((_, after)) = mount.split_once(" - ") else { return false };
        let mut after = after.split(' ');
        let kind = after.next();
        let options = after.nth(1).unwrap_or_default();
        match is_unified {
            true => kind == Some("cgroup2"),
            false => kind == Some("cgroup") && options.split(',').any(|option| option == "cpu"),
        }
    };
    let mount = mounts.lines().find(holds)?.split(' ').nth(4)?;
    Some((mount, path))
}

/// For [`crate::fuzzing`]: as each of the files.
#[cfg(any(test, feature = "fuzzing"))]
pub fn parse_all(text: &str) {
    let _ = throttled(text);
    for line in text.lines() {
        let _ = stat_files(line, text);
    }
}

#[cfg(test)]
mod tests {
    use super::{Quotas, stat_files, throttled};

    const MOUNTS: &str = "\
30 25 0:26 / /sys/fs/cgroup/cpu rw,nosuid - cgroup cgroup rw,cpu
31 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn a_time_beyond_all_bounds_is_the_longest_there_is() {
        assert_eq!(throttled("throttled_usec 18446744073709551615\nthrottled_time 5\n"), Some(u64::MAX));
        assert_eq!(throttled("throttled_usec 2\nthrottled_time 5\n"), Some(2_005));
    }

    #[test]
    fn a_cgroups_file_and_those_around_it_lie_below_the_mount_of_their_controller() {
        let files = |line| stat_files(line, MOUNTS);
        assert_eq!(
            files("4:cpu:/forkd/sb-1"),
            [
                "/sys/fs/cgroup/cpu/forkd/sb-1/cpu.stat",
                "/sys/fs/cgroup/cpu/forkd/cpu.stat",
                "/sys/fs/cgroup/cpu/cpu.stat"
            ]
        );
        let unified = ["/sys/fs/cgroup/unified/a/cpu.stat", "/sys/fs/cgroup/unified/cpu.stat"];
        assert_eq!(files("0::/a"), unified);
        assert_eq!(files("4:cpu:/"), ["/sys/fs/cgroup/cpu/cpu.stat"]);
        assert!(files("5:memory:/a").is_empty());
        assert!(stat_files("4:cpu:/a", "").is_empty());
    }

    #[test]
    fn both_versions_come_in_nanoseconds() {
        assert_eq!(throttled("nr_periods 3\nnr_throttled 2\nthrottled_time 7000\n"), Some(7_000));
        assert_eq!(throttled("usage_usec 5\nthrottled_usec 7\n"), Some(7_000));
        assert_eq!(throttled("usage_usec 5\n"), None, "a root cgroup has no quota");
    }

    #[test]
    fn each_process_has_the_longest_growth_of_the_cgroups_that_it_is_in() {
        let counter = |pid, path: &str| (pid, path.to_owned());
        let counters = vec![counter(5, "own"), counter(5, "around"), counter(6, "own"), counter(6, "gone")];
        let quotas = Quotas { counters };
        let grown = quotas.grown(&[100, 1_000, 7, 50], &[130, 1_020, 7, 0]);
        assert_eq!(grown, [(5, 30), (6, 0)]);
        assert!(Quotas::default().grown(&[], &[]).is_empty());
    }
}
