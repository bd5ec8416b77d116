//! A setting of the kernel's that is changed for a while.

use std::fs;
use std::path::{Path, PathBuf};

use super::cgroup::write;
use crate::Error;

/// Requests that a device's queue takes at most, the fewest that the kernel allows (`BLKDEV_MIN_RQ`): so few that the
/// neighbour's are always ahead.
pub const SHORT_QUEUE: &str = "4";

/// A file of /sys or of a cgroup with another value than it had. Dropping it puts the former one back.
#[derive(Debug)]
pub struct Setting {
    path: PathBuf,
    restored: String,
}

impl Setting {
    /// Writes `value`, and puts back what the file holds now.
    pub fn change(path: &Path, value: &str) -> Result<Self, Error> {
        let before = fs::read_to_string(path).map_err(Error::file("read", path))?;
        Self::with_restored(path, value, before.trim())
    }

    /// Writes `value`, and `restored` at the end: for files that do not read as they are written.
    pub fn with_restored(path: &Path, value: &str, restored: &str) -> Result<Self, Error> {
        write(path, value)?;
        Ok(Self { path: path.to_owned(), restored: restored.to_owned() })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        // What it was set on may be gone already.
        let _ = write(&self.path, &self.restored);
    }
}

#[cfg(test)]
mod tests {
    use super::Setting;

    #[test]
    fn a_setting_is_put_back() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "2000\n").unwrap();
        let changed = Setting::change(file.path(), "0000").unwrap();
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "0000\n");
        drop(changed);
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "2000\n");
    }
}
