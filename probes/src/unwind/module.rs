//! One mapped file, as far as unwinding needs it.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::os::unix::fs::FileExt;

use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, SectionHeader, Sym};
use object::{Endianness, ReadCache, ReadRef};

use super::cfi::{Cfi, Step};
use super::frame_rule::FrameRule;
use super::offsets::{self, At, Code};
use super::registers::{Registers, Stack};
use crate::images::{Content, Segments};

/// Functions longer than this are not analysed.
const MAX_FUNCTION_BYTES: u64 = 64 << 10;
/// Code that is looked at after an instruction, for its ways to a return.
const WAY_OUT_BYTES: u64 = 4 << 10;
/// Sections larger than this are not read: `.eh_frame` of a large browser has 20 MiB.
const MAX_SECTION_BYTES: u64 = 64 << 20;
/// Functions in which a thread begins: the C libraries' entry to a program, and to a new thread.
const OUTERMOST: [&[u8]; 8] =
    [b"_start", b"start", b"__clone", b"clone", b"__clone3", b"clone3", b"_dl_start_user", b"thread_start"];

/// What a module's file says, read once.
#[derive(Debug)]
pub struct Module {
    content: Content,
    segments: Segments,
    entry: u64,
    cfi: Cfi,
    functions: OnceCell<Vec<Function>>,
    /// Answers of the analysis, by the address they are about.
    rules: RefCell<HashMap<At, Option<FrameRule>>>,
}

/// A symbol of `.symtab`, or of `.dynsym` where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Function {
    start: u64,
    end: u64,
    is_outermost: bool,
}

impl Module {
    /// Reads what can be read. A file that is no ELF file, or a damaged one, is a module about which
    /// nothing is known.
    pub fn new(content: &Content) -> Self {
        let read = match content {
            Content::File(file) => read_all(&ReadCache::new(&**file)),
            Content::Memory(bytes) => read_all(&**bytes),
            Content::Unknown => None,
        };
        let (entry, cfi) = read.unwrap_or_default();
        let segments = Segments::of(content);
        let content = content.clone();
        Self { content, segments, entry, cfi, functions: OnceCell::new(), rules: RefCell::default() }
    }

    /// The address that the byte at `file_offset` has in the file's own terms.
    pub fn address(&self, file_offset: u64) -> Option<u64> {
        self.segments.address(file_offset)
    }

    /// The registers of the caller of the frame at `at`, by call frame information, or by analysis of
    /// the code where there is none.
    pub fn step(&self, at: At, registers: &Registers, stack: Stack<'_>) -> Step {
        let lookup = at.lookup();
        match self.cfi.step(lookup, registers, stack) {
            Step::Uncovered if self.is_outermost(lookup) => Step::End,
            Step::Uncovered => match self.rule(at) {
                Some(rule) => rule
                    .apply(registers, stack)
                    .map_or(Step::Unreadable, |registers| Step::Caller { registers, interrupted: false }),
                None => Step::Uncovered,
            },
            step => step,
        }
    }

    /// Whether call frame information covers this address.
    pub fn is_covered(&self, address: u64) -> bool {
        self.cfi.covers(address)
    }

    /// The rule that the analysis of the code gives at `at`; `None` where it gives none.
    pub fn rule(&self, at: At) -> Option<FrameRule> {
        if let Some(known) = self.rules.borrow().get(&at) {
            return *known;
        }
        let rule = self.analyse(at);
        self.rules.borrow_mut().insert(at, rule);
        rule
    }

    fn analyse(&self, at: At) -> Option<FrameRule> {
        let function = self.function(at.lookup());
        let entry = function.and_then(|function| {
            let bytes = self.code(function.start, function.end)?;
            offsets::from_entry(Code { start: function.start, bytes: &bytes }, at)
        });
        // Beyond its last call, which may not come back, lies another function.
        let end = function.map_or(at.address().checked_add(WAY_OUT_BYTES)?, |function| function.end);
        let exit = self
            .code(at.address(), end)
            .and_then(|bytes| offsets::to_return(Code { start: at.address(), bytes: &bytes }, at.address()));
        offsets::agreed(entry, exit)
    }

    /// Whether a thread begins in the function at `address`.
    fn is_outermost(&self, address: u64) -> bool {
        match self.function(address) {
            Some(function) => function.is_outermost || function.start == self.entry,
            None => false,
        }
    }

