//! The modules of an unpacked kernel, in the order in which they can be loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// What `modules.dep` and `modules.builtin` of one kernel say.
#[derive(Debug, Default)]
pub struct Modules {
    folder: PathBuf,
    /// File and the files that it needs, by the module's name.
    files: BTreeMap<String, (PathBuf, Vec<String>)>,
    builtin: BTreeSet<String>,
}

impl Modules {
    /// Reads the lists of the kernel that is unpacked in `root`, and makes `modules.dep`, which packages do not carry.
    pub fn read(root: &Path) -> Result<Self> {
        let (base, folder) = installed(root)?;
        if !folder.join("modules.dep").is_file() {
            let version = folder.file_name().unwrap_or_default();
            process::run(Command::new("depmod").arg("-b").arg(base).arg(version))?;
        }
        let read = |name: &str| {
            fs::read_to_string(folder.join(name)).with_context(|| format!("{}/{name}", folder.display()))
        };
        Ok(Self::parse(&folder, &read("modules.dep")?, &read("modules.builtin")?))
    }

    fn parse(folder: &Path, dep: &str, builtin: &str) -> Self {
        let mut files = BTreeMap::new();
        for line in dep.lines() {
            let Some((file, needs)) = line.split_once(':') else { continue };
            let needs = needs.split_whitespace().map(module_name).collect();
            files.insert(module_name(file), (folder.join(file), needs));
        }
        let builtin = builtin.lines().map(module_name).collect();
        Self { folder: folder.to_owned(), files, builtin }
    }

    /// The files of `wanted` and of all that they need, each after what it needs; what is built in needs no file.
    pub fn in_order(&self, wanted: &[&str]) -> Result<Vec<PathBuf>> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for name in wanted {
            self.visit(&module_name(name), &mut seen, &mut order)?;
        }
        Ok(order)
    }

    fn visit(&self, name: &str, seen: &mut BTreeSet<String>, order: &mut Vec<PathBuf>) -> Result<()> {
        if self.builtin.contains(name) || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some((file, needs)) = self.files.get(name) else {
            bail!("the kernel in {} has no module {name}", self.folder.display());
        };
        for need in needs {
            self.visit(need, seen, order)?;
        }
        order.push(file.clone());
        Ok(())
    }
}

/// Below `root`, the folder whose `lib/modules` has a kernel, as `depmod` takes it, and the folder of that kernel's modules.
fn installed(root: &Path) -> Result<(PathBuf, PathBuf)> {
    let bases = [root.to_owned(), root.join("usr")];
    let kernel_of = |base: &PathBuf| {
        let entries = fs::read_dir(base.join("lib/modules")).ok()?;
        entries.filter_map(|entry| Some(entry.ok()?.path())).next()
    };
    let found = bases.into_iter().find_map(|base| kernel_of(&base).map(|folder| (base, folder)));
    found.with_context(|| format!("{} has no kernel in lib/modules or usr/lib/modules", root.display()))
}

/// `kvm_amd` of `kernel/arch/x86/kvm/kvm-amd.ko.xz`: names treat dashes and underscores alike.
pub fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// A module's bytes, uncompressed, so that any `insmod` takes it.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(path).with_context(|| format!("cannot read {}", path.display())),
    };
    let output = Command::new(program).arg("-dc").arg(path).output();
    let output = output.with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!("{program} cannot read {}: {}", path.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules() -> Modules {
        let dep = "k/block/virtio_blk.ko: k/virtio/virtio.ko k/virtio/virtio_ring.ko\n\
                   k/virtio/virtio_ring.ko: k/virtio/virtio.ko\nk/virtio/virtio.ko:\n\
                   k/kvm/kvm-amd.ko.xz: k/kvm/kvm.ko.xz\nk/kvm/kvm.ko.xz:\n";
        Modules::parse(Path::new("/m"), dep, "kernel/drivers/block/loop.ko\n")
    }

    fn order(wanted: &[&str]) -> Vec<String> {
        let files = modules().in_order(wanted).unwrap();
        files.iter().map(|file| module_name(&file.to_string_lossy())).collect()
    }

    #[test]
    fn each_module_comes_once_and_after_what_it_needs() {
        assert_eq!(order(&["virtio_blk", "virtio"]), ["virtio", "virtio_ring", "virtio_blk"]);
        assert_eq!(order(&["kvm-amd"]), ["kvm", "kvm_amd"]);
    }

    #[test]
    fn a_kernels_modules_are_found_where_either_kind_of_package_has_them() {
        for base in ["", "usr"] {
            let root = tempfile::tempdir().unwrap();
            assert!(installed(root.path()).is_err());
            // A package may leave an empty folder where the other kind has its modules.
            fs::create_dir_all(root.path().join("lib/modules")).unwrap();
            let folder = root.path().join(base).join("lib/modules/6.1.0");
            fs::create_dir_all(&folder).unwrap();
            assert_eq!(installed(root.path()).unwrap(), (root.path().join(base), folder));
        }
    }

    #[test]
    fn what_is_built_in_needs_no_file_and_what_is_nowhere_is_named() {
        assert_eq!(order(&["loop"]), [""; 0]);
        let error = modules().in_order(&["nbd"]).unwrap_err().to_string();
        assert_eq!(error, "the kernel in /m has no module nbd");
    }
}
