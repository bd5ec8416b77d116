//! What lies at a data address of a process: heap, stack, a module's variable, a named mapping.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use object::{Object, ObjectSegment, ObjectSymbol, ReadCache, ReadRef, SymbolKind};
use reports::futex::Home;

use super::debug_file::DebugFiles;
use super::debuginfod::Found;
use crate::images::open_regular;
use crate::proc;

/// A process's mappings.
#[derive(Debug, Default)]
pub struct Places {
    pid: u32,
    /// Its root directory, which stays when the process ends.
    root: Option<File>,
    regions: Vec<Region>,
    /// Where each thread's stack pointer was, by thread.
    stacks: Vec<(u32, u64)>,
}

/// One line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Region {
    start: u64,
    end: u64,
    file_offset: u64,
    inode: u64,
    /// As the process sees it, or a name such as `[heap]`; empty for anonymous memory.
    path: String,
}

impl Places {
    /// Reads the mappings of `pid`; there are none where they cannot be read.
    pub fn of(pid: u32) -> Self {
        let text = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        Self {
            pid,
            root: File::open(format!("/proc/{pid}/root")).ok(),
            regions: text.lines().filter_map(parse).collect(),
            stacks: proc::stack_pointers(pid),
        }
    }

    /// Takes what is mapped now, where there is anything: a process that has ended keeps what it had.
    pub fn refresh(&mut self, pid: u32) {
        let now = Self::of(pid);
        if !now.regions.is_empty() {
            let mut stacks = now.stacks.clone();
            stacks.extend(
                self.stacks.iter().filter(|(tid, _)| !now.stacks.iter().any(|(known, _)| known == tid)),
            );
            *self = Self { stacks, ..now };
        }
    }

    /// What lies at `address`. A variable has its name from the module, or from its debug file.
    pub(super) fn home(&self, address: u64, debug_files: &mut DebugFiles) -> Home {
        let Some(index) = self.regions.iter().position(|region| region.holds(address)) else {
            return Home::Unmapped;
        };
        let region = &self.regions[index];
        if let Some((tid, _)) = self.stacks.iter().find(|(_, pointer)| region.holds(*pointer)) {
            return Home::Stack { tid: *tid };
        }
        match region.path.as_str() {
            "[heap]" => Home::Heap,
            "[stack]" => Home::Stack { tid: self.pid },
            "" => self.data_before(index, address, debug_files).unwrap_or(Home::Anonymous),
            path if path.starts_with('/') => {
                self.data(region, region, address, debug_files).unwrap_or_else(|| named(region, address))
            }
            _ => named(region, address),
        }
    }

    /// Zeroed data lies in anonymous memory right behind the last mapping of its file.
    fn data_before(&self, index: usize, address: u64, debug_files: &mut DebugFiles) -> Option<Home> {
        let before = self.regions[..index].last()?;
        let at = &self.regions[index];
        let is_module = before.path.starts_with('/') && before.end == at.start;
        if is_module { self.data(before, at, address, debug_files) } else { None }
    }

    /// A module's variable, where `mapping` maps an ELF file whose segment reaches to `address`.
    fn data(
        &self,
        mapping: &Region,
        at: &Region,
        address: u64,
        debug_files: &mut DebugFiles,
    ) -> Option<Home> {
        let file = self.open(mapping)?;
        let cache = ReadCache::new(&file);
        let (module_address, file_end) = module_address(&cache, mapping, at, address)?;
        let elsewhere = || match debug_files.find(&file, &mapping.path, self.root.as_ref()) {
            Found::File(path) => variable(&ReadCache::new(open_regular(&path)?), module_address),
            Found::NotAsked | Found::Nothing => None,
        };
        Some(Home::Data {
            module: mapping.path.clone(),
            symbol: variable(&cache, module_address).or_else(elsewhere),
            module_address,
            zeroed: module_address >= file_end,
        })
    }

