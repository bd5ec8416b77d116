//! A slower disk: the kernel's own limit on what a block device is given (cgroup v1, blkio.throttle).
//!
//! The rule is the root group's: with cgroup v1 the kernel's writeback threads, which belong to no other group,
//! write most of what is written. It knows the device by number, so that the rule must go before the device does.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::host::mountinfo;
use crate::work::Work;

const LIMITS: [&str; 2] = ["blkio.throttle.write_bps_device", "blkio.throttle.read_bps_device"];

/// A device under a limit. Dropping it lifts the limit.
#[derive(Debug)]
pub struct Throttle {
    group: PathBuf,
    number: String,
}

impl Throttle {
    /// Limits the device `number` (`major:minor`) to `bps` bytes a second, for reads and for writes each.
    pub fn set(work: &Work, number: &str, bps: u64) -> Result<Self, Error> {
        let group = root_group()?;
        // First of all, so that the next run lifts it where this one is killed.
        work.record_throttle(number)?;
        let throttle = Self { group, number: number.to_owned() };
        throttle.limit(bps)?;
        Ok(throttle)
    }

    /// Lifts the limit on the device `number`, where there is one.
    pub fn lift(number: &str) -> Result<(), Error> {
        Self { group: root_group()?, number: number.to_owned() }.limit(0)
    }

    /// 0 lifts the limit (Documentation/admin-guide/cgroup-v1/blkio-controller.rst).
    fn limit(&self, bps: u64) -> Result<(), Error> {
        LIMITS.iter().try_for_each(|file| {
            let path = self.group.join(file);
            fs::write(&path, format!("{} {bps}", self.number))
                .map_err(Error::file("limit the disk by", &path))
        })
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        let _ = self.limit(0);
    }
}

/// Refuses a host that cannot throttle a disk.
pub fn check() -> Result<(), Error> {
    root_group().map(drop)
}

/// The root group of the blkio hierarchy.
fn root_group() -> Result<PathBuf, Error> {
    let is_blkio = |mount: &mountinfo::MountInfo| {
        mount.file_system == "cgroup" && mount.options.split([' ', ',']).any(|option| option == "blkio")
    };
    let mount = mountinfo::all()?.into_iter().find(is_blkio);
    let group = mount.map(|mount| mount.point).filter(|group| has_limits(group));
    group.ok_or_else(|| {
        Error::Missing(
            "--disk-bps needs the blkio controller of cgroup v1 with throttling, which is not mounted here: leave it out, \
             or measure on a disk of that speed with --root folder:/PATH and say so with --disk-note"
                .to_owned(),
        )
    })
}

fn has_limits(group: &Path) -> bool {
    LIMITS.iter().all(|file| group.join(file).exists())
}
