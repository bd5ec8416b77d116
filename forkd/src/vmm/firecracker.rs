//! The Firecracker binary that microVMs run on.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, io};

/// A Firecracker binary that answered with its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firecracker {
    /// Its path.
    pub path: PathBuf,
    /// Its version, as `major.minor.patch`.
    pub version: String,
}

/// Why this host cannot run microVMs.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// There is no binary.
    #[error("no firecracker on PATH: name one with --firecracker, or run `cargo xtask setup` to get one")]
    NoBinary,
    /// The binary does not run.
    #[error("cannot run {}: {source}", path.display())]
    Run {
        /// The binary.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The binary is something else.
    #[error("{} --version does not print a Firecracker version, but {output:?}", path.display())]
    NotFirecracker {
        /// The binary.
        path: PathBuf,
        /// What it printed.
        output: String,
    },
    /// No hardware virtualisation, or no right to use it.
    #[error(
        "cannot open /dev/kvm: {0}: run on a host with KVM (modprobe kvm_intel or kvm_amd), as root or in group kvm"
    )]
    Kvm(io::Error),
}

impl Firecracker {
    /// Finds the binary: `named`, else the first on `PATH`; and asks it for its version.
    pub fn find(named: Option<&Path>) -> Result<Self, HostError> {
        let path = match named {
            Some(path) => path.to_owned(),
            None => env::split_paths(&env::var_os("PATH").unwrap_or_default())
                .map(|dir| dir.join("firecracker"))
                .find(|path| path.is_file())
                .ok_or(HostError::NoBinary)?,
        };
        let path = path.canonicalize().map_err(|source| HostError::Run { path: path.clone(), source })?;
        let output = Command::new(&path)
            .arg("--version")
            .output()
            .map_err(|source| HostError::Run { path: path.clone(), source })?;
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        match version_of(&output) {
            Some(version) => Ok(Self { version: version.to_owned(), path }),
            None => Err(HostError::NotFirecracker { path, output: output.chars().take(200).collect() }),
        }
    }
}

/// Whether this process may start virtual machines.
pub fn check_kvm() -> Result<(), HostError> {
    OpenOptions::new().read(true).write(true).open("/dev/kvm").map(drop).map_err(HostError::Kvm)
}

fn version_of(output: &str) -> Option<&str> {
    let version = output.lines().find_map(|line| line.strip_prefix("Firecracker v"))?.trim();
    version
        .split('.')
        .take(3)
        .all(|part| part.starts_with(|digit: char| digit.is_ascii_digit()))
        .then_some(version)
}

#[cfg(test)]
mod tests {
    use super::version_of;

    #[test]
    fn the_version_line_is_found_among_others_and_nothing_else_is_taken_for_it() {
        assert_eq!(version_of("Firecracker v1.12.1\n\n2026 exiting\n"), Some("1.12.1"));
        assert_eq!(version_of("Firecracker v1.13.0-dev\n"), Some("1.13.0-dev"));
        assert_eq!(version_of("GNU bash, version 5.2\n"), None);
        assert_eq!(version_of("Firecracker vnext\n"), None);
        assert_eq!(version_of(""), None);
    }
}
