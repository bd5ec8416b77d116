//! The code that a process has mapped, as it was while the process lived: which file each mapping came
//! from, with the file held open, so that addresses can still be unwound and named when the process has
//! ended or its files have been replaced.

mod maps;
mod perf_map;
mod segments;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use probes_common::{CODE_SPANS, CodeSpan};

pub use perf_map::PerfMap;
pub use segments::Segments;

/// The most bytes of the vdso that are kept: it has had two to four pages for years.
const VDSO_MAX: u64 = 1 << 20;

/// One executable mapping.
#[derive(Debug)]
pub struct Mapping {
    line: maps::Line,
    content: Content,
}

/// Where the bytes of a mapping can be read.
#[derive(Clone, Debug)]
pub enum Content {
    /// In the mapped file.
    File(Arc<File>),
    /// Here: the vdso, which no file holds.
    Memory(Arc<[u8]>),
    /// Nowhere: anonymous memory, or a file that could not be opened.
    Unknown,
}

/// Every mapping that a process was seen to have, and which of them it has at present.
#[derive(Debug, Default)]
pub struct Images {
    /// `/proc/PID`, held open: another process that gets the same id is not found through it.
    process: Option<File>,
    /// Its root directory, which stays when the process ends.
    root: Option<File>,
    all: Vec<Mapping>,
    /// Indices into `all`, by address.
    current: Vec<u32>,
    perf_map: PerfMap,
}

/// An address inside one of the mappings of [`Images`], by the mapping's number: it stays true when the
/// process maps something else there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// `None` where nothing known was mapped.
    pub mapping: Option<u32>,
    /// The address.
    pub address: u64,
}

impl Mapping {
    /// Where in its file, or in its memory, the byte at `address` lies.
    pub const fn offset(&self, address: u64) -> u64 {
        address.wrapping_sub(self.line.start).wrapping_add(self.line.file_offset)
    }

    /// Its addresses.
    pub const fn addresses(&self) -> Range<u64> {
        self.line.start..self.line.end
    }

    /// Where in its file it begins.
    pub const fn file_offset(&self) -> u64 {
        self.line.file_offset
    }

    /// One whose bytes are on another machine.
    pub fn recorded(addresses: Range<u64>, file_offset: u64, path: String) -> Self {
        let Range { start, end } = addresses;
        Self {
            line: maps::Line { start, end, file_offset, identity: String::new(), path },
            content: Content::Unknown,
        }
    }

    /// Its bytes.
    pub const fn content(&self) -> &Content {
        &self.content
    }

    /// The path as the process sees it, or a name such as `[vdso]`; empty for anonymous memory.
    pub fn path(&self) -> &str {
        &self.line.path
    }

    /// The last part of the path, or the name; `[anonymous]` where there is none.
    pub fn file_name(&self) -> &str {
        self.path().rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("[anonymous]")
    }

    fn open(line: maps::Line, process: &Path) -> Self {
        let content = match line.path.as_str() {
            "[vdso]" => memory(process, &line).map_or(Content::Unknown, Content::Memory),
            path if path.starts_with('/') => open(process, &line).map_or(Content::Unknown, Content::File),
            _ => Content::Unknown,
        };
        Self { line, content }
    }
}

impl Images {
    /// Reads the executable mappings of `pid`, and opens their files.
    pub fn of(pid: u32) -> io::Result<Self> {
        let process = File::open(format!("/proc/{pid}"))?;
        let root = File::open(folder(&process).join("root")).ok();
        let mut images = Self { process: Some(process), root, ..Self::default() };
        images.refresh()?;
        Ok(images)
    }

    /// Code at these addresses that came from no file.
    #[cfg(test)]
    pub fn anonymous(spans: &[(u64, u64)]) -> Self {
        let line = |(start, end): &(u64, u64)| maps::Line {
            start: *start,
            end: *end,
            file_offset: 0,
            identity: String::new(),
            path: String::new(),
        };
        let all = spans.iter().map(|span| Mapping { line: line(span), content: Content::Unknown }).collect();
        Self { all, current: (0..spans.len() as u32).collect(), ..Self::default() }
    }