    fn open(&self, region: &Region) -> Option<File> {
        let through_process = format!("/proc/{}/root{}", self.pid, region.path);
        let itself = format!("/proc/{}/map_files/{:x}-{:x}", self.pid, region.start, region.end);
        [itself.as_str(), through_process.as_str(), region.path.as_str()].into_iter().find_map(|path| {
            let file = File::open(path).ok()?;
            // The path may lead to another file by now, and does in another mount namespace.
            (file.metadata().ok()?.ino() == region.inode).then_some(file)
        })
    }
}

impl Region {
    const fn holds(&self, address: u64) -> bool {
        self.start <= address && address < self.end
    }
}

/// The address in the file's own terms, and where the contents of its segment end in them.
fn module_address<'data>(
    file: impl ReadRef<'data>,
    mapping: &Region,
    at: &Region,
    address: u64,
) -> Option<(u64, u64)> {
    let elf = object::File::parse(file).ok()?;
    // A page of the file that ends one segment and begins the next is mapped for each; the mapping that
    // begins with it is the next one's.
    let segment = elf
        .segments()
        .filter(|segment| maps(segment, mapping))
        .max_by_key(|segment| segment.file_range().0)?;
    let (offset, size) = segment.file_range();
    // Where the segment's contents would begin, had they been mapped in one piece.
    let contents = mapping.start.wrapping_add(offset).wrapping_sub(mapping.file_offset);
    let module_address = address.wrapping_sub(contents).wrapping_add(segment.address());
    let end = segment.address().checked_add(segment.size())?;
    // Memory beyond the segment that happens to lie behind it is not the module's.
    let page_end = end.checked_next_multiple_of(0x1000)?;
    let file_end = segment.address().checked_add(size)?;
    (at.holds(address) && module_address < page_end).then_some((module_address, file_end))
}

/// Whether this mapping is one of a writable segment; mappings begin at a page, segments need not.
fn maps<'data>(segment: &impl ObjectSegment<'data>, mapping: &Region) -> bool {
    let (offset, size) = segment.file_range();
    let end = offset.saturating_add(size.max(1));
    (offset & !0xfff..end).contains(&mapping.file_offset) && is_writable(segment)
}

fn is_writable<'data>(segment: &impl ObjectSegment<'data>) -> bool {
    match segment.flags() {
        object::SegmentFlags::Elf { p_flags } => p_flags & object::elf::PF_W != 0,
        _ => false,
    }
}

/// The variable at `address`, and how far into it that is.
fn variable<'data>(file: impl ReadRef<'data>, address: u64) -> Option<(String, u64)> {
    let elf = object::File::parse(file).ok()?;
    let symbols = elf.symbols().chain(elf.dynamic_symbols());
    let mut data = symbols.filter(|symbol| symbol.kind() == SymbolKind::Data && symbol.size() > 0);
    let symbol = data.find(|symbol| address.wrapping_sub(symbol.address()) < symbol.size())?;
    let name = symbol.name().ok()?;
    Some((super::demangle::demangle(name), address.wrapping_sub(symbol.address())))
}

fn named(region: &Region, address: u64) -> Home {
    let offset = (address - region.start).wrapping_add(region.file_offset);
    Home::Mapping { name: region.path.clone(), offset }
}

/// For [`crate::fuzzing`]: the variable at an address, in the file's own terms and in those of a mapping.
#[cfg(any(test, feature = "fuzzing"))]
pub fn parse_elf(bytes: &[u8], address: u64) {
    let mapping =
        Region { start: 0x1000, end: 0x9000, file_offset: 0x1000, inode: 7, path: "/lib".to_owned() };
    let _ = (variable(bytes, address), module_address(bytes, &mapping, &mapping, address));
}

/// For [`crate::fuzzing`]: every line.
#[cfg(any(test, feature = "fuzzing"))]
pub fn parse_maps(text: &str) {
    for line in text.lines() {
        let _ = parse(line);
    }
}

