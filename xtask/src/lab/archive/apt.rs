//! What this host's apt knows of the archive, and what it brings from there.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use testkit::{Need, on_path};

use super::Package;
use crate::process;

/// A host's view of the archive.
pub trait Apt {
    /// The packages that the archive offers under names that match, with each of their versions.
    fn offered(&self, pattern: &str) -> Result<Vec<Package>>;
    /// Brings the lists of what is offered up to date.
    fn update(&self) -> Result<Lists>;
    /// Downloads the one package that `wanted` names as `apt-get` takes it into `folder`, without installing it.
    fn download(&self, wanted: &str, folder: &Path) -> Result<()>;
}

/// The lists of packages after they were to be brought up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lists {
    /// They may have changed.
    Updated,
    /// This process has brought them up to date before.
    UpToDate,
    /// Only root can do that.
    NeedRoot,
}

/// The apt of this host.
pub struct System;

impl Apt for System {
    fn offered(&self, pattern: &str) -> Result<Vec<Package>> {
        if on_path("apt-get").is_none() {
            bail!("what the lab takes are Debian packages, and this host has no apt-get to fetch them");
        }
        let names = process::output(Command::new("apt-cache").args(["search", "--names-only", pattern]))?;
        let names: Vec<&str> = names.lines().filter_map(|line| line.split_whitespace().next()).collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        Ok(parse_madison(&process::output(Command::new("apt-cache").arg("madison").args(names))?))
    }

    fn update(&self) -> Result<Lists> {
        static IS_DONE: AtomicBool = AtomicBool::new(false);
        if Need::Root.missing().is_some() {
            return Ok(Lists::NeedRoot);
        }
        if IS_DONE.swap(true, Ordering::SeqCst) {
            return Ok(Lists::UpToDate);
        }
        process::run(Command::new("apt-get").args(["update", "--quiet"]))?;
        Ok(Lists::Updated)
    }

    fn download(&self, wanted: &str, folder: &Path) -> Result<()> {
        // The sandbox user may not write here, and a signature guards the file whoever fetches it.
        let arguments = ["-o", "APT::Sandbox::User=root", "download", wanted];
        process::run(Command::new("apt-get").current_dir(folder).args(arguments))
    }
}

/// Reads lines of the form `package | version | source`.
fn parse_madison(text: &str) -> Vec<Package> {
    let parse = |line: &str| {
        let mut fields = line.split('|').map(str::trim);
        Some(Package { name: fields.next()?.to_owned(), version: Some(fields.next()?.to_owned()) })
    };
    let mut packages: Vec<Package> = text.lines().filter_map(parse).collect();
    packages.dedup();
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_apt_cache_prints() {
        let text =
            " linux-a |  6.1.1-1 | http://debian Packages\n linux-a |  6.1.1-1 | http://security Packages\n";
        assert_eq!(
            parse_madison(text),
            [Package { name: "linux-a".into(), version: Some("6.1.1-1".into()) }]
        );
    }
}