    /// Every mapping there has been, by its number.
    pub fn all(&self) -> &[Mapping] {
        &self.all
    }

    /// The numbers of those that there are, by address.
    pub fn current(&self) -> &[u32] {
        &self.current
    }

    /// Adds mappings that were seen on another machine, and says which of all there are at present. False where
    /// one of these numbers has no mapping: then they stay as they were.
    pub fn restore(&mut self, added: impl IntoIterator<Item = Mapping>, current: Vec<u32>) -> bool {
        self.all.extend(added);
        let is_known = current.iter().all(|number| (*number as usize) < self.all.len());
        if is_known {
            self.current = current;
        }
        is_known
    }

    /// Looks at what is mapped now: libraries may have been loaded, or the process may run another program.
    pub fn refresh(&mut self) -> io::Result<()> {
        let Some(process) = self.process.as_ref().map(folder) else { return Ok(()) };
        let text = fs::read_to_string(process.join("maps"))?;
        let lines: Vec<maps::Line> = text.lines().filter_map(maps::parse).collect();
        // A process that is ending has no mappings any more; what it had is worth more than that.
        if !lines.is_empty() {
            self.current = lines.into_iter().map(|line| self.number(line, &process)).collect();
        }
        if self.current.iter().any(|index| self.all[*index as usize].line.path.is_empty()) {
            self.perf_map.find(&process);
        }
        Ok(())
    }

    /// The number of a mapping, which gets one where it is new.
    fn number(&mut self, line: maps::Line, process: &Path) -> u32 {
        let known = self.all.iter().position(|mapping| mapping.line == line);
        known.unwrap_or_else(|| {
            self.all.push(Mapping::open(line, process));
            self.all.len() - 1
        }) as u32
    }

    /// Where `address` lies at present.
    pub fn place(&self, address: u64) -> Place {
        let after = self.current.partition_point(|index| self.all[*index as usize].line.start <= address);
        let mapping = after.checked_sub(1).map(|at| self.current[at]);
        Place { mapping: mapping.filter(|index| address < self.all[*index as usize].line.end), address }
    }

    /// The mapping of a place.
    pub fn mapping(&self, place: Place) -> Option<&Mapping> {
        self.all.get(place.mapping? as usize)
    }

    /// Whether the process has not ended; another one of the same id is not it.
    pub fn is_alive(&self) -> bool {
        self.process.as_ref().is_some_and(|process| fs::metadata(folder(process).join("stat")).is_ok())
    }

    /// The files that are mapped at present, each once, with the path as the process sees it.
    pub fn files(&self) -> impl Iterator<Item = (&str, &File)> {
        let mut seen = std::collections::HashSet::new();
        self.current.iter().filter_map(move |index| {
            let mapping = &self.all[*index as usize];
            match &mapping.content {
                Content::File(file) if seen.insert(mapping.path()) => Some((mapping.path(), &**file)),
                _ => None,
            }
        })
    }

    /// The process's root directory.
    pub const fn root(&self) -> Option<&File> {
        self.root.as_ref()
    }

    /// The mapping of that path.
    #[cfg(test)]
    pub fn mapping_named(&self, path: &str) -> Option<&Mapping> {
        self.all.iter().find(|mapping| mapping.path() == path)
    }

    /// The names that a run-time compiler gave to the code that it made.
    pub const fn perf_map(&self) -> &PerfMap {
        &self.perf_map
    }

