//! Functions of a process by name: where to put a probe, and what else was meant if there is none.

use std::collections::HashSet;
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
    #[error("process {pid} has no function {name}{}{}", near_names(.near, .program), missed_symbols(.missed.as_deref()))]
    NotFound {
        /// The process.
        pid: u32,
        /// As it was asked for.
        name: String,
        /// Names that are like it.
        near: Vec<String>,
        /// The file of its program.
        program: ProgramFile,
        /// What servers could not give of the symbols that were asked for, where there is such.
        missed: Option<String>,
    },
    /// Several functions of the process have that name, or that as the end of it.
    #[error("{name} may be one of {} functions of process {pid}: {}; name one as it stands here", .candidates.len(), offered(.candidates))]
    Ambiguous {
        /// The process.
        pid: u32,
        /// As it was asked for.
        name: String,
        /// What each can be asked for as.
        candidates: Vec<String>,
    },
    /// The process has no files: there is no program in it.
    #[error(
        "process {0} has no file mapped, as a thread of the kernel has none: it has no function that could be a window"
    )]
    NoFiles(u32),
    /// What the process has mapped cannot be read.
    #[error("what process {0} has mapped cannot be read: {1}")]
    Unreadable(u32, String),
}

/// The file of a process's program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramFile {
    /// Its path, as the process sees it.
    pub path: String,
    /// No symbols of its functions are in it, or beside it.
    pub is_stripped: bool,
}

fn near_names(near: &[String], program: &ProgramFile) -> String {
    let path = &program.path;
    match (near.is_empty(), program.is_stripped) {
        (false, _) => format!("; the nearest are: {}", near.join(", ")),
        (true, true) => format!(": {path} is stripped, and no debug file of it is here"),
        (true, false) => format!(": nothing is like it; `nm {path} | c++filt` lists what its program has"),
    }
}

fn offered(candidates: &[String]) -> String {
    let more = candidates.len().saturating_sub(OFFERED);
    let shown = candidates[..candidates.len() - more].join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

fn missed_symbols(missed: Option<&str>) -> String {
    missed.map_or_else(String::new, |missed| format!("; {missed}"))
}

/// Finds the function `name` (as the source spells it, or mangled, or its last parts) of the process `pid`. Of several
/// that have the same name `name@0x1a2b` is the one at that place of its file.
///
/// Where no symbols of this host have it, debug files are fetched from the servers that `DEBUGINFOD_URLS` names, until
/// one has it. That may take minutes, so nothing may be recorded meanwhile.
///
/// # Errors
/// [`FunctionError`] with the nearest names, or with all that it could be.
pub fn find(pid: u32, name: &str) -> Result<Function, FunctionError> {
    let images = Images::of(pid).map_err(|error| FunctionError::Unreadable(pid, error.to_string()))?;
    let files: Vec<_> = images.files().collect();
    if files.is_empty() {
        return Err(FunctionError::NoFiles(pid));
    }
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
        if let Some(function) = self.named(&all, name)? {
            return Ok(function);
        }
        debug_files.allow_fetching();
        // One by one: each may be large, and the program's own comes before those of its libraries.
        for (path, file) in not_here {
            let fetched = functions(self.pid, path, file, &debug_files.find(file, path, self.root));
            if let Some(function) = self.named(&fetched, name)? {
                return Ok(function);
            }
            all.extend(fetched);
        }
        let near = nearest(name, all.iter().map(|(_, function)| function.name.as_str()));
        let (missed, program) = (debug_files.missed(), self.program(&all));
        Err(FunctionError::NotFound { pid: self.pid, name: name.to_owned(), near, program, missed })
    }

    /// The function of that name, if there is one and no other.
    fn named(&self, all: &[Symbol], name: &str) -> Result<Option<Function>, FunctionError> {
        match candidates(all, name).as_slice() {
            [] => Ok(None),
            [(_, function)] => Ok(Some(function.clone())),
            several => {
                let candidates = spelled(several);
                Err(FunctionError::Ambiguous { pid: self.pid, name: name.to_owned(), candidates })
            }
        }
    }

    fn program(&self, all: &[Symbol]) -> ProgramFile {
        let path = self.files.first().map_or("its program", |(path, _)| *path);
        let reached = reached(self.pid, path);
        let is_stripped = !all.iter().any(|(_, function)| function.file == reached);
        ProgramFile { path: path.to_owned(), is_stripped }
    }
}

/// A function with its name in the symbol table.
type Symbol = (String, Function);

/// The different functions that `name` may mean: those whose symbol it is, or else those whose name it is, or else
/// those whose last parts it is.
fn candidates<'a>(all: &'a [Symbol], name: &str) -> Vec<&'a Symbol> {
    let (name, at) = place_in(name);
    let is_there = |(_, function): &&Symbol| at.is_none_or(|offset| offset == function.offset);
    let ranked = all.iter().filter(is_there).filter_map(|symbol| Some((rank(symbol, name)?, symbol)));
    let ranked: Vec<(u8, &Symbol)> = ranked.collect();
    let first = ranked.iter().map(|(rank, _)| *rank).min();
    let best = ranked.into_iter().filter(|(rank, _)| Some(*rank) == first).map(|(_, symbol)| symbol);
    let mut seen = HashSet::new();
    // Both symbol tables of a file, and its debug file, may have the same one.
    best.filter(|(_, function)| seen.insert((&function.file, function.offset))).collect()
}

