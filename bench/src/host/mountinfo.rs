//! The mounts of this process's mount namespace, as `/proc/self/mountinfo` lists them (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::Error;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Device number as `major:minor`.
    pub device: String,
    /// Type of its file system.
    pub file_system: String,
    /// What is mounted: a device's path, or any word where there is no device.
    pub source: String,
    /// Options of the mount, then those of the file system.
    pub options: String,
}

impl MountInfo {
    /// `major:minor` of the block device below. Of a btrfs, which has a number that is no device's, the one that it
    /// was mounted from.
    pub fn device_number(&self) -> Option<String> {
        if !self.device.starts_with("0:") {
            return Some(self.device.clone());
        }
        let name = Path::new(&self.source).strip_prefix("/dev").ok()?;
        let number = std::fs::read_to_string(Path::new("/sys/class/block").join(name).join("dev")).ok()?;
        Some(number.trim().to_owned())
    }
}

/// Every mount, in the order in which they were made.
pub fn all() -> Result<Vec<MountInfo>, Error> {
    let path = Path::new("/proc/self/mountinfo");
    let text = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
    Ok(text.lines().filter_map(parse).collect())
}

/// The mount that `path` lies on.
pub fn of(path: &Path) -> Result<Option<MountInfo>, Error> {
    let path = path.canonicalize().map_err(Error::file("resolve", path))?;
    // Of two mounts on one point the later hides the earlier, which max_by_key respects: it keeps the last.
    let on_path = all()?.into_iter().filter(|mount| path.starts_with(&mount.point));
    Ok(on_path.max_by_key(|mount| mount.point.components().count()))
}

/// Mounts on `folder` or below it, innermost first: the order in which they can be unmounted.
pub fn below(folder: &Path) -> Result<Vec<MountInfo>, Error> {
    let mut mounts: Vec<_> = all()?.into_iter().filter(|mount| mount.point.starts_with(folder)).collect();
    mounts.reverse();
    Ok(mounts)
}

fn parse(line: &str) -> Option<MountInfo> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(2);
    let (device, _root, point, options) = (mount.next()?, mount.next()?, mount.next()?, mount.next()?);
    let mut file_system = file_system.split(' ');
    let (name, source, super_options) = (file_system.next()?, file_system.next()?, file_system.next()?);
    Some(MountInfo {
        point: unescape(point),
        device: device.to_owned(),
        file_system: name.to_owned(),
        source: source.to_owned(),
        options: format!("{options} / {super_options}"),
    })
}

/// The kernel writes blank, tab, newline and backslash as `\` and three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = (byte == b'\\').then(|| tail.get(..3)).flatten();
        let code = code.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(code) => (bytes.push(code), rest = &tail[3..]),
            None => (bytes.push(byte), rest = tail),
        };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::{of, parse};
    use std::path::Path;

    #[test]
    fn optional_fields_and_escapes_are_read() {
        let line = "31 25 7:0 / /a\\040b rw,noatime shared:2 master:1 - ext4 /dev/loop0 rw,errors=continue";
        let mount = parse(line).unwrap();
        assert_eq!(mount.point, Path::new("/a b"));
        assert_eq!((mount.device.as_str(), mount.file_system.as_str()), ("7:0", "ext4"));
        assert_eq!(mount.options, "rw,noatime / rw,errors=continue");
        assert_eq!((mount.source.as_str(), mount.device_number().as_deref()), ("/dev/loop0", Some("7:0")));
    }

    #[test]
    fn a_file_system_without_a_device_has_no_number() {
        let mount = parse("31 25 0:41 / /t rw - tmpfs forkd-bench rw").unwrap();
        assert_eq!(mount.device_number(), None);
    }

    #[test]
    fn a_path_lies_on_the_innermost_mount() {
        assert_eq!(of(Path::new("/proc/self/status")).unwrap().unwrap().file_system, "proc");
    }
}