    /// Spans that hold all of the process's code but the vdso's, which calls nothing that waits: with the
    /// widest gap between two mappings left out.
    pub fn code_spans(&self) -> [CodeSpan; CODE_SPANS] {
        let code: Vec<&maps::Line> = self
            .current
            .iter()
            .map(|index| &self.all[*index as usize].line)
            .filter(|line| line.path != "[vdso]")
            .collect();
        let (Some(first), Some(last)) = (code.first(), code.last()) else { return Default::default() };
        let span = |start: u64, end: u64| CodeSpan { start, length: end - start };
        let gap = |pair: &&[&maps::Line]| pair[1].start - pair[0].end;
        match code.windows(2).max_by_key(gap) {
            Some(widest) => [span(first.start, widest[0].end), span(widest[1].start, last.end)],
            None => [span(first.start, last.end), CodeSpan::default()],
        }
    }
}

/// For [`crate::fuzzing`]: every line of `maps`, and `status`.
#[cfg(any(test, feature = "fuzzing"))]
pub fn parse_texts(text: &str) {
    for line in text.lines() {
        let _ = maps::parse(line);
    }
    let _ = perf_map::own_pid_in(text);
}

/// `map_files` leads to the mapped file itself, even if deleted, but needs CAP_SYS_ADMIN; `root` leads
/// through the process's own mounts.
fn open(process: &Path, line: &maps::Line) -> Option<Arc<File>> {
    let itself = process.join(format!("map_files/{:x}-{:x}", line.start, line.end));
    let by_name = process.join(format!("root{}", line.path));
    open_regular(&itself).or_else(|| open_regular(&by_name)).map(Arc::new)
}

/// A name that the watched process chose may lead to a pipe by now: opening it must not wait.
pub(crate) fn open_regular(path: &Path) -> Option<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
    file.metadata().ok().filter(|metadata| metadata.is_file()).map(|_| file)
}

fn folder(process: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", process.as_raw_fd()))
}

fn memory(process: &Path, line: &maps::Line) -> Option<Arc<[u8]>> {
    let mut bytes = vec![0; (line.end - line.start).min(VDSO_MAX) as usize];
    let memory = File::open(process.join("mem")).ok()?;
    memory.read_exact_at(&mut bytes, line.start).ok()?;
    Some(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(spans: &[(u64, u64, &str)]) -> Images {
        let line = |(start, end, path): &(u64, u64, &str)| maps::Line {
            start: *start,
            end: *end,
            file_offset: 0,
            identity: String::new(),
            path: (*path).to_owned(),
        };
        let all = spans.iter().map(|span| Mapping { line: line(span), content: Content::Unknown }).collect();
        let current = (0..spans.len() as u32).collect();
        Images { all, current, ..Images::default() }
    }

    #[test]
    fn an_address_is_found_in_its_mapping_and_in_no_gap() {
        let images = images(&[(10, 20, "a"), (30, 40, "b")]);
        let found = [5, 10, 19, 20, 30, 40].map(|address| images.place(address).mapping);
        assert_eq!(found, [None, Some(0), Some(0), None, Some(1), None]);
    }

    #[test]
    fn code_spans_leave_out_the_widest_gap() {
        let spans =
            images(&[(10, 20, "exe"), (1000, 1010, "lib"), (1020, 1030, "libc"), (9000, 9010, "[vdso]")])
                .code_spans();
        assert_eq!(spans.map(|span| (span.start, span.length)), [(10, 10), (1000, 30)]);
        assert_eq!(images(&[(10, 20, "exe")]).code_spans()[0], CodeSpan { start: 10, length: 10 });
        assert_eq!(images(&[]).code_spans(), [CodeSpan::default(); 2]);
    }

    #[test]
    fn our_own_code_and_vdso_are_there() {
        let images = Images::of(std::process::id()).unwrap();
        let place = images.place(our_own_code_and_vdso_are_there as fn() as usize as u64);
        assert!(matches!(images.mapping(place).unwrap().content(), Content::File(_)));
        let vdso = images.mapping_named("[vdso]").unwrap();
        assert!(matches!(vdso.content(), Content::Memory(bytes) if bytes.starts_with(b"\x7fELF")));
    }
}