/// In which order a function is meant by `name`; `None` where it is not.
fn rank((symbol, function): &Symbol, name: &str) -> Option<u8> {
    let ends_so = || function.name.strip_suffix(name).is_some_and(|before| before.ends_with("::"));
    match () {
        () if symbol == name => Some(0),
        () if function.name == name => Some(1),
        () if ends_so() => Some(2),
        () => None,
    }
}

/// `name@0x1a2b`: the name, and the place in the file.
fn place_in(name: &str) -> (&str, Option<u64>) {
    let parted = name.rsplit_once("@0x");
    let placed = parted.and_then(|(name, at)| Some((name, u64::from_str_radix(at, 16).ok()?)));
    placed.map_or((name, None), |(name, at)| (name, Some(at)))
}

/// What each of several functions can be asked for as: its name, with its place where others have the same.
fn spelled(several: &[&Symbol]) -> Vec<String> {
    let is_alone = |name: &str| several.iter().filter(|(_, other)| other.name == name).count() == 1;
    let spell = |(_, Function { name, offset, .. }): &&Symbol| match is_alone(name) {
        true => name.clone(),
        false => format!("{name}@{offset:#x}"),
    };
    several.iter().map(spell).collect()
}

/// The file at `path` of a process, as this one can open it.
fn reached(pid: u32, path: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/root{path}"))
}

/// Every function of one file and of its debug file, with its name in the symbol table.
fn functions(pid: u32, path: &str, file: &File, debug: &Found) -> Vec<Symbol> {
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
    let reached = reached(pid, path);
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
        assert!(said.contains("/opt/tool is stripped, and no debug file of it is here"), "{said}");
        assert!(said.ends_with("; debuginfod had no symbols for tool (no server has it)"), "{said}");
    }

    /// Functions by symbol, name and place, all of one file.
    fn table(functions: &[(&str, &str, u64)]) -> Vec<(String, Function)> {
        let function = |(symbol, name, offset): &(&str, &str, u64)| {
            let (name, file) = ((*name).to_owned(), PathBuf::from("/opt/tool"));
            ((*symbol).to_owned(), Function { name, file, offset: *offset })
        };
        functions.iter().map(function).collect()
    }

    #[test]
    fn a_name_that_several_functions_have_is_refused_with_what_each_can_be_asked_for_as() {
        let all = table(&[
            ("_ZN1a3run17h01E", "a::run", 0x10),
            ("_ZN1b3run17h02E", "b::run", 0x20),
            ("step", "step", 0x30),
            ("step", "step", 0x40),
        ]);
        let program = Program { pid: 7, root: None, files: &[] };
        let refused = |name: &str| program.named(&all, name).unwrap_err().to_string();
        assert_eq!(
            refused("run"),
            "run may be one of 2 functions of process 7: a::run, b::run; name one as it stands here"
        );
        assert!(refused("step").contains("step@0x30, step@0x40"), "{}", refused("step"));
        let place = |name: &str| program.named(&all, name).unwrap().map(|function| function.offset);
        let asked = ["b::run", "_ZN1a3run17h01E", "step@0x40", "run@0x10", "step@0x50"];
        assert_eq!(asked.map(place), [Some(0x20), Some(0x10), Some(0x40), Some(0x10), None]);
    }

    #[test]
    fn two_symbols_of_one_function_are_no_two_functions_and_a_whole_name_comes_before_an_end() {
        let all =
            table(&[("step", "step", 0x30), ("step", "step", 0x30), ("_ZN1a4step17h01E", "a::step", 0x50)]);
        let program = Program { pid: 7, root: None, files: &[] };
        assert_eq!(program.named(&all, "step").unwrap().unwrap().offset, 0x30);
    }

    #[test]
    fn of_many_candidates_a_few_are_named() {
        let names: Vec<String> = (0..OFFERED + 2).map(|number| format!("f{number}")).collect();
        assert_eq!(offered(&names), "f0, f1, f2, f3, f4 and 2 more");
        assert_eq!(offered(&names[..2]), "f0, f1");
    }

    #[test]
    fn where_nothing_is_like_a_name_the_program_is_named() {
        let said = |is_stripped| near_names(&[], &ProgramFile { path: "/opt/tool".to_owned(), is_stripped });
        assert_eq!(said(true), ": /opt/tool is stripped, and no debug file of it is here");
        assert!(said(false).contains("`nm /opt/tool | c++filt`"), "{}", said(false));
    }

    #[test]
    fn a_thread_of_the_kernel_has_no_functions_to_offer() {
        // kthreadd, where this host shows it.
        if std::fs::read_to_string("/proc/2/comm").is_ok_and(|name| name.trim_end() == "kthreadd") {
            let said = find(2, "the_window").unwrap_err().to_string();
            assert!(said.contains("process 2 has no file mapped"), "{said}");
        }
    }
}
