//! File systems and folders made for one trial.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::throttle::Throttle;
use crate::Error;
use crate::cell::FileSystem;
use crate::host::{device, tools};
use crate::progress::say;
use crate::work::{Work, unmount};

/// A place of a trial's own. Dropping it takes it away again, with all that is in it.
#[derive(Debug)]
pub struct Mounted {
    point: PathBuf,
    is_mount: bool,
    _image: Option<Image>,
    throttle: Option<Throttle>,
}

/// A file that goes with its owner.
#[derive(Debug)]
struct Image(PathBuf);

impl Mounted {
    /// A fresh `file_system` in the sparse file `image`, on a loop device, mounted with `options`.
    pub fn on_loop(
        file_system: FileSystem,
        options: &[&str],
        image: &Path,
        point: &Path,
        bytes: u64,
    ) -> Result<Self, Error> {
        File::create(image).and_then(|file| file.set_len(bytes)).map_err(Error::file("create", image))?;
        let owned = Image(image.to_owned());
        let (program, quietly, package) = mkfs(file_system);
        tools::run(Command::new(program).args(quietly).arg(image), package)?;
        // `-o loop` sets autoclear: the kernel detaches the device with the unmount, whoever does that.
        let mut mount = Command::new("mount");
        mount.args(["-t", file_system.name(), "-o", &[&["loop"], options].concat().join(",")]).arg(image);
        Self::mount(&mut mount, point, Some(owned)).map_err(no_loop_device)
    }

    /// A fresh tmpfs that holds `bytes`.
    pub fn tmpfs(point: &Path, bytes: u64) -> Result<Self, Error> {
        let options = format!("size={bytes},mode=0700");
        Self::mount(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "forkd-bench"]), point, None)
    }

    /// A fresh folder below `parent`. A killed run leaves it behind: its name begins with `forkd-bench-`.
    pub fn folder(parent: &Path) -> Result<Self, Error> {
        let made = tempfile::Builder::new().prefix("forkd-bench-").tempdir_in(parent);
        let point = made.map_err(Error::file("make a folder in", parent))?.keep();
        Ok(Self { point, is_mount: false, _image: None, throttle: None })
    }

    /// Has the block device below, which has this `number`, take `bps` bytes a second at most each way.
    pub fn throttle(&mut self, work: &Work, number: &str, bps: u64) -> Result<(), Error> {
        self.throttle = Some(Throttle::set(work, number, bps)?);
        Ok(())
    }

    /// Where it is.
    pub fn point(&self) -> &Path {
        &self.point
    }

    fn mount(command: &mut Command, point: &Path, image: Option<Image>) -> Result<Self, Error> {
        fs::create_dir_all(point).map_err(Error::file("create", point))?;
        tools::run(command.arg(point), "mount")?;
        Ok(Self { point: point.to_owned(), is_mount: true, _image: image, throttle: None })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A throttled disk would take its time for what is about to go.
        self.throttle = None;
        // What is deleted first need not be written before the unmount: that saves gigabytes of it.
        let emptied = empty(&self.point);
        let gone = match self.is_mount {
            true => unmount(&self.point),
            false => emptied.and_then(|()| fs::remove_dir(&self.point)),
        };
        if let Err(error) = gone {
            say(format_args!("cannot take {} away: {error}; the next run tries again", self.point.display()));
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn empty(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// The program that makes it, how it is told to do so without a question, and where Debian has it.
fn mkfs(file_system: FileSystem) -> (&'static str, &'static [&'static str], &'static str) {
    match file_system {
        FileSystem::Ext4 => ("mkfs.ext4", &["-q", "-F"], "e2fsprogs"),
        FileSystem::Xfs => ("mkfs.xfs", &["-q", "-f"], "xfsprogs"),
        FileSystem::Btrfs => ("mkfs.btrfs", &["-q", "-f"], "btrfs-progs"),
    }
}

/// Says what to do where mount(8) failed for want of a loop device.
fn no_loop_device(error: Error) -> Error {
    match device::loops() {
        (0, all) if matches!(error, Error::Tool { .. }) => Error::Missing(format!(
            "all {all} loop devices are taken (losetup --all): detach one (losetup --detach), or measure on tmpfs"
        )),
        _ => error,
    }
}