fn parse(line: &str) -> Option<Region> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let file_offset = u64::from_str_radix(fields.nth(1)?, 16).ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    let path = fields.next().unwrap_or("").trim().to_owned();
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    Some(Region { start, end, file_offset, inode, path })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::AtomicU32;

    use object::elf::STT_OBJECT;

    use super::*;
    use crate::symbolize::debuginfod::server::{Server, client, ok};
    use crate::symbolize::sample::{BASE, BUILD, MEMORY, Symbol, elf};

    static ZEROED: AtomicU32 = AtomicU32::new(0);
    static FILLED: AtomicU32 = AtomicU32::new(7);

    #[test]
    fn a_line_of_maps_gives_its_five_parts() {
        let line =
            "7f00000000-7f00002000 rw-p 00001000 08:01 42                         /opt/a b/c (deleted)";
        let expected = Region {
            start: 0x7f_0000_0000,
            end: 0x7f_0000_2000,
            file_offset: 0x1000,
            inode: 42,
            path: "/opt/a b/c (deleted)".to_owned(),
        };
        assert_eq!(parse(line), Some(expected));
        assert_eq!(parse("7f00-7f01 rw-p 0 00:00 0").map(|region| region.path), Some(String::new()));
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn our_own_variables_heap_and_stack_are_told_apart() {
        let places = Places::of(std::process::id());
        let home_of = |places: &Places, address| places.home(address, &mut DebugFiles::default());
        let home = |variable: &AtomicU32| home_of(&places, std::ptr::from_ref(variable) as u64);
        let name = |home: &Home| match home {
            Home::Data { symbol: Some((name, 0)), zeroed, .. } => format!("{name} {zeroed}"),
            other => format!("{other:?}"),
        };
        assert!(name(&home(&ZEROED)).contains("ZEROED true"), "{:?}", home(&ZEROED));
        assert!(name(&home(&FILLED)).contains("FILLED false"), "{:?}", home(&FILLED));
        let local = AtomicU32::new(1);
        assert!(matches!(home(&local), Home::Stack { .. }), "{:?}", home(&local));
        let mapped = vec![0_u8; 64 << 20];
        assert_eq!(home_of(&places, 0), Home::Unmapped);
        // Mapped after the look.
        assert_eq!(home_of(&places, mapped.as_ptr() as u64), Home::Unmapped);
        let now = Places::of(std::process::id());
        assert_eq!(home_of(&now, mapped.as_ptr() as u64 + 4096), Home::Anonymous);
    }

    /// A process that has the module at this path, its one segment at 0x10000.
    fn places_with(module: &Path) -> Places {
        let inode = fs::metadata(module).unwrap().ino();
        let path = module.to_str().unwrap().to_owned();
        let region = Region { start: 0x1_0000, end: 0x1_0000 + MEMORY, file_offset: 0, inode, path };
        // No process has this id.
        Places { pid: u32::MAX, root: None, regions: vec![region], stacks: Vec::new() }
    }

    #[test]
    fn a_stripped_modules_variable_has_its_name_from_a_server_once_it_may_be_asked() {
        let symbols = [Symbol { name: "ready_flag", kind: STT_OBJECT, address: BASE + 0x20 }];
        let server = Server::start(Some(ok(&elf(BUILD, &symbols))));
        let (folder, client) = client(&[&server]);
        let mut files = DebugFiles::with(client);
        let module = folder.path().join("tool");
        fs::write(&module, elf(BUILD, &[])).unwrap();
        let places = places_with(&module);
        let symbol = |files: &mut DebugFiles| match places.home(0x1_0024, files) {
            Home::Data { symbol, module_address, .. } => (symbol, module_address),
            other => panic!("{other:?}"),
        };
        assert_eq!(symbol(&mut files), (None, BASE + 0x24));
        assert!(server.requests().is_empty(), "{:?}", server.requests());
        files.allow_fetching();
        for _ in 0..2 {
            assert_eq!(symbol(&mut files), (Some(("ready_flag".to_owned(), 4)), BASE + 0x24));
        }
        assert_eq!(server.requests().len(), 1);
    }
}
