//! Names of user addresses: from the mapped file's own symbols, or those of its separate debug file, or
//! from what a run-time compiler wrote down.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{Input, Symbolized, Symbolizer};
use tempfile::NamedTempFile;

use super::debug_file::DebugFiles;
use super::debuginfod::Found;
use super::demangle::demangle;
use crate::images::{Content, Images, Mapping, Place, Segments};

/// Where the symbols of each mapping are, by its process and number.
#[derive(Debug, Default)]
pub struct Binaries {
    known: HashMap<(u32, u32), Option<Binary>>,
    debug_files: DebugFiles,
}

#[derive(Debug)]
struct Binary {
    path: PathBuf,
    segments: Segments,
    /// Its symbols are not here, and servers have not been asked for them yet.
    may_be_fetched: bool,
    /// Holds a file that was made of memory, for a library that reads files only.
    _copy: Option<NamedTempFile>,
}

/// The function of the process `pid` that holds `place`, or the file and offset where it has no name. `is_return` tells that
/// the address is where a call comes back to: the call itself lies before it.
pub fn name(
    symbolizer: &Symbolizer,
    binaries: &mut Binaries,
    pid: u32,
    images: &Images,
    place: Place,
    is_return: bool,
) -> String {
    let address = place.address.saturating_sub(u64::from(is_return));
    let (Some(number), Some(mapping)) = (place.mapping, images.mapping(place)) else {
        return format!("{:#x}", place.address);
    };
    let function = match binaries.binary(pid, number, images, mapping) {
        Some(binary) => binary.function(symbolizer, mapping.offset(address)),
        None => images.perf_map().name(address),
    };
    function.unwrap_or_else(|| position(images, place))
}

impl Binaries {
    /// With symbols from these as well.
    pub fn new(debug_files: DebugFiles) -> Self {
        Self { debug_files, ..Self::default() }
    }

    /// Where symbols are that binaries have not got themselves.
    pub const fn debug_files(&mut self) -> &mut DebugFiles {
        &mut self.debug_files
    }

    fn binary(&mut self, pid: u32, number: u32, images: &Images, mapping: &Mapping) -> Option<&Binary> {
        let Self { known, debug_files } = self;
        let binary = known.entry((pid, number));
        binary.or_insert_with(|| Binary::of(mapping, images, debug_files)).as_ref()
    }

    /// Whether servers may have the symbols of `place`, and have not been asked yet.
    pub fn may_be_fetched(&mut self, pid: u32, images: &Images, place: Place) -> bool {
        let (Some(number), Some(mapping)) = (place.mapping, images.mapping(place)) else { return false };
        self.binary(pid, number, images, mapping).is_some_and(|binary| binary.may_be_fetched)
    }

    /// Has servers asked for what is not here, from now on.
    pub fn allow_fetching(&mut self) {
        self.debug_files.allow_fetching();
        self.known.retain(|_, binary| !binary.as_ref().is_some_and(|binary| binary.may_be_fetched));
    }

    /// What servers could not give, in one sentence.
    pub fn warning(&self) -> Option<String> {
        self.debug_files.warning()
    }
}

impl Binary {
    fn of(mapping: &Mapping, images: &Images, debug_files: &mut DebugFiles) -> Option<Self> {
        let segments = Segments::of(mapping.content());
        match mapping.content() {
            Content::File(file) => {
                let itself = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
                let found = debug_files.find(file, mapping.path(), images.root());
                let may_be_fetched = found == Found::NotAsked;
                let path = if let Found::File(path) = found { path } else { itself };
                Some(Self { path, segments, may_be_fetched, _copy: None })
            }
            Content::Memory(bytes) => {
                let copy = copy(bytes).ok()?;
                Some(Self {
                    path: copy.path().to_owned(),
                    segments,
                    may_be_fetched: false,
                    _copy: Some(copy),
                })
            }
            Content::Unknown => None,
        }
    }

    /// By the address in the file's own terms, which a debug file shares: its offsets are others.
    fn function(&self, symbolizer: &Symbolizer, file_offset: u64) -> Option<String> {
        let source = Source::Elf(Elf::new(&self.path));
        let address = self.segments.address(file_offset)?;
        match symbolizer.symbolize_single(&source, Input::VirtOffset(address)).ok()? {
            Symbolized::Sym(symbol) => Some(demangle(&symbol.name)),
            Symbolized::Unknown(_) => None,
        }
    }
}

fn copy(bytes: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = NamedTempFile::new()?;
    file.write_all(bytes)?;
    Ok(file)
}

/// The file and offset of a place, as far as they are known.
pub fn position(images: &Images, place: Place) -> String {
    let Some(mapping) = images.mapping(place) else { return format!("{:#x}", place.address) };
    let offset = mapping.offset(place.address);
    format!("{}+{offset:#x}", mapping.file_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(images: &Images, address: u64) -> String {
        name(&Symbolizer::new(), &mut Binaries::default(), 1, images, images.place(address), false)
    }

    #[test]
    fn our_own_function_is_named() {
        let images = Images::of(std::process::id()).unwrap();
        let name = name_of(&images, our_own_function_is_named as fn() as usize as u64);
        assert!(name.ends_with("our_own_function_is_named"), "{name}");
    }

    #[test]
    fn mappings_of_one_number_in_two_processes_are_not_mixed_up() {
        let ours = Images::of(std::process::id()).unwrap();
        let unknown = Images::anonymous(&[(0, u64::MAX)]);
        let (symbolizer, mut binaries) = (Symbolizer::new(), Binaries::default());
        let address = our_own_function_is_named as fn() as usize as u64;
        let number = ours.place(address).mapping;
        assert_eq!(number, Some(0), "the test's own code is mapped first");
        let mut name = |pid, images: &Images| {
            name(&symbolizer, &mut binaries, pid, images, Place { mapping: number, address }, false)
        };
        assert!(name(1, &unknown).starts_with("[anonymous]"));
        assert!(name(2, &ours).ends_with("our_own_function_is_named"));
    }

    #[test]
    fn an_address_outside_every_mapping_stays_an_address() {
        assert_eq!(name_of(&Images::default(), 0x1234), "0x1234");
    }

    #[test]
    fn the_vdso_has_names() {
        let images = Images::of(std::process::id()).unwrap();
        let vdso = images.mapping_named("[vdso]").unwrap();
        let binary = Binary::of(vdso, &images, &mut DebugFiles::default()).unwrap();
        let symbolizer = Symbolizer::builder().enable_demangling(false).build();
        let names = (0..0x2000).step_by(16).filter_map(|offset| binary.function(&symbolizer, offset));
        assert!(names.into_iter().any(|name| name.contains("clock_gettime")));
    }
}
