//! What a lab machine finds in its first file system: programs with their libraries, modules, and files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::BufWriter;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::{cpio, modules};
use crate::process;

/// Where names of programs are looked for inside, in this order.
pub const SEARCH_PATH: [&str; 3] = ["/lab/bin", "/usr/sbin", "/bin"];

/// The content of an image, by absolute path.
#[derive(Default)]
pub struct Image {
    entries: BTreeMap<String, Entry>,
    /// Keeps copies of programs without their debug information.
    stripped: PathBuf,
}

enum Entry {
    Directory,
    File { bytes: Vec<u8>, mode: u32 },
    Copy { from: PathBuf, mode: u32 },
    Symlink(String),
}

impl Image {
    /// An image with busybox in it; `stripped` is a folder for copies of programs that are kept from run to run.
    pub fn new(busybox: &Path, stripped: PathBuf) -> Result<Self> {
        let mut image = Self { entries: BTreeMap::new(), stripped };
        for folder in ["/dev", "/proc", "/sys", "/tmp", "/run", "/var", "/root", "/data", "/out", "/lab/bin"]
        {
            image.directory(folder);
        }
        for applet in process::output(Command::new(busybox).arg("--list"))?.lines() {
            image.add(&format!("/bin/{applet}"), Entry::Symlink("busybox".to_owned()));
        }
        // Last, because it lists itself.
        image.copy(busybox, "/bin/busybox")?;
        image
            .text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n");
        image.text("/etc/group", "root:x:0:\nnogroup:x:65534:\n");
        image.text("/etc/hosts", "127.0.0.1 localhost\n");
        Ok(image)
    }

    /// Adds a text file.
    pub fn text(&mut self, path: &str, text: &str) {
        self.add(path, Entry::File { bytes: text.as_bytes().to_vec(), mode: 0o644 });
    }

    /// Adds a script.
    pub fn script(&mut self, path: &str, text: &str) {
        self.add(path, Entry::File { bytes: text.as_bytes().to_vec(), mode: 0o755 });
    }

    /// Adds a file of this host as it is.
    pub fn copy(&mut self, from: &Path, path: &str) -> Result<()> {
        let metadata = fs::metadata(from).with_context(|| format!("cannot read {}", from.display()))?;
        let mode = metadata.permissions().mode() & 0o777;
        self.add(path, Entry::Copy { from: from.to_owned(), mode });
        Ok(())
    }

    /// Adds a program of this host with the libraries that it is linked with, both where this host has them, and a
    /// link by its name on the search path.
    pub fn program(&mut self, from: &Path) -> Result<()> {
        self.program_as(from, &from.file_name().unwrap_or_default().to_string_lossy())
    }

    /// The same, under another name on the search path: a program may do what its name says.
    pub fn program_as(&mut self, from: &Path, name: &str) -> Result<()> {
        let from = std::path::absolute(from)?;
        let text = from.to_string_lossy().into_owned();
        for library in libraries(&from)? {
            self.copy(&library, &library.to_string_lossy())?;
        }
        let lean = self.lean(&from)?;
        self.copy(&lean, &text)?;
        self.add(&format!("/lab/bin/{name}"), Entry::Symlink(text));
        Ok(())
    }

    /// Adds modules in this order, and the list by which they are loaded.
    pub fn modules(&mut self, files: &[PathBuf]) -> Result<()> {
        let mut list = String::new();
        for file in files {
            let path = format!("/lab/modules/{}.ko", modules::module_name(&file.to_string_lossy()));
            self.add(&path, Entry::File { bytes: modules::read(file)?, mode: 0o644 });
            list.push_str(&path);
            list.push('\n');
        }
        self.text("/lab/modules.list", &list);
        Ok(())
    }

    /// Where a command of that name is, inside.
    pub fn find(&self, command: &str) -> Option<String> {
        let has = |path: &String| {
            matches!(
                self.entries.get(path),
                Some(Entry::File { .. } | Entry::Copy { .. } | Entry::Symlink(_))
            )
        };
        if command.contains('/') {
            return Some(command.to_owned()).filter(has);
        }
        SEARCH_PATH.iter().map(|folder| format!("{folder}/{command}")).find(has)
    }

    /// Names of the programs on the search path, busybox's own left out.
    pub fn programs(&self) -> Vec<&str> {
        self.entries.keys().filter_map(|path| path.strip_prefix("/lab/bin/")).collect()
    }

    /// Writes the image as a kernel takes it.
    pub fn write(&self, to: &Path) -> Result<()> {
        let file = File::create(to).with_context(|| format!("cannot create {}", to.display()))?;
        let mut archive = cpio::Archive::new(BufWriter::new(file));
        for (path, entry) in &self.entries {
            match entry {
                Entry::Directory => archive.directory(path)?,
                Entry::File { bytes, mode } => archive.file(path, *mode, bytes)?,
                Entry::Copy { from, mode } => {
                    let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
                    archive.file(path, *mode, &bytes)?;
                }
                Entry::Symlink(target) => archive.symlink(path, target)?,
            }
        }
        // The kernel opens this one before anything is mounted.
        archive.character_device("/dev/console", 5, 1)?;
        archive.finish()?;
        Ok(())
    }

