//! A swap device in compressed memory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cgroup::write;
use crate::Error;
use crate::host::tools;

const CONTROL: &str = "/sys/class/zram-control";

/// A zram device of its own that is swapped to, through a loop device: without one the kernel takes a page back as fast
/// as it copies one, and which of the two takes longer is the host's affair. Dropping it takes both away.
#[derive(Debug)]
pub struct ZramSwap {
    number: String,
    swapped_to: Option<PathBuf>,
}

impl ZramSwap {
    /// Adds a device of `mib` MiB, with the highest priority of all swap.
    ///
    /// Fails with [`Error::Missing`] where the kernel has no zram, or swaps to something already: pages could go
    /// there, and that is another cause.
    pub fn add(mib: u64) -> Result<Self, Error> {
        if fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() > 1) {
            return Err(Error::Missing("needs a host without swap of its own: swapoff -a".to_owned()));
        }
        let path = Path::new(CONTROL).join("hot_add");
        let number = fs::read_to_string(&path).map_err(|error| {
            Error::Missing(format!("needs zram ({}: {error}): modprobe zram", path.display()))
        })?;
        let mut added = Self { number: number.trim().to_owned(), swapped_to: None };
        let size = added.sysfs("disksize");
        write(&size, &format!("{mib}M"))?;
        let mut attach = Command::new("losetup");
        let through =
            PathBuf::from(tools::output(attach.args(["--find", "--show"]).arg(added.device()), "mount")?);
        let swapped_to = swap_to(&through);
        // From now on it goes as its last user does, also after a crash.
        tools::run(Command::new("losetup").arg("--detach").arg(&through), "mount")?;
        swapped_to?;
        added.swapped_to = Some(through);
        Ok(added)
    }

    /// Bytes that are swapped to it now, before compression.
    pub fn stored_bytes(&self) -> io::Result<u64> {
        // orig_data_size is the first field: Documentation/admin-guide/blockdev/zram.rst.
        let text = fs::read_to_string(self.sysfs("mm_stat"))?;
        Ok(text.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).unwrap_or(0))
    }

    fn device(&self) -> PathBuf {
        PathBuf::from(format!("/dev/zram{}", self.number))
    }

    fn sysfs(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/sys/block/zram{}/{file}", self.number))
    }
}

fn swap_to(device: &Path) -> Result<(), Error> {
    tools::run(Command::new("mkswap").arg("-q").arg(device), "util-linux")?;
    tools::run(Command::new("swapon").args(["-p", "32767"]).arg(device), "mount")
}

impl Drop for ZramSwap {
    fn drop(&mut self) {
        if let Some(through) = &self.swapped_to {
            let _ = tools::run(Command::new("swapoff").arg(through), "mount");
        }
        let _ = write(&self.sysfs("reset"), "1");
        let _ = write(&Path::new(CONTROL).join("hot_remove"), &self.number);
    }
}
