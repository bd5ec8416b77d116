//! Functions of a process by name: where to put a probe, and what else was meant if there is none.

use std::fs::File;
use std::path::PathBuf;

use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSegment, ObjectSymbol, ReadCache, ReadRef, SymbolKind};
use thiserror::Error;

use super::debug_file::DebugFiles;
use super::debuginfod::Found;
use super::demangle::demangle;
use crate::images::{Images, open_regular};

/// Near names that are offered.
const OFFERED: usize = 5;

/// A function of a mapped file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// As the source spells it.
    pub name: String,
    /// The file, as this process can open it.
    pub file: PathBuf,
    /// Where in the file its first instruction is.
    pub offset: u64,
}

/// Why a function was not found.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FunctionError {
    /// The process has no function of that name.
    #[error("process {pid} has no function {name}{}{}", near_names(.near), missed_symbols(.missed.as_deref()))]
    NotFound {
        /// The process.
        pid: u32,
        /// As it was asked for.
        name: String,
        /// Names that are like it.
        near: Vec<String>,
        /// What servers could not give of the symbols that were asked for, where there is such.
        missed: Option<String>,
    },
    /// What the process has mapped cannot be read.
    #[error("what process {0} has mapped cannot be read: {1}")]
    Unreadable(u32, String),
}

fn near_names(near: &[String]) -> String {
    match near.is_empty() {
        true => ": its files have no symbols like it; `nm FILE | c++filt` lists what they have".to_owned(),
        false => format!("; the nearest are: {}", near.join(", ")),
    }
}

fn missed_symbols(missed: Option<&str>) -> String {
    missed.map_or_else(String::new, |missed| format!("; {missed}"))
}

/// Finds the function `name` (as the source spells it, or mangled, or its last parts) of the process `pid`.
///
/// Where no symbols of this host have it, debug files are fetched from the servers that `DEBUGINFOD_URLS` names, until
/// one has it. That may take minutes, so nothing may be recorded meanwhile.
///
/// # Errors
/// [`FunctionError`] with the nearest names.
pub fn find(pid: u32, name: &str) -> Result<Function, FunctionError> {
    let images = Images::of(pid).map_err(|error| FunctionError::Unreadable(pid, error.to_string()))?;
    let files: Vec<_> = images.files().collect();
    Program { pid, root: images.root(), files: &files }.find(name, DebugFiles::from_environment())
}

/// What a process has mapped.
struct Program<'a> {
    pid: u32,
    /// Its root directory.
    root: Option<&'a File>,
    /// Each file once, with the path as the process sees it.
    files: &'a [(&'a str, &'a File)],
}

impl Program<'_> {
    fn find(&self, name: &str, mut debug_files: DebugFiles) -> Result<Function, FunctionError> {
        let (mut all, mut not_here) = (Vec::new(), Vec::new());
        for (path, file) in self.files {
            let debug = debug_files.find(file, path, self.root);
            all.extend(functions(self.pid, path, file, &debug));
            if debug == Found::NotAsked {
                not_here.push((*path, *file));
            }
        }
        if let Some(function) = named(&all, name) {
            return Ok(function.clone());
        }
        debug_files.allow_fetching();
        // One by one: each may be large, and the program's own comes before those of its libraries.
        for (path, file) in not_here {
            let fetched = functions(self.pid, path, file, &debug_files.find(file, path, self.root));
            if let Some(function) = named(&fetched, name) {
                return Ok(function.clone());
            }
            all.extend(fetched);
        }
        let near = nearest(name, all.iter().map(|(_, function)| function.name.as_str()));
        let missed = debug_files.missed();
        Err(FunctionError::NotFound { pid: self.pid, name: name.to_owned(), near, missed })
    }
}

/// The function of that name, or else one whose last parts it is.
fn named<'a>(all: &'a [(String, Function)], name: &str) -> Option<&'a Function> {
    let exact = all.iter().find(|(symbol, function)| symbol == name || function.name == name);
    let tail = format!("::{name}");
    let found = exact.or_else(|| all.iter().find(|(_, function)| function.name.ends_with(&tail)));
    found.map(|(_, function)| function)
}

/// Every function of one file and of its debug file, with its name in the symbol table.
fn functions(pid: u32, path: &str, file: &File, debug: &Found) -> Vec<(String, Function)> {
    let loaded = ReadCache::new(file);
    let Ok(elf) = ElfFile64::<Endianness, _>::parse(&loaded) else { return Vec::new() };
    let spans = spans(&elf);
    let mut symbols_of_both = symbols(&elf);
    if let Found::File(debug) = debug
        && let Some(debug) = open_regular(debug)
    {
        let data = ReadCache::new(debug);
        if let Ok(elf) = ElfFile64::<Endianness, _>::parse(&data) {
            symbols_of_both.extend(symbols(&elf));
        }
    }
    let reached = PathBuf::from(format!("/proc/{pid}/root{path}"));
    let function = |(name, address): (String, u64)| {
        let offset = file_offset(&spans, address)?;
        Some((name.clone(), Function { name: demangle(&name), file: reached.clone(), offset }))
    };
    symbols_of_both.into_iter().filter_map(function).collect()
}

/// Addresses, sizes and places in the file of what is loaded.
fn spans<'a, R: ReadRef<'a>>(elf: &ElfFile64<'a, Endianness, R>) -> Vec<(u64, u64, u64)> {
    elf.segments().map(|segment| (segment.address(), segment.size(), segment.file_range().0)).collect()
}

/// Where in the file the byte at `address` is.
fn file_offset(spans: &[(u64, u64, u64)], address: u64) -> Option<u64> {
    spans.iter().find_map(|(start, size, offset)| {
        let within = address.wrapping_sub(*start);
        if within < *size { offset.checked_add(within) } else { None }
    })
}

