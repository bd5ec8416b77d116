//! How long a process's cgroup has been held back by its CPU quota.

use std::fs;

/// Nanoseconds so far, of every cgroup that the process is in; 0 where there is no quota.
///
/// Version 1 counts `throttled_time` in nanoseconds, version 2 `throttled_usec`
/// (Documentation/scheduler/sched-bwc.rst).
pub fn throttled_ns(pid: u32) -> u64 {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    groups.lines().filter_map(|line| stat_file(line, &mounts)).filter_map(|path| read(&path)).sum()
}

fn read(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok().map(|text| throttled(&text))
}

fn throttled(stat: &str) -> u64 {
    let field = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        let value: u64 = value.trim().parse().ok()?;
        match name {
            "throttled_time" => Some(value),
            "throttled_usec" => Some(value.saturating_mul(1_000)),
            _ => None,
        }
    };
    stat.lines().filter_map(field).fold(0, u64::saturating_add)
}

/// The `cpu.stat` of one line of `/proc/PID/cgroup`: `4:cpu,cpuacct:/path`, or `0::/path` of version 2.
fn stat_file(line: &str, mounts: &str) -> Option<String> {
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
    Some(format!("{mount}{}/cpu.stat", path.trim_end_matches('/')))
}

/// For [`crate::fuzzing`]: as each of the files.
#[cfg(any(test, feature = "fuzzing"))]
pub fn parse_all(text: &str) {
    throttled(text);
    for line in text.lines() {
        let _ = stat_file(line, text);
    }
}

#[cfg(test)]
mod tests {
    use super::{stat_file, throttled};

    const MOUNTS: &str = "\
30 25 0:26 / /sys/fs/cgroup/cpu rw,nosuid - cgroup cgroup rw,cpu
31 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn a_time_beyond_all_bounds_is_the_longest_there_is() {
        assert_eq!(throttled("throttled_usec 18446744073709551615\nthrottled_time 5\n"), u64::MAX);
        assert_eq!(throttled("throttled_usec 2\nthrottled_time 5\n"), 2_005);
    }

    #[test]
    fn a_cgroups_file_lies_below_the_mount_of_its_controller() {
        let file = |line| stat_file(line, MOUNTS);
        assert_eq!(file("4:cpu:/forkd/sb-1").as_deref(), Some("/sys/fs/cgroup/cpu/forkd/sb-1/cpu.stat"));
        assert_eq!(file("0::/a").as_deref(), Some("/sys/fs/cgroup/unified/a/cpu.stat"));
        assert_eq!(file("4:cpu:/").as_deref(), Some("/sys/fs/cgroup/cpu/cpu.stat"));
        assert_eq!(file("5:memory:/a"), None);
        assert_eq!(stat_file("4:cpu:/a", ""), None);
    }

    #[test]
    fn both_versions_come_in_nanoseconds() {
        assert_eq!(throttled("nr_periods 3\nnr_throttled 2\nthrottled_time 7000\n"), 7_000);
        assert_eq!(throttled("usage_usec 5\nthrottled_usec 7\n"), 7_000);
        assert_eq!(throttled(""), 0);
    }
}
