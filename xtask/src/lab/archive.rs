//! Packages of the Debian archive, fetched once and unpacked beside each other; nothing is installed.

use std::cmp::Ordering;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use testkit::{Need, on_path};

use super::kernels::Kernel;
use crate::process;

/// A package of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version; `None` where any will do.
    pub version: Option<String>,
}

/// Packages that were fetched, below one folder.
pub struct Archive {
    folder: PathBuf,
    /// Take the nearest kernel where the pinned one is gone.
    takes_nearest: bool,
}

impl Archive {
    /// Keeps packages in `folder`.
    pub fn new(folder: PathBuf, takes_nearest: bool) -> Self {
        Self { folder, takes_nearest }
    }

    /// Where the package of a pinned kernel is unpacked. One that has left the archive is refused with the name of
    /// the nearest, which is taken instead only where that was asked for.
    pub fn kernel(&self, kernel: &Kernel) -> Result<PathBuf> {
        let pinned = Package { name: kernel.package.into(), version: Some(kernel.version.into()) };
        match self.unpacked(&pinned)? {
            Some(root) => Ok(root),
            None => self.nearest_to(kernel, &pinned),
        }
    }

    /// Where the newest package of that name is unpacked.
    pub fn any_version(&self, name: &str) -> Result<PathBuf> {
        let package = Package { name: name.into(), version: None };
        self.unpacked(&package)?.with_context(|| format!("the archive has no {name}"))
    }

    fn nearest_to(&self, kernel: &Kernel, pinned: &Package) -> Result<PathBuf> {
        let offered = offered(&series_pattern(kernel))?;
        let Some(nearest) = nearest(kernel.version, &offered) else {
            bail!("{pinned} is gone from the archive, and there is no other Linux {}", kernel.name);
        };
        if !self.takes_nearest {
            bail!(
                "{pinned} is gone from the archive. The nearest there is {nearest}: take it with --nearest, or pin it \
                 in xtask/src/lab/kernels.rs"
            );
        }
        println!("lab: {pinned} is gone from the archive, taking {nearest}");
        self.unpacked(nearest)?.with_context(|| format!("{nearest} cannot be fetched"))
    }

    /// Where the package is unpacked, after it was fetched if need be; `None` where the archive has it not.
    fn unpacked(&self, package: &Package) -> Result<Option<PathBuf>> {
        let place = self.folder.join(package.folder_name());
        let root = place.join("root");
        if root.is_dir() {
            verify(&place)?;
            return Ok(Some(root));
        }
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot create {}", self.folder.display()))?;
        let staging = tempfile::Builder::new().prefix(".fetch-").tempdir_in(&self.folder)?;
        let Some(file) = download(package, staging.path())? else { return Ok(None) };
        let sum = sha256(&file)?;
        fs::write(staging.path().join("sha256"), format!("{sum}  {}\n", file_name(&file)))?;
        process::run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(staging.path().join("root")))?;
        match fs::rename(staging.path(), &place) {
            Ok(()) => drop(staging.keep()),
            // Another run was faster.
            Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {
            }
            Err(error) => return Err(error).with_context(|| format!("cannot create {}", place.display())),
        }
        println!("lab: fetched {package} (sha256 {sum})");
        Ok(Some(root))
    }
}

impl Package {
    fn folder_name(&self) -> String {
        let version = self.version.as_deref().unwrap_or("any");
        format!("{}_{}", self.name, version.replace(['/', ':'], "_"))
    }
}

