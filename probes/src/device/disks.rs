//! Names of disks and partitions, and what loop devices lie on, as `/sys/block` shows them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};
use serde::{Deserialize, Serialize};

const BLOCK: &str = "/sys/block";

/// The disks that there were at any look, by `major:minor`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Disks(BTreeMap<String, Disk>);

/// One disk or partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its name.
    pub name: String,
    /// The file that a loop device lies on.
    pub backing_file: Option<String>,
    /// `major:minor` of the device that this file lies on.
    pub backing_device: Option<String>,
    /// The latency that writeback throttling keeps reads below, in microseconds; `None` where there is none.
    pub wbt_target_us: Option<u64>,
}

impl Disks {
    /// Looks; what was known already stays, for a loop device may be gone when a report is made.
    pub fn look(&mut self) {
        self.look_in(Path::new(BLOCK));
    }

    fn look_in(&mut self, block: &Path) {
        let entries = fs::read_dir(block).into_iter().flatten().flatten();
        for folder in entries.map(|entry| entry.path()) {
            let (Some(id), Some(name)) = (line(&folder.join("dev")), folder.file_name()) else { continue };
            let name = name.to_string_lossy().into_owned();
            for (id, name) in partitions(&folder, &name) {
                self.0
                    .insert(id, Disk { name, backing_file: None, backing_device: None, wbt_target_us: None });
            }
            let backing_file = line(&folder.join("loop/backing_file"));
            let is_known = self.0.get(&id).is_some_and(|known| known.backing_file.is_some());
            if backing_file.is_none() && is_known {
                continue;
            }
            let backing_device = backing_file.as_deref().and_then(device_of_file);
            let target = line(&folder.join("queue/wbt_lat_usec"));
            let wbt_target_us = target.and_then(|text| text.parse().ok()).filter(|target| *target > 0);
            self.0.insert(id, Disk { name, backing_file, backing_device, wbt_target_us });
        }
    }

    /// What is known of `major:minor`.
    pub fn get(&self, device: &str) -> Option<&Disk> {
        self.0.get(device)
    }

    /// The name of `major:minor`, or that again.
    pub fn name(&self, device: &str) -> String {
        self.get(device).map_or_else(|| device.to_owned(), |disk| disk.name.clone())
    }
}

impl FromIterator<(String, Disk)> for Disks {
    fn from_iter<I: IntoIterator<Item = (String, Disk)>>(disks: I) -> Self {
        Self(disks.into_iter().collect())
    }
}

/// `major:minor` and name of a disk's partitions.
fn partitions(disk: &Path, name: &str) -> Vec<(String, String)> {
    let entries = fs::read_dir(disk).into_iter().flatten().flatten();
    let of_disk = entries.filter_map(|entry| {
        let partition = entry.file_name().to_string_lossy().into_owned();
        let is_partition = partition.starts_with(name) && entry.path().join("partition").exists();
        is_partition.then_some(())?;
        Some((line(&entry.path().join("dev"))?, partition))
    });
    of_disk.collect()
}

fn device_of_file(path: &str) -> Option<String> {
    let device = fs::metadata(PathBuf::from(path)).ok()?.dev();
    Some(format!("{}:{}", major(device), minor(device)))
}

fn line(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_partitions_and_loop_devices_are_named_and_stay_known() {
        let block = tempfile::tempdir().unwrap();
        let file = |path: &str, text: &str| {
            let path = block.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        file("sda/dev", "8:0\n");
        file("sda/queue/wbt_lat_usec", "75000\n");
        file("sda/sda1/dev", "8:1\n");
        file("sda/sda1/partition", "1\n");
        file("loop0/dev", "7:0\n");
        file("loop0/queue/wbt_lat_usec", "0\n");
        file("loop0/loop/backing_file", "/no/such/image\n");
        let mut disks = Disks::default();
        disks.look_in(block.path());
        assert_eq!(
            (disks.name("8:0"), disks.name("8:1"), disks.name("9:9")),
            ("sda".into(), "sda1".into(), "9:9".into())
        );
        assert_eq!(disks.get("8:0").unwrap().wbt_target_us, Some(75_000));
        assert_eq!(disks.get("7:0").unwrap().wbt_target_us, None);
        fs::remove_file(block.path().join("loop0/loop/backing_file")).unwrap();
        disks.look_in(block.path());
        assert_eq!(disks.get("7:0").unwrap().backing_file.as_deref(), Some("/no/such/image"));
    }
}