/// For [`crate::fuzzing`]: every function of a file, and where it is.
#[cfg(any(test, feature = "fuzzing"))]
pub fn parse_elf(bytes: &[u8]) {
    let Ok(elf) = ElfFile64::<Endianness, _>::parse(bytes) else { return };
    let spans = spans(&elf);
    for (name, address) in symbols(&elf) {
        let _ = (file_offset(&spans, address), demangle(&name));
    }
}

/// Names and addresses of the functions in both symbol tables.
fn symbols<'a, R: ReadRef<'a>>(elf: &ElfFile64<'a, Endianness, R>) -> Vec<(String, u64)> {
    elf.symbols()
        .chain(elf.dynamic_symbols())
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.address() != 0)
        .filter_map(|symbol| Some((symbol.name().ok()?.to_owned(), symbol.address())))
        .collect()
}

/// The names that differ least from `name`, the nearest first.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let last = |name: &str| name.rsplit("::").next().unwrap_or(name).to_lowercase();
    let wanted = last(name);
    let mut near: Vec<(usize, &str)> = names
        .filter_map(|candidate| {
            let distance = distance(&wanted, &last(candidate));
            let is_part = candidate.to_lowercase().contains(&wanted);
            let is_near = distance <= wanted.len() / 3 || (is_part && wanted.len() > 3);
            is_near.then_some((distance, candidate))
        })
        .collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter().take(OFFERED).map(|(_, name)| name.to_owned()).collect()
}

/// Letters to change, add or take away, to make one word of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let changed = before + usize::from(letter != *other);
            before = row[j + 1];
            row[j + 1] = changed.min(before + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use std::fs;

    use object::elf::STT_FUNC;

    use super::*;
    use crate::symbolize::debuginfod::server::{Server, client, ok, status};
    use crate::symbolize::sample::{BASE, BUILD, OTHER, Symbol, elf};

    #[test]
    fn an_address_lies_in_the_segment_that_holds_it() {
        let spans = [(0x1000, 0x100, 0x10), (0x2000, 0x100, u64::MAX)];
        let offsets = [0x1000, 0x10ff, 0x1100, 0xfff, 0x2000, 0x2001];
        let found = offsets.map(|address| file_offset(&spans, address));
        // No file has the byte behind the last that can be counted.
        assert_eq!(found, [Some(0x10), Some(0x10f), None, None, Some(u64::MAX), None]);
    }

    #[test]
    fn the_nearest_names_come_first() {
        let names = [
            "vmm::persist::create_snapshot",
            "vmm::persist::restore_snapshot",
            "main",
            "vmm::create_snapshots",
        ];
        let near = nearest("vmm::persist::create_snapshoot", names.into_iter());
        assert_eq!(near[..2], ["vmm::persist::create_snapshot", "vmm::create_snapshots"]);
        assert!(nearest("zebra", names.into_iter()).is_empty());
    }

    #[test]
    fn a_function_of_this_very_program_is_found_by_its_last_parts() {
        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn forkd_probe_findable(value: u32) -> u32 {
            value + 1
        }
        assert_eq!(forkd_probe_findable(1), 2);
        let found = find(std::process::id(), "forkd_probe_findable").unwrap();
        assert!(found.offset > 0 && found.file.exists(), "{found:?}");
        let error = find(std::process::id(), "forkd_probe_findible").unwrap_err().to_string();
        assert!(error.contains("nearest are: forkd_probe_findable"), "{error}");
    }

    const WINDOW: &[Symbol] = &[Symbol { name: "the_window", kind: STT_FUNC, address: BASE + 0x20 }];
    const ELSEWHERE: &[Symbol] = &[Symbol { name: "elsewhere", kind: STT_FUNC, address: BASE + 0x40 }];

    /// Looks for a function in a stripped program and a library that has symbols, with a server that gives `answer`.
    fn search(name: &str, answer: Vec<u8>) -> (Result<Function, FunctionError>, usize) {
        let server = Server::start(Some(answer));
        let (folder, client) = client(&[&server]);
        let write = |name: &str, bytes: Vec<u8>| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            File::open(path).unwrap()
        };
        let program = write("tool", elf(BUILD, &[]));
        let library = write("library", elf(OTHER, ELSEWHERE));
        let files = [("/opt/tool", &program), ("/opt/library", &library)];
        let found = Program { pid: 7, root: None, files: &files }.find(name, DebugFiles::with(client));
        (found, server.requests().len())
    }

    #[test]
    fn a_server_is_asked_for_symbols_only_where_none_that_are_here_have_the_function() {
        let (found, requests) = search("elsewhere", ok(&elf(BUILD, WINDOW)));
        assert_eq!((found.unwrap().file, requests), (PathBuf::from("/proc/7/root/opt/library"), 0));
        let (found, requests) = search("the_window", ok(&elf(BUILD, WINDOW)));
        let expected = Function {
            name: "the_window".to_owned(),
            file: PathBuf::from("/proc/7/root/opt/tool"),
            offset: 0x20,
        };
        assert_eq!((found, requests), (Ok(expected), 1));
    }

    #[test]
    fn the_nearest_names_are_those_of_fetched_symbols_as_well_and_what_was_not_had_is_told() {
        let (found, _) = search("the_windov", ok(&elf(BUILD, WINDOW)));
        assert_eq!(
            found.unwrap_err().to_string(),
            "process 7 has no function the_windov; the nearest are: the_window"
        );
        let said = search("the_window", status("404 Not Found")).0.unwrap_err().to_string();
        assert!(said.ends_with("; debuginfod had no symbols for tool (no server has it)"), "{said}");
    }
}