impl std::fmt::Display for Package {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.version {
            Some(version) => write!(f, "{} {version}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Compares the kept package with the digest that was written down when it was fetched.
fn verify(place: &Path) -> Result<()> {
    let note = place.join("sha256");
    let text = fs::read_to_string(&note).with_context(|| format!("cannot read {}", note.display()))?;
    let (sum, name) =
        text.trim().split_once("  ").with_context(|| format!("{} is damaged", note.display()))?;
    let now = sha256(&place.join(name))?;
    ensure!(now == sum, "{} has changed since it was fetched: delete that folder", place.display());
    Ok(())
}

/// Downloads into `folder`, without installing; `None` where the archive does not have the package.
fn download(package: &Package, folder: &Path) -> Result<Option<PathBuf>> {
    if on_path("apt-get").is_none() {
        bail!("the lab's kernels are Debian packages, and this host has no apt-get to fetch {package}");
    }
    if offered(&format!("^{}$", escape(&package.name)))?.is_empty() && Need::Root.missing().is_none() {
        // A container begins without lists of packages, and old lists name what is gone.
        process::run(Command::new("apt-get").args(["update", "--quiet"]))?;
    }
    let known = offered(&format!("^{}$", escape(&package.name)))?;
    if !known.iter().any(|one| package.version.is_none() || one.version == package.version) {
        return Ok(None);
    }
    let wanted = match &package.version {
        Some(version) => format!("{}={version}", package.name),
        None => package.name.clone(),
    };
    // The sandbox user may not write here, and a signature guards the file whoever fetches it.
    let mut fetch = Command::new("apt-get");
    process::run(fetch.current_dir(folder).args(["-o", "APT::Sandbox::User=root", "download", &wanted]))?;
    let mut files = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let deb = files.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    Ok(Some(deb.with_context(|| format!("apt-get download left no package of {wanted}"))?))
}

/// The packages that the archive offers under names that match, with each of their versions.
fn offered(pattern: &str) -> Result<Vec<Package>> {
    let names = process::output(Command::new("apt-cache").args(["search", "--names-only", pattern]))?;
    let names: Vec<&str> = names.lines().filter_map(|line| line.split_whitespace().next()).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    Ok(parse_madison(&process::output(Command::new("apt-cache").arg("madison").args(names))?))
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

/// The names of Debian's cloud kernels of the same series.
fn series_pattern(kernel: &Kernel) -> String {
    format!("^linux-image-{}\\.[0-9].*-cloud-amd64$", escape(kernel.name))
}

fn escape(name: &str) -> String {
    name.replace('.', "\\.").replace('+', "\\+")
}

/// The first version after `version`, else the last before it.
fn nearest<'a>(version: &str, offered: &'a [Package]) -> Option<&'a Package> {
    let order = |package: &&Package| compare(package.version.as_deref().unwrap_or_default(), version);
    let by_version = |a: &&Package, b: &&Package| {
        compare(a.version.as_deref().unwrap_or_default(), b.version.as_deref().unwrap_or_default())
    };
    let later = offered.iter().filter(|package| order(package) != Ordering::Less).min_by(by_version);
    later.or_else(|| offered.iter().max_by(by_version))
}

/// Orders versions of kernel packages: numbers as numbers, and what stands between them as text.
fn compare(a: &str, b: &str) -> Ordering {
    let parts = |text: &str| -> Vec<(String, u64)> {
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let (between, from_digits) = rest.split_at(digits);
            let end = from_digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(from_digits.len());
            parts.push((between.to_owned(), from_digits[..end].parse().unwrap_or(0)));
            rest = &from_digits[end..];
        }
        parts
    };
    parts(a).cmp(&parts(b))
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn sha256(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(format!("{:x}", Sha256::digest(&bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(versions: &[&str]) -> Vec<Package> {
        let package = |version: &&str| Package {
            name: format!("linux-{version}"),
            version: Some((*version).to_owned()),
        };
        versions.iter().map(package).collect()
    }

    #[track_caller]
    fn check_nearest(pinned: &str, offered: &[&str], expected: Option<&str>) {
        let offered = packages(offered);
        let found = nearest(pinned, &offered).and_then(|package| package.version.as_deref());
        assert_eq!(found, expected);
    }

    #[test]
    fn the_nearest_kernel_is_the_next_one_and_else_the_last() {
        check_nearest("6.1.192-2", &["6.1.90-1", "6.1.193-1", "6.1.1000-1"], Some("6.1.193-1"));
        check_nearest("6.1.192-2", &["6.1.90-1", "6.1.191-1"], Some("6.1.191-1"));
        check_nearest("6.1.192-2", &["6.1.192-10", "6.1.192-3"], Some("6.1.192-3"));
        check_nearest("6.1.192-2", &[], None);
    }

    #[test]
    fn versions_are_read_from_what_apt_cache_prints() {
        let text =
            " linux-a |  6.1.1-1 | http://debian Packages\n linux-a |  6.1.1-1 | http://security Packages\n";
        assert_eq!(
            parse_madison(text),
            [Package { name: "linux-a".into(), version: Some("6.1.1-1".into()) }]
        );
    }

    #[test]
    fn a_kept_package_that_changed_is_refused() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("a.deb"), "abc").unwrap();
        let sum = sha256(&place.path().join("a.deb")).unwrap();
        fs::write(place.path().join("sha256"), format!("{sum}  a.deb\n")).unwrap();
        verify(place.path()).unwrap();
        fs::write(place.path().join("a.deb"), "abd").unwrap();
        assert!(verify(place.path()).unwrap_err().to_string().contains("has changed since it was fetched"));
    }
}
