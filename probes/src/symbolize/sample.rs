//! ELF files of a test's own: a build-id, one segment that may be written to, and the symbols that are asked for.

use object::elf::{PT_LOAD, PT_NOTE, SHN_ABS, SHT_NOTE, SHT_STRTAB, SHT_SYMTAB, STB_GLOBAL};

/// A build-id.
pub const BUILD: &str = "00112233445566778899aabbccddeeff00112233";
/// Another.
pub const OTHER: &str = "ffeeddccbbaa99887766554433221100ffeeddcc";
/// The address of the file's first byte, with which its segment begins.
pub const BASE: u64 = 0x4000;
/// Bytes of memory that the segment takes.
pub const MEMORY: u64 = 0x1000;

const FILE_HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
const SECTION_HEADER: u64 = 64;
const SYMBOL: u64 = 24;

/// A symbol of 16 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Symbol {
    /// As the table has it.
    pub name: &'static str,
    /// `STT_OBJECT` or `STT_FUNC`.
    pub kind: u8,
    /// In the file's own terms.
    pub address: u64,
}

/// A file of the build `build_id`, in hexadecimal. Without `symbols` it has no symbol table, as if it were stripped.
pub fn elf(build_id: &str, symbols: &[Symbol]) -> Vec<u8> {
    let note = note(build_id);
    let (table, names) = tables(symbols);
    let note_at = FILE_HEADER + 2 * PROGRAM_HEADER;
    let table_at = note_at + note.len().next_multiple_of(8) as u64;
    let names_at = table_at + table.len() as u64;
    let sections_at = names_at + names.len() as u64;
    let sections = [
        section(0, 0, 0, 0, 0),
        section(SHT_NOTE, note_at, note.len() as u64, 0, 0),
        section(SHT_SYMTAB, table_at, table.len() as u64, 3, SYMBOL),
        section(SHT_STRTAB, names_at, names.len() as u64, 0, 0),
    ];
    let sections = if symbols.is_empty() { &[][..] } else { &sections };
    let count = sections.len() as u16;
    let bytes = sections_at + u64::from(count) * SECTION_HEADER;
    let mut file = file_header(if count == 0 { 0 } else { sections_at }, count);
    file.extend(segment(PT_NOTE, note_at, 0, note.len() as u64, note.len() as u64));
    file.extend(segment(PT_LOAD, 0, BASE, bytes, MEMORY));
    file.extend(note);
    file.resize(table_at as usize, 0);
    file.extend([table, names, sections.concat()].concat());
    file
}

fn halves(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn longs(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Of a shared object for x86-64, whose names of sections are in its last section.
fn file_header(sections_at: u64, sections: u16) -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    header.extend(halves(&[3, 62]));
    header.extend(words(&[1]));
    // Entry, program headers, section headers, flags.
    header.extend(longs(&[0, FILE_HEADER, sections_at]));
    header.extend(words(&[0]));
    let last = sections.saturating_sub(1);
    let sizes = [FILE_HEADER as u16, PROGRAM_HEADER as u16, 2, SECTION_HEADER as u16, sections, last];
    header.extend(halves(&sizes));
    header
}

/// Readable, writable and executable.
fn segment(kind: u32, offset: u64, address: u64, bytes: u64, memory: u64) -> Vec<u8> {
    let alignment = if kind == PT_NOTE { 4 } else { 0x1000 };
    [words(&[kind, 7]), longs(&[offset, address, address, bytes, memory, alignment])].concat()
}

fn section(kind: u32, offset: u64, bytes: u64, link: u32, entry: u64) -> Vec<u8> {
    // No name, flags or address; the first symbol that is not local is the one after the empty one.
    let alignment = if kind == SHT_NOTE { 4 } else { 8 };
    [words(&[0, kind]), longs(&[0, 0, offset, bytes]), words(&[link, 1]), longs(&[alignment, entry])].concat()
}

/// The note that holds a build-id.
fn note(build_id: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    let id: Vec<u8> = build_id.as_bytes().chunks(2).map(byte).collect();
    [words(&[4, id.len() as u32, 3]), b"GNU\0".to_vec(), id].concat()
}

/// A symbol table, and its names.
fn tables(symbols: &[Symbol]) -> (Vec<u8>, Vec<u8>) {
    let (mut table, mut names) = (vec![0; SYMBOL as usize], vec![0]);
    for symbol in symbols {
        table.extend(words(&[names.len() as u32]));
        table.extend([STB_GLOBAL << 4 | symbol.kind, 0]);
        table.extend(halves(&[SHN_ABS]));
        table.extend(longs(&[symbol.address, 16]));
        names.extend(symbol.name.bytes().chain([0]));
    }
    names.resize(names.len().next_multiple_of(8), 0);
    (table, names)
}
