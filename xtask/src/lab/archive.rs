//! Packages of the Debian archive, fetched once and unpacked beside each other; nothing is installed.

mod apt;

use std::cmp::Ordering;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use super::kernels::Kernel;
use crate::process;
use apt::{Apt, Lists};

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
    apt: Box<dyn Apt>,
}

impl Archive {
    /// Keeps packages in `folder`.
    pub fn new(folder: PathBuf, takes_nearest: bool) -> Self {
        Self { folder, takes_nearest, apt: Box::new(apt::System) }
    }

    /// Where the package of a pinned kernel is unpacked. One that has left the archive is refused with the name of
    /// the nearest, which is taken instead only where that was asked for.
    pub fn kernel(&self, kernel: &Kernel) -> Result<PathBuf> {
        let pinned = Package { name: kernel.package.into(), version: Some(kernel.version.into()) };
        if let Some(root) = self.kept(&pinned)? {
            return Ok(root);
        }
        if let Some((nearest, root)) = self.kept_in_place_of(&pinned)? {
            println!(
                "lab: {pinned} was gone from the archive, taking {nearest}, which was fetched in its place"
            );
            return Ok(root);
        }
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
        // The nearest may turn out to be gone as well, by lists that are newer then.
        for _ in 0..2 {
            let offered = self.apt.offered(&series_pattern(kernel))?;
            let Some(nearest) = nearest(kernel.version, &offered) else {
                bail!(
                    "{pinned} is gone from the archive, and there is no other Linux {}{}",
                    kernel.name,
                    self.doubt()?
                );
            };
            if !self.takes_nearest {
                bail!(
                    "{pinned} is gone from the archive{}. The nearest there is {nearest}: `cargo xtask lab run`, `shell`, \
                     `test` and `powercut` take it with --nearest, and every command does once it is pinned in \
                     xtask/src/lab/kernels.rs",
                    self.doubt()?
                );
            }
            println!("lab: {pinned} is gone from the archive, taking {nearest}");
            if let Some(root) = self.unpacked(nearest)? {
                self.keep_in_place_of(pinned, nearest)?;
                return Ok(root);
            }
        }
        bail!(
            "{pinned} is gone from the archive, and what it offers of Linux {} cannot be fetched",
            kernel.name
        )
    }

