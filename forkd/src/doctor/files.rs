//! The file systems that snapshots and running microVMs lie on.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;

use super::parse::{Mount, mount_of};
use super::{Check, human};
use crate::snapshot::probe::{shares_blocks, tells_data_from_holes};

/// Less than a few guests need.
const LITTLE_ROOT_BYTES: u64 = 4 << 30;
/// Sockets and logs.
const LITTLE_RUN_BYTES: u64 = 64 << 20;

pub fn checks(snapshot_root: &Path, run_dir: &Path) -> Vec<Check> {
    let mut checks = vec![directory("snapshot root", snapshot_root)];
    let root = existing(snapshot_root);
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if let Some(mount) = root.canonicalize().ok().and_then(|root| mount_of(&mountinfo, &root)) {
        checks.push(file_system(&mount));
        checks.extend(throttle(&mount));
    }
    checks.push(reflinks(&root));
    checks.push(holes(&root));
    checks.push(space("space for snapshots", &root, LITTLE_ROOT_BYTES));
    checks.push(directory("run directory", run_dir));
    checks.push(space("space for running VMs", &existing(run_dir), LITTLE_RUN_BYTES));
    checks
}

/// The directory itself, or the nearest one above it that is there, in which it would be made.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

fn directory(name: &str, path: &Path) -> Check {
    let there = existing(path);
    match tempfile::tempfile_in(&there) {
        Ok(_) if there == path => Check::ok(name, path.display().to_string()),
        Ok(_) => Check::ok(name, format!("{} can be made", path.display())),
        Err(error) => {
            let found = format!("{} cannot be written to: {error}", there.display());
            Check::missing(name, found, "run as root, or choose another directory")
        }
    }
}

fn file_system(mount: &Mount) -> Check {
    const NAME: &str = "file system";
    let found = format!("{} at {} ({})", mount.file_system, mount.point.display(), mount.options.join(","));
    let network = ["nfs", "nfs4", "cifs", "9p", "fuse", "fuse.sshfs"];
    if mount.options.iter().any(|option| option == "ro") {
        return Check::missing(NAME, found, format!("mount -o remount,rw {}", mount.point.display()));
    }
    if network.contains(&mount.file_system.as_str()) {
        return Check::warn(
            NAME,
            found,
            "put the snapshots on a local file system (xfs or btrfs share blocks)",
        );
    }
    if mount.options.iter().any(|option| option == "sync" || option == "dirsync") {
        return Check::warn(NAME, found, format!("mount -o remount,async {}", mount.point.display()));
    }
    Check::ok(NAME, found)
}

fn reflinks(root: &Path) -> Check {
    const NAME: &str = "shared blocks";
    const MEND: &str = "put the snapshots on xfs (mkfs.xfs, reflink=1) or btrfs: images then cost no copy";
    match shares_blocks(root) {
        Ok(true) => Check::ok(NAME, "files can share blocks (FICLONE): images of layers are made ahead"),
        Ok(false) => Check::warn(NAME, "files cannot share blocks: an image of a layer is a copy", MEND),
        Err(error) => Check::warn(NAME, format!("cannot be tried in {}: {error}", root.display()), MEND),
    }
}

fn holes(root: &Path) -> Check {
    const NAME: &str = "data and holes";
    const MEND: &str = "put the snapshots on ext4, xfs, btrfs or tmpfs";
    match tells_data_from_holes(root) {
        Ok(true) => Check::ok(NAME, "SEEK_DATA tells exactly what was written: diff BRANCHes work"),
        Ok(false) => Check::warn(NAME, "SEEK_DATA does not tell what was written: BRANCHes are full", MEND),
        Err(error) => Check::warn(NAME, format!("cannot be tried in {}: {error}", root.display()), MEND),
    }
}

/// Writeback throttling of the device below, where it has a queue of its own.
fn throttle(mount: &Mount) -> Option<Check> {
    const NAME: &str = "writeback throttle";
    let device = fs::canonicalize(format!("/sys/dev/block/{}", mount.device)).ok()?;
    // A partition has no queue; the disk that it lies on has.
    let queue =
        [device.join("queue"), device.parent()?.join("queue")].into_iter().find(|dir| dir.is_dir())?;
    let latency_us: i64 = fs::read_to_string(queue.join("wbt_lat_usec")).ok()?.trim().parse().ok()?;
    let disk = queue.parent()?.file_name()?.to_string_lossy().into_owned();
    Some(match latency_us {
        0 => Check::ok(NAME, format!("off for {disk}")),
        _ => Check::warn(
            NAME,
            format!("on for {disk} ({latency_us} us): slows pauses of every data path but stage"),
            format!("echo 0 > /sys/block/{disk}/queue/wbt_lat_usec"),
        ),
    })
}

fn space(name: &str, path: &Path, little_bytes: u64) -> Check {
    let mend = "free some, or choose a directory on a larger file system";
    match statvfs(path) {
        Ok(stat) => {
            let (free, all) = (stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize);
            let found = format!("{} free of {} at {}", human(free), human(all), path.display());
            if free < little_bytes { Check::warn(name, found, mend) } else { Check::ok(name, found) }
        }
        Err(error) => Check::warn(name, format!("{}: {error}", path.display()), mend),
    }
}
