//! What the kernel says of itself in text, read. No I/O here.

use std::path::{Path, PathBuf};

/// The value of a line of `/proc/meminfo`, in bytes.
pub fn meminfo_bytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The choice in brackets of a setting like `always [never] advise`.
pub fn chosen(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0)
}

/// The swap areas that `/proc/swaps` lists.
pub fn swap_areas(text: &str) -> Vec<String> {
    text.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// One mount of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: PathBuf,
    /// `major:minor` of its device.
    pub device: String,
    /// Type of its file system.
    pub file_system: String,
    /// Its options, and those of its file system.
    pub options: Vec<String>,
}

/// Every mount, in the order in which they were made.
pub fn mounts(text: &str) -> Vec<Mount> {
    text.lines().filter_map(mount).collect()
}

/// The mount that `path`, which is absolute and without links, lies on: of two on one point the later, which hides
/// the earlier.
pub fn mount_of(text: &str, path: &Path) -> Option<Mount> {
    let on_path = mounts(text).into_iter().filter(|mount| path.starts_with(&mount.point));
    on_path.max_by_key(|mount| mount.point.components().count())
}

fn mount(line: &str) -> Option<Mount> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mount: Vec<&str> = mount.split(' ').collect();
    let file_system: Vec<&str> = file_system.split(' ').collect();
    let options = mount.get(5)?.split(',').chain(file_system.get(2)?.split(','));
    Some(Mount {
        point: unescape(mount.get(4)?).into(),
        device: (*mount.get(2)?).to_owned(),
        file_system: (*file_system.first()?).to_owned(),
        options: options.map(str::to_owned).collect(),
    })
}

/// The kernel writes blank, tab, newline and backslash as a backslash and three octal digits.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

/// The controllers of cgroup v1 hierarchies that are mounted, and where a v2 hierarchy is.
pub fn cgroups(mountinfo: &str) -> (Vec<String>, Option<PathBuf>) {
    const CONTROLLERS: [&str; 4] = ["cpu", "memory", "blkio", "freezer"];
    let mounts = mounts(mountinfo);
    let v1 = mounts.iter().filter(|mount| mount.file_system == "cgroup").flat_map(|mount| &mount.options);
    let v1 = v1.filter(|option| CONTROLLERS.contains(&option.as_str())).cloned().collect();
    let v2 = mounts.iter().find(|mount| mount.file_system == "cgroup2").map(|mount| mount.point.clone());
    (v1, v2)
}

/// The first two numbers of a kernel release.
pub fn major_minor(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    const MOUNTINFO: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/root rw,discard
31 27 7:3 / /var/lib/a\\040b rw,noatime shared:12 - xfs /dev/loop3 rw,attr2
32 27 0:40 / /var/lib/forkd rw,relatime - btrfs /dev/vdb rw,compress=zstd:3,ssd
33 27 0:41 / /var/lib/forkd rw,nosuid - tmpfs tmpfs rw,size=1024k
40 23 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup none rw,memory
41 23 0:31 / /sys/fs/cgroup/cpu rw,relatime - cgroup none rw,cpu,cpuacct
42 23 0:32 / /sys/fs/cgroup/unified rw,relatime - cgroup2 none rw
";

    #[test]
    fn the_mount_of_a_path_is_the_last_of_the_deepest() {
        let of = |path: &str| mount_of(MOUNTINFO, Path::new(path)).map(|mount| mount.file_system);
        assert_eq!(of("/var/lib/forkd/snapshots").as_deref(), Some("tmpfs"));
        assert_eq!(of("/var/lib/forkdx").as_deref(), Some("ext4"));
        let xfs = mount_of(MOUNTINFO, Path::new("/var/lib/a b/c")).unwrap();
        assert_eq!((xfs.device.as_str(), xfs.file_system.as_str()), ("7:3", "xfs"));
        assert_eq!(xfs.options, ["rw", "noatime", "rw", "attr2"]);
        assert_eq!(mount_of("broken line\n", Path::new("/")), None);
    }

    #[test]
    fn both_kinds_of_cgroups_are_found() {
        let (v1, v2) = cgroups(MOUNTINFO);
        assert_eq!(v1, ["memory", "cpu"]);
        assert_eq!(v2, Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(cgroups("27 1 254:0 / / rw - ext4 /dev/root rw\n"), (Vec::new(), None));
    }

    #[test]
    fn memory_is_in_bytes_and_a_longer_field_is_another_one() {
        let text = "MemTotal:       24684188 kB\nMemAvailable:   20000000 kB\nHugePages_Total:       0\n";
        assert_eq!(meminfo_bytes(text, "MemAvailable"), Some(20_000_000 * 1024));
        assert_eq!(meminfo_bytes(text, "Mem"), None);
        assert_eq!(meminfo_bytes(text, "HugePages_Total"), None);
    }

    #[test]
    fn a_setting_is_the_word_in_brackets() {
        assert_eq!(chosen("always within_size advise [never] deny force\n"), Some("never"));
        assert_eq!(chosen("always"), None);
        assert_eq!(chosen("[open"), None);
    }

    #[test]
    fn swap_areas_are_all_lines_but_the_first() {
        let text = "Filename\t\t\tType\t\tSize\n/dev/sda2    partition 1000\n/swap file 10\n";
        assert_eq!(swap_areas(text), ["/dev/sda2", "/swap"]);
        assert_eq!(swap_areas("Filename\tType\n"), [""; 0]);
    }

    #[test]
    fn a_release_begins_with_two_numbers() {
        assert_eq!(major_minor("6.18.5-fc-v18"), Some((6, 18)));
        assert_eq!(major_minor("5.10.0-21-amd64"), Some((5, 10)));
        assert_eq!(major_minor("six"), None);
    }
}
