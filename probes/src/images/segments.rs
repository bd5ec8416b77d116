//! Where the parts of an ELF file that are mapped lie in the file, and in its own terms.

use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, ReadCache, ReadRef};

use super::Content;

/// The loadable segments.
#[derive(Clone, Debug, Default)]
pub struct Segments(Vec<Segment>);

#[derive(Clone, Copy, Debug)]
struct Segment {
    file_offset: u64,
    address: u64,
    file_bytes: u64,
}

impl Segments {
    /// Those of a mapped file; none where it is no ELF file of this machine.
    pub fn of(content: &Content) -> Self {
        let read = match content {
            Content::File(file) => Self::read(&ReadCache::new(&**file)),
            Content::Memory(bytes) => Self::read(&**bytes),
            Content::Unknown => None,
        };
        read.unwrap_or_default()
    }

    /// Those of an ELF file; `None` where it is none of this machine.
    pub fn read<'data, R: ReadRef<'data>>(data: R) -> Option<Self> {
        let header = FileHeader64::<Endianness>::parse(data).ok()?;
        let endian = header.endian().ok()?;
        let segments = header.program_headers(endian, data).ok()?;
        let loadable = segments.iter().filter(|segment| segment.p_type(endian) == elf::PT_LOAD);
        let segment = |segment: &elf::ProgramHeader64<Endianness>| Segment {
            file_offset: segment.p_offset(endian),
            address: segment.p_vaddr(endian),
            file_bytes: segment.p_filesz(endian),
        };
        (header.e_machine(endian) == elf::EM_X86_64).then(|| Self(loadable.map(segment).collect()))
    }

    /// The address that the byte at `file_offset` has in the file's own terms.
    pub fn address(&self, file_offset: u64) -> Option<u64> {
        let within = |segment: &Segment| file_offset.wrapping_sub(segment.file_offset);
        let segment = self.0.iter().find(|segment| within(segment) < segment.file_bytes)?;
        segment.address.checked_add(within(segment))
    }

    /// Where in the file the byte at `address` is, and how many follow it in its segment.
    pub fn file_offset(&self, address: u64) -> Option<(u64, u64)> {
        let within = |segment: &Segment| address.wrapping_sub(segment.address);
        let segment = self.0.iter().find(|segment| within(segment) < segment.file_bytes)?;
        let within = within(segment);
        Some((segment.file_offset.checked_add(within)?, segment.file_bytes - within))
    }
}
