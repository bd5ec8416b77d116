//! Block devices below a file system.

use std::fs;
use std::path::{Path, PathBuf};

use reports::run::Device;

/// The whole disk (not the partition) with this `major:minor`; `None` where no block device has it, as below
/// tmpfs or btrfs.
pub fn by_number(number: &str) -> Option<Device> {
    let link = PathBuf::from("/sys/dev/block").join(number);
    let mut folder = link.canonicalize().ok()?;
    if folder.join("partition").exists() {
        folder.pop();
    }
    let name = folder.file_name()?.to_str()?.to_owned();
    Some(Device { name, wbt_lat_usec: number_in(&folder.join("queue/wbt_lat_usec")) })
}

/// The file behind the loop device `name`.
pub fn loop_file(name: &str) -> Option<PathBuf> {
    let path = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()?;
    let path = path.trim_end_matches('\n');
    Some(PathBuf::from(path.strip_suffix(" (deleted)").unwrap_or(path)))
}

/// Loop devices that are free, and all that there are.
pub fn loops() -> (usize, usize) {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let names = devices.filter_map(|device| device.file_name().into_string().ok());
    let all: Vec<String> = names.filter(|name| name.starts_with("loop")).collect();
    (all.iter().filter(|name| loop_file(name).is_none()).count(), all.len())
}

/// Bytes that the device `name` has been told to write since it was made.
pub fn written_bytes(name: &str) -> Option<u64> {
    /// Units of this file, whatever the device's own sectors are (Documentation/block/stat.rst).
    const SECTOR_BYTES: u64 = 512;
    let stat = fs::read_to_string(PathBuf::from("/sys/block").join(name).join("stat")).ok()?;
    // The seventh field: write sectors.
    Some(stat.split_whitespace().nth(6)?.parse::<u64>().ok()? * SECTOR_BYTES)
}

/// Names of the loop devices whose file lies below `folder`.
pub fn loops_below(folder: &Path) -> Vec<String> {
    let Ok(devices) = fs::read_dir("/sys/block") else { return Vec::new() };
    let names = devices.flatten().filter_map(|device| device.file_name().into_string().ok());
    names.filter(|name| loop_file(name).is_some_and(|file| file.starts_with(folder))).collect()
}

fn number_in(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
