//! Separate debug files: where a distribution puts the symbols that it took out of a binary.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use object::read::elf::ElfFile64;
use object::{Endianness, Object, ReadCache, ReadRef};

use super::build_id::{self, hexadecimal};
use crate::images::Images;

const DEBUG_FOLDER: &str = "usr/lib/debug";

/// Where the symbols of a binary are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Symbols {
    /// In itself, or there is no telling where else.
    Inside,
    /// In this debug file.
    In(PathBuf),
    /// Not on this host. This is its build-id, in hexadecimal.
    Missing(String),
}

/// Where the symbols of a binary are, which the process knows as `path`.
///
/// Places are those of gdb ("Debugging Information in Separate Files"): by build-id, then by the name in
/// `.gnu_debuglink`; in the process's own file tree, then in this one's. A debug file must have the
/// binary's build-id: one of another build names other functions.
pub fn locate(file: &File, path: &str, images: &Images) -> Symbols {
    let Some((build_id, link)) = wanted(&ReadCache::new(file)) else { return Symbols::Inside };
    let process_root = images.root().map(|root| PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd())));
    let roots = process_root.into_iter().chain([PathBuf::from("/")]);
    let found = roots
        .flat_map(|root| places(&root, &build_id, link.as_deref(), path))
        .find(|place| build_id::of_path(place).as_ref() == Some(&build_id));
    found.map_or(Symbols::Missing(build_id), Symbols::In)
}

/// The build-id and the name of the debug file of a binary without a symbol table.
fn wanted<'data, R: ReadRef<'data>>(data: R) -> Option<(String, Option<String>)> {
    let elf = ElfFile64::<Endianness, _>::parse(data).ok()?;
    let build_id =
        elf.build_id().ok().flatten().filter(|id| !id.is_empty() && elf.symbol_table().is_none())?;
    let link = elf.gnu_debuglink().ok().flatten().map(|(name, _)| String::from_utf8_lossy(name).into_owned());
    Some((hexadecimal(build_id), link))
}

/// The debug file of a binary that has no symbol table of its own, where there is one.
pub fn find(file: &File, path: &str, images: &Images) -> Option<PathBuf> {
    match locate(file, path, images) {
        Symbols::In(place) => Some(place),
        Symbols::Inside | Symbols::Missing(_) => None,
    }
}

fn places(root: &Path, hex: &str, link: Option<&str>, path: &str) -> Vec<PathBuf> {
    let debug = root.join(DEBUG_FOLDER);
    let mut places = Vec::new();
    if hex.len() > 2 {
        places.push(debug.join(".build-id").join(&hex[..2]).join(format!("{}.debug", &hex[2..])));
    }
    let folder = Path::new(path).parent().and_then(|folder| folder.strip_prefix("/").ok());
    if let (Some(link), Some(folder)) = (link, folder) {
        places.extend([
            root.join(folder).join(link),
            root.join(folder).join(".debug").join(link),
            debug.join(folder).join(link),
        ]);
    }
    places
}

/// For [`crate::fuzzing`]: places as a binary names them.
#[cfg(any(test, feature = "fuzzing"))]
pub fn parse_elf(bytes: &[u8]) {
    if let Some((build_id, link)) = wanted(bytes) {
        places(Path::new("/"), &build_id, link.as_deref(), "/opt/bin/tool");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_by_build_id_then_beside_the_binary_then_in_the_debug_folder() {
        let found = places(Path::new("/"), "abcdef", Some("tool.debug"), "/opt/bin/tool");
        let expected = [
            "/usr/lib/debug/.build-id/ab/cdef.debug",
            "/opt/bin/tool.debug",
            "/opt/bin/.debug/tool.debug",
            "/usr/lib/debug/opt/bin/tool.debug",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
    }
}
