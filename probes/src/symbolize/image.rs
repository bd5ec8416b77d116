//! The executable files of a process, held open so that its instructions can still be named when it has
//! ended, or its files have been replaced.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{Input, Symbolized, Symbolizer};

/// Where each executable mapping of a process came from.
#[derive(Debug, Default)]
pub struct Images {
    mappings: Vec<Mapping>,
}

#[derive(Debug)]
struct Mapping {
    start: u64,
    end: u64,
    file_offset: u64,
    /// The path as the process sees it, or a name such as `[vdso]`; empty for anonymous memory.
    path: String,
    file: Option<File>,
}

impl Images {
    /// Reads the executable mappings of `pid`, and opens their files.
    pub fn of(pid: u32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let mappings = text.lines().filter_map(parse).map(|mapping| mapping.open(pid)).collect();
        Ok(Self { mappings })
    }

    /// Those of several processes, and why the instructions of some will have no names: no reason not to
    /// record.
    pub fn of_all(pids: impl IntoIterator<Item = u32>) -> (BTreeMap<u32, Self>, Vec<String>) {
        let mut unreadable = Vec::new();
        let mut one = |pid| {
            let images = Self::of(pid).unwrap_or_else(|error| {
                unreadable
                    .push(format!("user frames have no names: /proc/{pid}/maps cannot be read ({error})"));
                Self::default()
            });
            (pid, images)
        };
        let images = pids.into_iter().map(&mut one).collect();
        (images, unreadable)
    }

    /// Puts what is mapped now before what was known: libraries may have been loaded meanwhile, or the
    /// process may run another program.
    pub fn refresh(&mut self, pid: u32) {
        if let Ok(now) = Self::of(pid) {
            self.mappings.splice(0..0, now.mappings);
        }
    }

    /// The function that holds `ip`, or the file and offset where it has no name.
    pub fn name(&self, symbolizer: &Symbolizer, ip: u64) -> String {
        let Some(mapping) = self.mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&ip))
        else {
            return format!("{ip:#x}");
        };
        let offset = ip - mapping.start + mapping.file_offset;
        mapping.function(symbolizer, offset).unwrap_or_else(|| mapping.place(offset))
    }
}

impl Mapping {
    fn open(mut self, pid: u32) -> Self {
        if self.path.starts_with('/') {
            // map_files leads to the mapped file itself, even if deleted, but needs CAP_SYS_ADMIN;
            // root leads through the process's own mounts.
            let itself = format!("/proc/{pid}/map_files/{:x}-{:x}", self.start, self.end);
            let by_name = format!("/proc/{pid}/root{}", self.path);
            self.file = File::open(itself).or_else(|_| File::open(by_name)).ok();
        }
        self
    }

    fn function(&self, symbolizer: &Symbolizer, offset: u64) -> Option<String> {
        let path = format!("/proc/self/fd/{}", self.file.as_ref()?.as_raw_fd());
        let source = Source::Elf(Elf::new(path));
        match symbolizer.symbolize_single(&source, Input::FileOffset(offset)).ok()? {
            Symbolized::Sym(symbol) => Some(symbol.name.into_owned()),
            Symbolized::Unknown(_) => None,
        }
    }

    fn place(&self, offset: u64) -> String {
        let file = self.path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("[anonymous]");
        format!("{file}+{offset:#x}")
    }
}

/// One line of `/proc/PID/maps`, where it is executable.
fn parse(line: &str) -> Option<Mapping> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let is_executable = fields.next()?.as_bytes().get(2) == Some(&b'x');
    let file_offset = u64::from_str_radix(fields.next()?, 16).ok()?;
    let path = fields.nth(2).unwrap_or("").trim().to_owned();
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    is_executable.then_some(Mapping { start, end, file_offset, path, file: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_hold_spaces_and_only_code_counts() {
        let line =
            "7f00000000-7f00002000 r-xp 00001000 08:01 42                         /opt/a b/c (deleted)";
        let mapping = parse(line).unwrap();
        assert_eq!(
            (mapping.start, mapping.end, mapping.file_offset),
            (0x7f_0000_0000, 0x7f_0000_2000, 0x1000)
        );
        assert_eq!(mapping.path, "/opt/a b/c (deleted)");
        assert!(parse(&line.replace("r-xp", "rw-p")).is_none());
        assert!(parse("nonsense").is_none());
    }

    #[test]
    fn our_own_function_is_named() {
        let images = Images::of(std::process::id()).unwrap();
        let ip = our_own_function_is_named as fn() as usize as u64;
        let name = images.name(&Symbolizer::new(), ip);
        assert!(name.contains("our_own_function_is_named") || name.contains("image"), "{name}");
    }

    #[test]
    fn an_address_outside_every_mapping_stays_an_address() {
        assert_eq!(Images::default().name(&Symbolizer::new(), 0x1234), "0x1234");
    }
}
