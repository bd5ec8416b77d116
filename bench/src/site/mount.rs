//! File systems made for one trial.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;
use crate::host::tools;
use crate::progress::say;
use crate::work::unmount;

/// A mounted file system. Dropping it unmounts it and removes its image.
#[derive(Debug)]
pub struct Mounted {
    point: PathBuf,
    _image: Option<Image>,
}

/// A file that goes with its owner.
#[derive(Debug)]
struct Image(PathBuf);

impl Mounted {
    /// A fresh ext4 with default options in the sparse file `image`, on a loop device.
    pub fn ext4_loop(image: &Path, point: &Path, bytes: u64) -> Result<Self, Error> {
        File::create(image).and_then(|file| file.set_len(bytes)).map_err(Error::file("create", image))?;
        let owned = Image(image.to_owned());
        tools::run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image), "e2fsprogs")?;
        // `-o loop` sets autoclear: the kernel detaches the device with the unmount, whoever does that.
        Self::mount(Command::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(image), point, Some(owned))
    }

    /// A fresh tmpfs that holds `bytes`.
    pub fn tmpfs(point: &Path, bytes: u64) -> Result<Self, Error> {
        let options = format!("size={bytes},mode=0700");
        Self::mount(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "forkd-bench"]), point, None)
    }

    /// Where it is mounted.
    pub fn point(&self) -> &Path {
        &self.point
    }

    fn mount(command: &mut Command, point: &Path, image: Option<Image>) -> Result<Self, Error> {
        fs::create_dir_all(point).map_err(Error::file("create", point))?;
        tools::run(command.arg(point), "mount")?;
        Ok(Self { point: point.to_owned(), _image: image })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.point) {
            say(format_args!("cannot unmount {}: {error}; the next run tries again", self.point.display()));
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
