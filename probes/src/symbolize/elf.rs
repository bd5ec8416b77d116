//! Names of user addresses: from the mapped file's own symbols, or those of its separate debug file, or
//! from what a run-time compiler wrote down.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::AsRawFd;

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{Input, Symbolized, Symbolizer};
use tempfile::NamedTempFile;

use super::demangle::demangle;
use crate::images::{Content, Images, Mapping, Place};

/// Files made of memory that no file holds, for a library that reads files only.
#[derive(Debug, Default)]
pub struct Copies(HashMap<usize, Option<NamedTempFile>>);

/// The function that holds `place`, or the file and offset where it has no name. `is_return` tells that
/// the address is where a call comes back to: the call itself lies before it.
pub fn name(
    symbolizer: &Symbolizer,
    copies: &mut Copies,
    images: &Images,
    place: Place,
    is_return: bool,
) -> String {
    let address = place.address.saturating_sub(u64::from(is_return));
    let Some(mapping) = images.mapping(place) else { return format!("{:#x}", place.address) };
    let offset = mapping.offset(address);
    let function = match path(mapping.content(), copies) {
        Some(path) => function(symbolizer, path, offset),
        None => images.perf_map().name(address),
    };
    function.unwrap_or_else(|| position(mapping, mapping.offset(place.address)))
}

fn path(content: &Content, copies: &mut Copies) -> Option<String> {
    match content {
        Content::File(file) => Some(format!("/proc/self/fd/{}", file.as_raw_fd())),
        Content::Memory(bytes) => {
            let copy = copies.0.entry(bytes.as_ptr() as usize).or_insert_with(|| copy(bytes).ok());
            copy.as_ref().map(|copy| copy.path().display().to_string())
        }
        Content::Unknown => None,
    }
}

fn copy(bytes: &[u8]) -> std::io::Result<NamedTempFile> {
    let mut file = NamedTempFile::new()?;
    file.write_all(bytes)?;
    Ok(file)
}

fn function(symbolizer: &Symbolizer, path: String, offset: u64) -> Option<String> {
    let source = Source::Elf(Elf::new(path));
    match symbolizer.symbolize_single(&source, Input::FileOffset(offset)).ok()? {
        Symbolized::Sym(symbol) => Some(demangle(&symbol.name)),
        Symbolized::Unknown(_) => None,
    }
}

fn position(mapping: &Mapping, offset: u64) -> String {
    let file = mapping.path().rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("[anonymous]");
    format!("{file}+{offset:#x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(images: &Images, address: u64) -> String {
        name(&Symbolizer::new(), &mut Copies::default(), images, images.place(address), false)
    }

    #[test]
    fn our_own_function_is_named() {
        let images = Images::of(std::process::id()).unwrap();
        let name = name_of(&images, our_own_function_is_named as fn() as usize as u64);
        assert!(name.ends_with("our_own_function_is_named"), "{name}");
    }

    #[test]
    fn an_address_outside_every_mapping_stays_an_address() {
        assert_eq!(name_of(&Images::default(), 0x1234), "0x1234");
    }
}
