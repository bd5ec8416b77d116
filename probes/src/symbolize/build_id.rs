//! What names one build of a binary among all others.

use std::path::Path;

use object::read::elf::ElfFile64;
use object::{Endianness, Object, ReadCache, ReadRef};

use crate::images::{Content, open_regular};

/// The build-id of a mapped file in hexadecimal, as file names and servers spell it; `None` where it has none.
pub fn build_id(content: &Content) -> Option<String> {
    match content {
        Content::File(file) => read(&ReadCache::new(&**file)),
        Content::Memory(bytes) => read(&**bytes),
        Content::Unknown => None,
    }
}

/// The same of a file that nobody has mapped.
pub fn of_path(path: &Path) -> Option<String> {
    read(&ReadCache::new(&open_regular(path)?))
}

fn read<'data, R: ReadRef<'data>>(data: R) -> Option<String> {
    let elf = ElfFile64::<Endianness, _>::parse(data).ok()?;
    elf.build_id().ok().flatten().filter(|id| !id.is_empty()).map(hexadecimal)
}

/// Bytes as a build-id is spelled.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
