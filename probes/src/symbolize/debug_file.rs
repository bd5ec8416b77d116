//! Separate debug files: where a distribution puts the symbols that it took out of a binary. They are looked for on
//! this host, then with servers: in this one way for the functions of stacks, for functions that are asked for by name,
//! and for variables.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use object::read::elf::ElfFile64;
use object::{Endianness, Object, ReadCache, ReadRef};

use super::build_id::{self, hexadecimal};
use super::debuginfod::{Debuginfod, Found, Settings};

const DEBUG_FOLDER: &str = "usr/lib/debug";

/// Finds the debug files of binaries.
#[derive(Debug, Default)]
pub struct DebugFiles {
    /// Has those that this host has not; `None` where there is no server to ask.
    debuginfod: Option<Debuginfod>,
}

impl DebugFiles {
    /// Those of this host, and of the servers that `DEBUGINFOD_URLS` names, of which none is asked until
    /// [`Self::allow_fetching`].
    pub fn from_environment() -> Self {
        Self { debuginfod: Settings::from_environment().map(Debuginfod::new) }
    }

    /// Those of this host and of this client.
    #[cfg(test)]
    pub const fn with(debuginfod: Debuginfod) -> Self {
        Self { debuginfod: Some(debuginfod) }
    }

    /// Has servers asked for what is not here, from now on. Each file may take minutes.
    pub const fn allow_fetching(&mut self) {
        if let Some(debuginfod) = &mut self.debuginfod {
            debuginfod.allow_fetching();
        }
    }

    /// The debug file of a binary that has no symbol table of its own. The process whose root directory is `root`
    /// knows the binary as `path`.
    pub fn find(&mut self, file: &File, path: &str, root: Option<&File>) -> Found {
        match locate(file, path, root) {
            Symbols::Inside => Found::Nothing,
            Symbols::In(place) => Found::File(place),
            Symbols::Missing(build_id) => {
                let name = path.rsplit('/').next().unwrap_or(path);
                self.debuginfod.as_mut().map_or(Found::Nothing, |client| client.find(&build_id, name))
            }
        }
    }

    /// What servers could not give, and why; `None` where there is no such.
    pub fn missed(&self) -> Option<String> {
        self.debuginfod.as_ref()?.missed()
    }

    /// What servers could not give, in one sentence for a report.
    pub fn warning(&self) -> Option<String> {
        self.debuginfod.as_ref()?.warning()
    }
}

/// Where the symbols of a binary are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Symbols {
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
fn locate(file: &File, path: &str, root: Option<&File>) -> Symbols {
    let Some((build_id, link)) = wanted(&ReadCache::new(file)) else { return Symbols::Inside };
    let process_root = root.map(|root| PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd())));
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
    use std::fs;

    use object::elf::STT_OBJECT;

    use super::*;
    use crate::symbolize::debuginfod::server::{Server, client, ok};
    use crate::symbolize::sample::{BUILD, OTHER, Symbol, elf};

    const SYMBOLS: &[Symbol] = &[Symbol { name: "flag", kind: STT_OBJECT, address: 0x4100 }];

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

    /// What is found for a binary of the build [`BUILD`] in a folder of its own, which `prepare` puts more into.
    fn found(symbols: &[Symbol], files: &mut DebugFiles, prepare: &dyn Fn(&Path)) -> Found {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("opt")).unwrap();
        let binary = root.path().join("opt/tool");
        fs::write(&binary, elf(BUILD, symbols)).unwrap();
        prepare(root.path());
        let opened = (File::open(binary).unwrap(), File::open(root.path()).unwrap());
        files.find(&opened.0, "/opt/tool", Some(&opened.1))
    }

    /// One of the build `build_id`, where that of [`BUILD`] should be.
    fn put_debug_file(root: &Path, build_id: &str) {
        let folder = root.join(DEBUG_FOLDER).join(".build-id").join(&BUILD[..2]);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{}.debug", &BUILD[2..])), elf(build_id, SYMBOLS)).unwrap();
    }

    #[test]
    fn a_server_is_asked_last_and_only_when_it_may_be() {
        let server = Server::start(Some(ok(&elf(BUILD, SYMBOLS))));
        let (folder, client) = client(&[&server]);
        let mut files = DebugFiles::with(client);
        assert_eq!(found(&[], &mut files, &|_| {}), Found::NotAsked);
        files.allow_fetching();
        assert_eq!(found(SYMBOLS, &mut files, &|_| {}), Found::Nothing, "its symbols are in itself");
        let here = found(&[], &mut files, &|root| put_debug_file(root, BUILD));
        assert!(matches!(&here, Found::File(path) if path.starts_with("/proc/self/fd")), "{here:?}");
        assert!(server.requests().is_empty(), "{:?}", server.requests());
        let fetched = folder.path().join("cache").join(BUILD).join("debuginfo");
        assert_eq!(found(&[], &mut files, &|root| put_debug_file(root, OTHER)), Found::File(fetched));
        assert_eq!(server.requests().len(), 1);
    }

    #[test]
    fn without_a_server_there_is_nothing_to_wait_for() {
        assert_eq!(found(&[], &mut DebugFiles::default(), &|_| {}), Found::Nothing);
    }
}