    /// What follows "gone from the archive" where that is not certain.
    fn doubt(&self) -> Result<&'static str> {
        Ok(match self.apt.update()? {
            Lists::Updated | Lists::UpToDate => "",
            Lists::NeedRoot => {
                " by this host's lists of packages, which may be old (`apt-get update` as root renews them)"
            }
        })
    }

    /// Where a package is unpacked that was fetched before.
    fn kept(&self, package: &Package) -> Result<Option<PathBuf>> {
        let place = self.folder.join(package.folder_name());
        let root = place.join("root");
        if !root.is_dir() {
            return Ok(None);
        }
        verify(&place)?;
        Ok(Some(root))
    }

    /// The kernel that was taken for this one before, where the nearest may be taken: it is asked for by no network.
    fn kept_in_place_of(&self, pinned: &Package) -> Result<Option<(Package, PathBuf)>> {
        let note = fs::read_to_string(self.note_on(pinned)).unwrap_or_default();
        let Some((name, version)) = note.trim().split_once(' ').filter(|_| self.takes_nearest) else {
            return Ok(None);
        };
        let nearest = Package { name: name.to_owned(), version: Some(version.to_owned()) };
        Ok(self.kept(&nearest)?.map(|root| (nearest, root)))
    }

    fn keep_in_place_of(&self, pinned: &Package, nearest: &Package) -> Result<()> {
        let note = self.note_on(pinned);
        fs::write(&note, format!("{nearest}\n")).with_context(|| format!("cannot write {}", note.display()))
    }

    /// The file that names what was taken in the place of a kernel that is gone.
    fn note_on(&self, pinned: &Package) -> PathBuf {
        self.folder.join(format!("{}.nearest", pinned.folder_name()))
    }

    /// Where the package is unpacked, after it was fetched if need be; `None` where the archive has it not.
    fn unpacked(&self, package: &Package) -> Result<Option<PathBuf>> {
        if let Some(root) = self.kept(package)? {
            return Ok(Some(root));
        }
        let place = self.folder.join(package.folder_name());
        let root = place.join("root");
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot create {}", self.folder.display()))?;
        let staging = tempfile::Builder::new().prefix(".fetch-").tempdir_in(&self.folder)?;
        let Some(file) = download(self.apt.as_ref(), package, staging.path())? else { return Ok(None) };
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

/// Downloads into `folder`; `None` where the archive does not have the package.
fn download(apt: &dyn Apt, package: &Package, folder: &Path) -> Result<Option<PathBuf>> {
    let wanted = match &package.version {
        Some(version) => format!("{}={version}", package.name),
        None => package.name.clone(),
    };
    // A container begins without lists, and old ones do not name what is new.
    if !is_offered(apt, package)? && (apt.update()? != Lists::Updated || !is_offered(apt, package)?) {
        return Ok(None);
    }
    if let Err(error) = apt.download(&wanted, folder) {
        // Old lists name what is gone, too.
        match apt.update()? {
            Lists::Updated if !is_offered(apt, package)? => return Ok(None),
            Lists::Updated => apt.download(&wanted, folder)?,
            Lists::UpToDate => return Err(error),
            Lists::NeedRoot => {
                return Err(error.context(format!(
                    "{package} cannot be fetched; it may be gone from the archive, and this host's lists of packages \
                     old: run `apt-get update` as root, and this command again"
                )));
            }
        }
    }
    let mut files = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let deb = files.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    Ok(Some(deb.with_context(|| format!("apt-get download left no package of {wanted}"))?))
}

/// Whether the lists have the package.
fn is_offered(apt: &dyn Apt, package: &Package) -> Result<bool> {
    let offered = apt.offered(&format!("^{}$", escape(&package.name)))?;
    Ok(offered.iter().any(|one| package.version.is_none() || one.version == package.version))
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
    use std::cell::RefCell;

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

    /// An archive that has `there`, and a host whose lists name `listed` until they are brought up to date.
    struct Fake {
        there: Vec<Package>,
        listed: RefCell<Vec<Package>>,
        is_root: bool,
    }

    impl Apt for Fake {
        fn offered(&self, _: &str) -> Result<Vec<Package>> {
            Ok(self.listed.borrow().clone())
        }

        fn update(&self) -> Result<Lists> {
            if !self.is_root {
                return Ok(Lists::NeedRoot);
            }
            let before = self.listed.replace(self.there.clone());
            Ok(if before == self.there { Lists::UpToDate } else { Lists::Updated })
        }

        fn download(&self, wanted: &str, folder: &Path) -> Result<()> {
            let is_it = |package: &Package| wanted == package.to_string().replace(' ', "=");
            ensure!(self.there.iter().any(is_it), "404");
            Ok(fs::write(folder.join("it.deb"), "")?)
        }
    }

    fn fake(there: &[&str], listed: &[&str], is_root: bool) -> Fake {
        Fake { there: packages(there), listed: RefCell::new(packages(listed)), is_root }
    }

    /// What comes of downloading version 1: whether the archive has it, or why that is not known.
    fn downloaded(apt: &Fake) -> Result<bool, String> {
        let folder = tempfile::tempdir().unwrap();
        let wanted = &packages(&["1"])[0];
        download(apt, wanted, folder.path()).map(|file| file.is_some()).map_err(|error| error.to_string())
    }

    #[test]
    fn lists_are_renewed_before_a_package_counts_as_gone_and_when_it_cannot_be_fetched() {
        assert_eq!(downloaded(&fake(&["1"], &["1"], false)), Ok(true));
        assert_eq!(downloaded(&fake(&["1"], &[], true)), Ok(true));
        assert_eq!(downloaded(&fake(&["2"], &["1"], true)), Ok(false));
        assert_eq!(downloaded(&fake(&["2"], &["2"], true)), Ok(false));
        assert_eq!(downloaded(&fake(&[], &[], true)), Ok(false));
        assert!(
            downloaded(&fake(&["2"], &["1"], false)).unwrap_err().contains("run `apt-get update` as root")
        );
    }

    const PINNED: Kernel = Kernel { name: "6.1", package: "linux-6.1.1", version: "6.1.1" };

    #[track_caller]
    fn refusal(apt: Fake) -> String {
        let folder = tempfile::tempdir().unwrap();
        let archive = Archive { folder: folder.path().to_owned(), takes_nearest: false, apt: Box::new(apt) };
        archive.kernel(&PINNED).unwrap_err().to_string()
    }

    #[test]
    fn a_kernel_that_is_gone_is_refused_with_the_nearest_and_the_commands_that_take_it() {
        for listed in [&["6.1.1"], &["6.1.2"]] {
            let said = refusal(fake(&["6.1.2"], listed, true));
            assert!(said.starts_with("linux-6.1.1 6.1.1 is gone from the archive. The nearest"), "{said}");
            assert!(said.contains("linux-6.1.2 6.1.2: `cargo xtask lab run`"), "{said}");
        }
        let said = refusal(fake(&["6.1.2"], &["6.1.2"], false));
        assert!(said.contains("which may be old (`apt-get update` as root renews them)"), "{said}");
    }

    #[test]
    fn a_kernel_that_was_taken_for_one_that_is_gone_is_taken_again_without_asking() {
        let folder = tempfile::tempdir().unwrap();
        let archive = |takes_nearest| Archive {
            folder: folder.path().to_owned(),
            takes_nearest,
            apt: Box::new(fake(&[], &[], false)),
        };
        let pinned = Package { name: PINNED.package.into(), version: Some(PINNED.version.into()) };
        let nearest = &packages(&["6.1.2"])[0];
        let place = folder.path().join(nearest.folder_name());
        fs::create_dir_all(place.join("root")).unwrap();
        fs::write(place.join("it.deb"), "").unwrap();
        fs::write(place.join("sha256"), format!("{}  it.deb\n", sha256(&place.join("it.deb")).unwrap()))
            .unwrap();
        assert!(archive(true).kernel(&PINNED).is_err(), "it was fetched for another reason");
        archive(true).keep_in_place_of(&pinned, nearest).unwrap();
        assert_eq!(archive(true).kernel(&PINNED).unwrap(), place.join("root"));
        assert!(archive(false).kernel(&PINNED).is_err());
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
