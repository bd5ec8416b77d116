//! Addresses to names. The only module that reads symbols.

mod build_id;
mod debug_file;
mod debuginfod;
mod demangle;
mod elf;
pub mod functions;
mod namer;
mod place;
#[cfg(test)]
mod sample;
mod trim;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::ops::Range;

use reports::futex::Home;

use crate::aggregate::{Names, UserNames};
use crate::decode::UserSide;
use crate::images::Place;
use crate::unwind::ProcessStacks;

pub use build_id::build_id;
pub use namer::Namer;
pub use place::Places;
#[cfg(any(test, feature = "fuzzing"))]
pub use place::parse_maps;

/// Names that are known, by address.
#[derive(Debug, Default)]
pub struct Known {
    /// Of the kernel.
    pub kernel: HashMap<u64, String>,
    /// By process, place, and whether it is a return address.
    pub user: HashMap<(u32, Place, bool), String>,
    /// Of device interrupts, by number; `None` where it is known that there is none.
    pub devices: HashMap<u32, Option<String>>,
}

/// Names kernel and user addresses, each at most once.
#[derive(Debug)]
pub struct Symbolizer {
    known: Known,
    /// Looks up what is not known; `None` far from where it was recorded.
    namer: Option<Namer>,
    stacks: ProcessStacks,
}

impl Symbolizer {
    /// For the kernel that runs, and the processes whose stacks these are.
    pub fn new(stacks: ProcessStacks) -> Self {
        Self { known: Known::default(), namer: Some(Namer::default()), stacks }
    }

    /// The same once nothing is recorded any more: debug files that are not here are fetched from the servers that
    /// `DEBUGINFOD_URLS` names. Then a name may take minutes.
    pub fn after_recording(stacks: ProcessStacks) -> Self {
        let mut namer = Namer::default();
        namer.allow_fetching();
        Self { known: Known::default(), namer: Some(namer), stacks }
    }

    /// What could not be fetched of what was asked for by now, in one sentence.
    pub fn warning(&self) -> Option<String> {
        self.namer.as_ref()?.warning()
    }

    /// What lies at a data address of the process that has `places`; nothing far from where it was recorded.
    pub fn home(&mut self, places: &Places, address: u64) -> Home {
        self.namer.as_mut().map_or(Home::Unmapped, |namer| namer.home(places, address))
    }

    /// For a recording of another kernel, or of processes that are gone: what is not known stays a position in
    /// its module.
    pub const fn recorded(stacks: ProcessStacks, known: Known) -> Self {
        Self { known, namer: None, stacks }
    }

    /// The user stacks, to be added to.
    pub const fn stacks_mut(&mut self) -> &mut ProcessStacks {
        &mut self.stacks
    }

    fn name_user(&mut self, tgid: u32, place: Place, is_return: bool) -> String {
        let Self { known, namer, stacks, .. } = self;
        let name = || match (stacks.images(tgid), namer) {
            (Some(images), Some(namer)) => namer.user(tgid, images, place, is_return),
            (Some(images), None) => elf::position(images, place),
            (None, _) => format!("{:#x}", place.address),
        };
        known.user.entry((tgid, place, is_return)).or_insert_with(name).clone()
    }
}

impl Names for Symbolizer {
    fn kernel(&mut self, frames: &[u64]) -> Vec<String> {
        let Self { known, namer, .. } = self;
        let missing: Vec<u64> =
            frames.iter().copied().filter(|frame| !known.kernel.contains_key(frame)).collect();
        if !missing.is_empty() {
            let bare = || missing.iter().map(|address| format!("{address:#x}")).collect();
            let names = namer.as_ref().map_or_else(bare, |namer| namer.kernel(&missing));
            known.kernel.extend(missing.into_iter().zip(names));
        }
        let names: Vec<&str> = frames.iter().map(|frame| known.kernel[frame].as_str()).collect();
        trim::without_tracing(&names).iter().map(|name| (*name).to_owned()).collect()
    }

