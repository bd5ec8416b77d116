//! A fresh ext4 file system on a loop device, gone again when dropped.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An ext4 file system of its own for one test.
#[derive(Debug)]
pub struct LoopExt4 {
    dir: PathBuf,
}

impl LoopExt4 {
    /// Makes one of `mib` MiB below `parent`; `features` goes to `mkfs.ext4 -O` where it is not empty.
    pub fn mount(parent: &Path, mib: u64, features: &str) -> io::Result<Self> {
        let this = Self { dir: parent.to_owned() };
        File::create(this.image())?.set_len(mib << 20)?;
        fs::create_dir(this.path())?;
        let mut mkfs = Command::new(crate::on_path("mkfs.ext4").unwrap_or_else(|| "mkfs.ext4".into()));
        mkfs.args(["-q", "-F"]);
        if !features.is_empty() {
            mkfs.args(["-O", features]);
        }
        run(mkfs.arg(this.image()))?;
        // The kernel detaches a device that mount attached when it is unmounted.
        run(Command::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(this.image()).arg(this.path()))?;
        Ok(this)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.join("ext4")
    }

    fn image(&self) -> PathBuf {
        self.dir.join("ext4.img")
    }
}

impl Drop for LoopExt4 {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("umount").arg(self.path())) {
            eprintln!("left mounted: {error}");
        }
    }
}

/// Runs a command; what it printed is the error where it fails.
pub fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("{:?}: {said}", command.get_program())))
}
