//! The programs of this repository, and those of this host that they call, put into an image.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use testkit::{linux_guest, on_path};

use super::image::Image;
use crate::{process, setup, workspace};

/// Our programs.
pub const OURS: [&str; 3] = ["forkd", "forkd-probe", "forkd-bench"];

/// Programs of this host that ours call; where busybox has one of the same name, it can less.
const HOST_TOOLS: [&str; 8] =
    ["mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "mount", "umount", "losetup", "ip", "setpriv"];

/// Builds our programs and adds them, Firecracker, and what they call.
pub fn add_all(image: &mut Image, release: bool) -> Result<()> {
    build(release)?;
    for name in OURS {
        image.program(&built(name, release))?;
    }
    add_surroundings(image)?;
    add_linux_guest(image).map(drop)
}

/// Adds Firecracker and the host's tools.
pub fn add_surroundings(image: &mut Image) -> Result<()> {
    if let Ok(firecracker) = setup::firecracker() {
        image.program(&fs::canonicalize(&firecracker)?)?;
    }
    for tool in HOST_TOOLS.iter().filter_map(|name| on_path(name)) {
        add_tool(image, &tool)?;
    }
    Ok(())
}

/// Adds the Linux guest, where it was built; gives the variables by which tests find it, with their values.
pub fn add_linux_guest(image: &mut Image) -> Result<Vec<(&'static str, PathBuf)>> {
    let (kernel, initrd) = linux_guest();
    if !kernel.is_file() || !initrd.is_file() {
        return Ok(Vec::new());
    }
    let mut named = Vec::new();
    for (name, file) in [("FORKD_LINUX_KERNEL", kernel), ("FORKD_LINUX_INITRD", initrd)] {
        let path = fs::canonicalize(file)?;
        image.copy(&path, &path.to_string_lossy())?;
        named.push((name, path));
    }
    Ok(named)
}

/// Adds a file of this host under its own path; a program with its libraries.
pub fn add_file(image: &mut Image, path: &Path) -> Result<()> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if is_program(&bytes) { image.program(path) } else { image.copy(path, &path.to_string_lossy()) }
}

/// Whether a file is an ELF program or library for x86_64, and not, say, one for the kernel's own machine.
fn is_program(bytes: &[u8]) -> bool {
    const EXECUTABLE_OR_SHARED: [u8; 2] = [2, 3];
    const X86_64: u8 = 62;
    bytes.starts_with(b"\x7fELF")
        && bytes.get(16).is_some_and(|kind| EXECUTABLE_OR_SHARED.contains(kind))
        && bytes.get(18) == Some(&X86_64)
}

/// Where cargo puts one of our programs.
pub fn built(name: &str, release: bool) -> PathBuf {
    workspace::target_dir().join(if release { "release" } else { "debug" }).join(name)
}

fn add_tool(image: &mut Image, tool: &Path) -> Result<()> {
    image.program_as(&fs::canonicalize(tool)?, &tool.file_name().unwrap_or_default().to_string_lossy())
}

fn build(release: bool) -> Result<()> {
    let mut cargo = workspace::cargo();
    // With the features of the whole workspace, as everything else is built.
    cargo.args(["build", "--workspace", "--locked"]);
    if release {
        cargo.arg("--release");
    }
    for name in OURS {
        cargo.args(["--bin", name]);
    }
    process::run(&mut cargo)
}