    fn function(&self, address: u64) -> Option<Function> {
        let functions = self.functions.get_or_init(|| self.read_functions());
        let after = functions.partition_point(|function| function.start <= address);
        let function = *functions.get(after.checked_sub(1)?)?;
        // The end of a hand-written function is often not given: then it is where the next one begins.
        let next = functions.get(after).map_or(u64::MAX, |next| next.start);
        let end = if function.end > function.start { function.end } else { next };
        let end = end.min(function.start.checked_add(MAX_FUNCTION_BYTES)?);
        (address < end).then_some(Function { end, ..function })
    }

    fn read_functions(&self) -> Vec<Function> {
        let functions = match &self.content {
            Content::File(file) => functions(&ReadCache::new(&**file)),
            Content::Memory(bytes) => functions(&**bytes),
            Content::Unknown => None,
        };
        functions.unwrap_or_default()
    }

    /// The code from `start` to `end`, or to the end of its segment.
    pub fn code(&self, start: u64, end: u64) -> Option<Vec<u8>> {
        let (offset, left) = self.segments.file_offset(start)?;
        let length = usize::try_from(end.checked_sub(start)?.min(left)).ok()?;
        match &self.content {
            Content::File(file) => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, offset).ok()?;
                Some(bytes)
            }
            Content::Memory(bytes) => {
                let from = usize::try_from(offset).ok()?;
                bytes.get(from..from.checked_add(length)?).map(<[u8]>::to_vec)
            }
            Content::Unknown => None,
        }
    }
}

impl At {
    /// An address inside the instruction that tells which function and which row of its information
    /// counts: a call may be the last instruction of a function that does not return.
    pub const fn lookup(self) -> u64 {
        match self {
            Self::Next(ip) => ip,
            Self::After(ip) => ip.saturating_sub(1),
        }
    }

    /// The address at which the frame goes on.
    pub const fn address(self) -> u64 {
        match self {
            Self::Next(ip) | Self::After(ip) => ip,
        }
    }
}

/// The entry point, and the call frame information.
fn read_all<'data, R: ReadRef<'data>>(data: R) -> Option<(u64, Cfi)> {
    let header = FileHeader64::<Endianness>::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, data).ok()?;
    let section = |name: &[u8]| -> (u64, Vec<u8>) {
        let Some((_, section)) = sections.section_by_name(endian, name) else { return Default::default() };
        let bytes = section.data(endian, data).unwrap_or_default();
        let is_small = bytes.len() as u64 <= MAX_SECTION_BYTES;
        (section.sh_addr(endian), if is_small { bytes.to_vec() } else { Vec::new() })
    };
    let text = sections.section_by_name(endian, b".text").map_or(0, |(_, text)| text.sh_addr(endian));
    Some((header.e_entry(endian), Cfi::new(section(b".eh_frame"), section(b".eh_frame_hdr"), text)))
}

fn functions<'data, R: ReadRef<'data>>(data: R) -> Option<Vec<Function>> {
    let header = FileHeader64::<Endianness>::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, data).ok()?;
    let all = sections.symbols(endian, data, elf::SHT_SYMTAB).ok().filter(|table| !table.is_empty());
    let table = match all {
        Some(table) => table,
        None => sections.symbols(endian, data, elf::SHT_DYNSYM).ok()?,
    };
    let mut functions: Vec<Function> = table
        .iter()
        .filter(|symbol| {
            // Labels of hand-written code have no type.
            matches!(symbol.st_type(), elf::STT_FUNC | elf::STT_GNU_IFUNC | elf::STT_NOTYPE)
                && symbol.st_shndx(endian) != elf::SHN_UNDEF
                && symbol.st_value(endian) != 0
        })
        .map(|symbol| {
            let start = symbol.st_value(endian);
            let name = table.symbol_name(endian, symbol).unwrap_or_default();
            let end = start.saturating_add(symbol.st_size(endian));
            Function { start, end, is_outermost: OUTERMOST.contains(&name) }
        })
        .collect();
    functions.sort_unstable();
    // Several names of one function: one entry, outermost if any name says so, as long as the longest.
    functions.dedup_by(|later, kept| {
        let is_same = later.start == kept.start;
        if is_same {
            kept.is_outermost |= later.is_outermost;
            kept.end = kept.end.max(later.end);
        }
        is_same
    });
    Some(functions)
}
