//! The Firecracker binary that microVMs run on.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, io};

use super::support::Support;

/// A Firecracker binary that answered with its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firecracker {
    /// Its path.
    pub path: PathBuf,
    /// Its version, as `major.minor.patch`.
    pub version: String,
    /// The version of the snapshots that it writes, where it says.
    pub snapshot_format: Option<String>,
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
    /// Its version is not one that the daemon works with.
    #[error(
        "Firecracker {version} ({}) is not supported ({}): name another with --firecracker, or use this one at \
         your own risk with --allow-unsupported-firecracker",
        path.display(), Support::versions()
    )]
    Unsupported {
        /// The binary.
        path: PathBuf,
        /// Its version.
        version: String,
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
        let output = output_of(&path, "--version")?;
        let Some(version) = version_of(&output).map(str::to_owned) else {
            return Err(HostError::NotFirecracker { path, output: output.chars().take(200).collect() });
        };
        let snapshot_format = format_of(&output_of(&path, "--snapshot-version")?).map(str::to_owned);
        Ok(Self { path, version, snapshot_format })
    }

    /// What is known of its version.
    pub fn support(&self) -> Support {
        Support::of(&self.version)
    }

    /// Refuses a version that is not supported unless it is `allowed`, and warns of one that is not tested.
    pub fn check_support(&self, allowed: bool) -> Result<(), HostError> {
        let (version, path) = (self.version.clone(), self.path.clone());
        match self.support() {
            Support::Tested => {}
            Support::Unsupported if !allowed => return Err(HostError::Unsupported { path, version }),
            Support::Accepted | Support::Unsupported => {
                tracing::warn!(
                    version,
                    "forkd is not tested with this Firecracker ({})",
                    Support::versions()
                );
            }
        }
        Ok(())
    }
}

fn output_of(path: &Path, argument: &str) -> Result<String, HostError> {
    let run = Command::new(path).arg(argument).output();
    let output = run.map_err(|source| HostError::Run { path: path.to_owned(), source })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
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

/// `v6.0.0`, in the first line; before Firecracker 1.7 there is no such option.
fn format_of(output: &str) -> Option<&str> {
    let version = output.lines().next()?.trim().strip_prefix('v')?;
    version.starts_with(|digit: char| digit.is_ascii_digit()).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::{format_of, version_of};

    #[test]
    fn the_snapshot_format_is_the_first_line_where_it_is_a_version() {
        assert_eq!(format_of("v6.0.0\n2026 exiting\n"), Some("6.0.0"));
        assert_eq!(format_of("Arguments parsing error\n"), None);
        assert_eq!(format_of("version\n"), None);
        assert_eq!(format_of(""), None);
    }

    #[test]
    fn the_version_line_is_found_among_others_and_nothing_else_is_taken_for_it() {
        assert_eq!(version_of("Firecracker v1.12.1\n\n2026 exiting\n"), Some("1.12.1"));
        assert_eq!(version_of("Firecracker v1.13.0-dev\n"), Some("1.13.0-dev"));
        assert_eq!(version_of("GNU bash, version 5.2\n"), None);
        assert_eq!(version_of("Firecracker vnext\n"), None);
        assert_eq!(version_of(""), None);
    }
}