    fn directory(&mut self, path: &str) {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        for depth in 1..=parts.len() {
            self.entries.entry(format!("/{}", parts[..depth].join("/"))).or_insert(Entry::Directory);
        }
    }

    fn add(&mut self, path: &str, entry: Entry) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// A copy of a program without its debug information, which is most of it and which nothing inside reads.
    fn lean(&self, program: &Path) -> Result<PathBuf> {
        let metadata = fs::metadata(program).with_context(|| format!("cannot read {}", program.display()))?;
        let copy = self.stripped.join(copy_name(program, &metadata));
        if copy.is_file() {
            return Ok(copy);
        }
        fs::create_dir_all(&self.stripped)?;
        let staged = tempfile::Builder::new().prefix(".strip-").tempfile_in(&self.stripped)?;
        let mut strip = Command::new("strip");
        process::output(strip.args(["--strip-debug", "-o"]).arg(staged.path()).arg(program))?;
        fs::set_permissions(staged.path(), metadata.permissions())?;
        staged.persist(&copy)?;
        self.forget_older(program, &copy);
        Ok(copy)
    }

    /// Deletes copies of the same program as it was before; one that stays costs only space.
    fn forget_older(&self, program: &Path, newest: &Path) {
        let prefix = format!("{}-", place_name(program));
        let Ok(entries) = fs::read_dir(&self.stripped) else { return };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_older = name.strip_prefix(&prefix).is_some_and(|rest| rest.split('-').count() == 3);
            if is_older && path != newest {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// A name that changes when the program does.
fn copy_name(program: &Path, metadata: &Metadata) -> String {
    format!("{}-{:x}-{:x}-{:x}", place_name(program), metadata.ino(), metadata.mtime_nsec(), metadata.len())
}

/// A name that programs in other folders do not have.
fn place_name(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let folder = program.parent().unwrap_or(Path::new("/")).as_os_str().as_encoded_bytes();
    let digest = format!("{:x}", Sha256::digest(folder));
    format!("{name}-{}", &digest[..8])
}

/// The shared libraries of a program, its loader included; none where it is static.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("cannot start ldd")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    if error.contains("not a dynamic executable") || said.contains("statically linked") {
        return Ok(BTreeSet::new());
    }
    if !output.status.success() {
        bail!("ldd cannot read {}: {}", program.display(), error.trim());
    }
    parse_ldd(&said).with_context(|| format!("the libraries of {}", program.display()))
}

/// The paths in what `ldd` prints.
fn parse_ldd(said: &str) -> Result<BTreeSet<PathBuf>> {
    let mut libraries = BTreeSet::new();
    for line in said.lines() {
        let line = line.trim();
        if line.ends_with("not found") {
            bail!("{line}");
        }
        let path = line.split_once("=>").map_or(line, |(_, path)| path).trim();
        // The vDSO has no file.
        if let Some((path, _)) = path.split_once(" (0x").filter(|(path, _)| path.starts_with('/')) {
            libraries.insert(PathBuf::from(path));
        }
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_programs_of_one_name_are_kept_apart_and_those_of_one_program_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let image = Image { stripped: folder.path().to_owned(), ..Image::default() };
        let keep = |path: &str, version: &str| {
            let copy = folder.path().join(format!("{}-{version}", place_name(Path::new(path))));
            fs::write(&copy, "").unwrap();
            copy
        };
        let (other, older) = (keep("/b/tool", "1-1-1"), keep("/a/tool", "1-1-1"));
        let newest = keep("/a/tool", "1-2-1");
        image.forget_older(Path::new("/a/tool"), &newest);
        assert!(other.exists() && newest.exists() && !older.exists());
    }

    #[test]
    fn libraries_are_read_from_what_ldd_prints() {
        let said = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse_ldd(said).unwrap(), expected.into());
        assert_eq!(parse_ldd("\tlibx.so => not found\n").unwrap_err().to_string(), "libx.so => not found");
    }

    #[test]
    fn commands_are_found_on_the_search_path_and_parents_come_first() {
        let mut image = Image::default();
        image.text("/lab/bin/tool", "");
        image.text("/usr/sbin/mkfs", "");
        assert_eq!(image.find("tool").as_deref(), Some("/lab/bin/tool"));
        assert_eq!(image.find("/usr/sbin/mkfs").as_deref(), Some("/usr/sbin/mkfs"));
        assert_eq!(image.find("mkfs").as_deref(), Some("/usr/sbin/mkfs"));
        assert_eq!(image.find("bin"), None);
        assert_eq!(image.programs(), ["tool"]);
        let paths: Vec<&str> = image.entries.keys().map(String::as_str).collect();
        assert_eq!(paths, ["/lab", "/lab/bin", "/lab/bin/tool", "/usr", "/usr/sbin", "/usr/sbin/mkfs"]);
    }
}
