//! Functions of a process by name: where to put a probe, and what else was meant if there is none.

use std::fs::File;
use std::path::PathBuf;

use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSegment, ObjectSymbol, ReadCache, ReadRef, SymbolKind};
use thiserror::Error;

use super::debug_file;
use super::demangle::demangle;
use crate::images::Images;

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
    #[error("process {pid} has no function {name}{}", near_names(.near))]
    NotFound {
        /// The process.
        pid: u32,
        /// As it was asked for.
        name: String,
        /// Names that are like it.
        near: Vec<String>,
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

/// Finds the function `name` (as the source spells it, or mangled, or its last parts) of the process `pid`.
///
/// # Errors
/// [`FunctionError`] with the nearest names.
pub fn find(pid: u32, name: &str) -> Result<Function, FunctionError> {
    let images = Images::of(pid).map_err(|error| FunctionError::Unreadable(pid, error.to_string()))?;
    let mut all = Vec::new();
    for (path, file) in images.files() {
        all.extend(functions(pid, path, file, &images));
    }
    let exact = all.iter().find(|function| function.0 == name || function.1.name == name);
    let tail = format!("::{name}");
    let found = exact.or_else(|| all.iter().find(|function| function.1.name.ends_with(&tail)));
    match found {
        Some((_, function)) => Ok(function.clone()),
        None => {
            let names = all.iter().map(|(_, function)| function.name.as_str());
            Err(FunctionError::NotFound { pid, name: name.to_owned(), near: nearest(name, names) })
        }
    }
}

/// Every function of one file, with its name in the symbol table.
fn functions(pid: u32, path: &str, file: &File, images: &Images) -> Vec<(String, Function)> {
    let loaded = ReadCache::new(file);
    let Ok(elf) = ElfFile64::<Endianness, _>::parse(&loaded) else { return Vec::new() };
    let spans = spans(&elf);
    let debug = debug_file::find(file, path, images).and_then(|path| File::open(path).ok());
    let mut named = symbols(&elf);
    if let Some(debug) = &debug {
        let data = ReadCache::new(debug);
        if let Ok(elf) = ElfFile64::<Endianness, _>::parse(&data) {
            named.extend(symbols(&elf));
        }
    }
    let reached = PathBuf::from(format!("/proc/{pid}/root{path}"));
    let function = |(name, address): (String, u64)| {
        let offset = file_offset(&spans, address)?;
        Some((name.clone(), Function { name: demangle(&name), file: reached.clone(), offset }))
    };
    named.into_iter().filter_map(function).collect()
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
    use super::*;

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
}
