//! Debian packages: which are missing, and their installation.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use testkit::{Need, on_path};

use super::Item;
use crate::process;

/// A Debian package, known by something that it brings.
pub struct Package {
    name: &'static str,
    proof: Proof,
}

enum Proof {
    Program(&'static str),
    File(&'static str),
}

/// The package that brings `python3 -m pip`; needed only to fetch Firecracker.
pub const PIP: &str = "python3-pip";

const PACKAGES: [Package; 9] = [
    Package { name: "gcc", proof: Proof::Program("cc") },
    Package { name: "libc6-dev", proof: Proof::File("/usr/include/stdio.h") },
    Package { name: "ca-certificates", proof: Proof::File("/etc/ssl/certs/ca-certificates.crt") },
    Package { name: "e2fsprogs", proof: Proof::Program("mkfs.ext4") },
    Package { name: "xfsprogs", proof: Proof::Program("mkfs.xfs") },
    Package { name: "btrfs-progs", proof: Proof::Program("mkfs.btrfs") },
    Package { name: "util-linux", proof: Proof::Program("losetup") },
    Package { name: "mount", proof: Proof::Program("mount") },
    Package { name: "iproute2", proof: Proof::Program("ip") },
];

/// What the lab takes to unpack kernels and to run them.
const LAB_PACKAGES: [Package; 5] = [
    Package { name: "qemu-system-x86", proof: Proof::Program("qemu-system-x86_64") },
    Package { name: "kmod", proof: Proof::Program("depmod") },
    Package { name: "xz-utils", proof: Proof::Program("xz") },
    Package { name: "zstd", proof: Proof::Program("zstd") },
    Package { name: "binutils", proof: Proof::Program("strip") },
];

/// Names of the packages that the host lacks.
pub fn missing() -> Vec<&'static str> {
    names_of_missing(&PACKAGES)
}

/// Names of the packages that the lab lacks here.
pub fn missing_for_lab() -> Vec<&'static str> {
    names_of_missing(&LAB_PACKAGES)
}

fn names_of_missing(packages: &[Package]) -> Vec<&'static str> {
    packages.iter().filter(|package| package.found().is_none()).map(|package| package.name).collect()
}

/// One line per package.
pub fn survey() -> Vec<Item> {
    PACKAGES
        .iter()
        .chain(&LAB_PACKAGES)
        .map(|package| Item {
            name: package.name.to_owned(),
            found: package.found().ok_or_else(|| remedy(&[package.name])),
        })
        .collect()
}

/// Whether `python3 -m pip` works.
pub fn has_pip() -> bool {
    process::output(Command::new("python3").args(["-m", "pip", "--version"])).is_ok()
}

/// Installs `packages`, or fails with the command that would.
pub fn install(packages: &[&str]) -> Result<()> {
    if on_path("apt-get").is_none() || Need::Root.missing().is_some() {
        bail!("missing: {}: {}", packages.join(" "), remedy(packages));
    }
    println!("installing Debian packages: {}", packages.join(" "));
    let apt_get = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    process::run(apt_get().args(["update", "--quiet"]))?;
    process::run(apt_get().args(["install", "--quiet", "--yes", "--no-install-recommends"]).args(packages))
        .context("Debian packages were not installed")
}

/// The command that installs `packages`, as root; what to look for elsewhere than on Debian.
pub fn remedy(packages: &[&str]) -> String {
    let packages = packages.join(" ");
    if on_path("apt-get").is_some() {
        format!("as root, `apt-get update && apt-get install --no-install-recommends {packages}`")
    } else {
        format!("this host has no apt-get; install what Debian calls {packages}")
    }
}

impl Package {
    /// Where what it brings was found.
    fn found(&self) -> Option<String> {
        match self.proof {
            Proof::Program(program) => on_path(program).map(|path| path.display().to_string()),
            Proof::File(path) => Path::new(path).exists().then(|| path.to_owned()),
        }
    }
}