    fn user(&mut self, tgid: u32, user: &UserSide) -> UserNames {
        let frames = self.stacks.frames(tgid, user);
        let places = frames.places.iter().enumerate();
        let named = places.map(|(depth, place)| self.name_user(tgid, *place, depth > 0));
        UserNames { frames: named.collect(), truncated: frames.truncated }
    }

    fn device(&mut self, interrupt: u32) -> Option<String> {
        let Self { known, namer, .. } = self;
        let name = || namer.as_mut().and_then(|namer| namer.device(interrupt));
        known.devices.entry(interrupt).or_insert_with(name).clone()
    }
}

/// Where the functions of the kernel lie that `which` knows, as it calls them; nothing where the kernel hides addresses.
pub fn function_ranges<T>(which: &dyn Fn(&str) -> Option<T>) -> Vec<(T, Range<u64>)> {
    ranges_in(&fs::read_to_string("/proc/kallsyms").unwrap_or_default(), which)
}

fn ranges_in<T>(symbols: &str, which: &dyn Fn(&str) -> Option<T>) -> Vec<(T, Range<u64>)> {
    let symbol = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let address = u64::from_str_radix(fields.next()?, 16).ok().filter(|address| *address != 0)?;
        let is_code = fields.next()?.eq_ignore_ascii_case("t");
        Some((address, if is_code { which(fields.next()?) } else { None }))
    };
    let mut all: Vec<(u64, Option<T>)> = symbols.lines().filter_map(symbol).collect();
    all.sort_by_key(|(address, _)| *address);
    let starts: Vec<u64> = all.iter().map(|(address, _)| *address).collect();
    // Up to the next symbol that lies elsewhere: one function may have two names.
    let end = |address: u64| starts.get(starts.partition_point(|start| *start <= address)).copied();
    all.into_iter().filter_map(|(address, found)| Some((found?, address..end(address)?))).collect()
}

/// One sentence where the kernel hides its symbols' addresses, so that frames stay bare addresses.
pub fn hidden_kernel_symbols() -> Option<String> {
    let restrict = fs::read_to_string("/proc/sys/kernel/kptr_restrict").unwrap_or_default();
    let symbols = File::open("/proc/kallsyms").ok().map(|file| BufReader::new(file).lines());
    let is_hidden =
        symbols.into_iter().flatten().map_while(Result::ok).take(16).all(|line| {
            line.split(' ').next().is_none_or(|address| address.bytes().all(|byte| byte == b'0'))
        });
    is_hidden.then(|| {
        format!(
            "kernel frames have no names: /proc/kallsyms hides addresses (kernel.kptr_restrict is {}); \
             run as root with sysctl kernel.kptr_restrict=1 or 0",
            restrict.trim()
        )
    })
}

/// For [`crate::fuzzing`]: what is read of a binary that a process has mapped.
#[cfg(any(test, feature = "fuzzing"))]
pub fn parse_elf(bytes: &[u8]) {
    debug_file::parse_elf(bytes);
    functions::parse_elf(bytes);
    for address in [0, 0x600, 0x1010, u64::MAX] {
        place::parse_elf(bytes, address);
    }
}

/// For [`crate::fuzzing`]: the kernel's symbols.
#[cfg(any(test, feature = "fuzzing"))]
pub fn parse_kernel_symbols(text: &str) {
    ranges_in(text, &|name| Some(name.len()));
}

#[cfg(test)]
mod tests {
    use super::ranges_in;

    #[test]
    fn a_function_reaches_to_the_next_symbol_elsewhere() {
        let symbols = "30 T next\n10 t wbt_wait\n10 t alias\n20 d data\n40 T wbt_wait_more\n0 t wbt_wait";
        let found = ranges_in(symbols, &|name| (name == "wbt_wait").then_some(name.len()));
        assert_eq!(found, [(8, 0x10..0x20)]);
        assert!(ranges_in("0 t wbt_wait\n0 t next\n", &|_| Some(())).is_empty(), "hidden addresses");
    }
}
