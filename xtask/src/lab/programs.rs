//! The programs of this repository, and those of this host that they call, put into an image.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use testkit::{linux_guest, on_path};

use super::image::Image;
use crate::{process, setup, workspace};

/// Our programs.
pub const OURS: [&str; 3] = ["forkd", "forkd-probe", "forkd-bench"];

/// Programs of this host that ours call; where busybox has one of the same name, it can less.
const HOST_TOOLS: [&str; 10] = [
    "mkfs.ext4",
    "mkfs.xfs",
    "mkfs.btrfs",
    "mount",
    "umount",
    "losetup",
    "ip",
    "setpriv",
    "fsfreeze",
    "filefrag",
];

/// Builds our programs and adds them.
pub fn add_ours(image: &mut Image, release: bool) -> Result<()> {
    build(release)?;
    OURS.iter().try_for_each(|name| image.program(&built(name, release)))
}

/// Refuses a command that will not be in the machine, before ours are built: of what is not in the image yet, only they
/// come to it.
pub fn check_command(image: &Image, command: &str, release: bool) -> Result<()> {
    let is_ours = |name: &str| {
        command == name || command == format!("/lab/bin/{name}") || Path::new(command) == built(name, release)
    };
    if image.find(command).is_some() || OURS.iter().any(|name| is_ours(name)) {
        return Ok(());
    }
    let mut there: Vec<&str> = OURS.into_iter().chain(image.programs()).collect();
    there.sort_unstable();
    bail!(
        "{command} is not in the machine: --with FILE puts one in; there are {} and busybox's",
        there.join(", ")
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_will_not_be_in_the_machine_is_refused_before_anything_is_built() {
        let mut image = Image::default();
        image.text("/bin/sh", "");
        image.text("/lab/bin/firecracker", "");
        let debug = built("forkd", false).to_string_lossy().into_owned();
        for command in ["sh", "/bin/sh", "firecracker", "forkd", "/lab/bin/forkd-probe", &debug] {
            check_command(&image, command, false).unwrap();
        }
        assert!(check_command(&image, &debug, true).is_err(), "the other build is not put in");
        assert_eq!(
            check_command(&image, "nonsense", false).unwrap_err().to_string(),
            "nonsense is not in the machine: --with FILE puts one in; there are firecracker, forkd, forkd-bench, \
             forkd-probe and busybox's"
        );
    }
}
