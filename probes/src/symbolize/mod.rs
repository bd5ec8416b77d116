//! Addresses to names. The only module that reads symbols.

mod debug_file;
mod demangle;
mod elf;
mod place;
mod trim;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};

use blazesym::symbolize::source::{Kernel, Source};
use blazesym::symbolize::{Input, Symbolized, Symbolizer as Blazesym};
use blazesym::{Addr, MaybeDefault};

use crate::aggregate::{Names, UserNames};
use crate::decode::UserSide;
use crate::images::Place;
use crate::interrupt;
use crate::unwind::ProcessStacks;

pub use place::Places;

/// Names kernel and user addresses, each at most once.
pub struct Symbolizer {
    blazesym: Blazesym,
    kernel: HashMap<u64, String>,
    /// By process, place, and whether it is a return address.
    user: HashMap<(u32, Place, bool), String>,
    binaries: elf::Binaries,
    stacks: ProcessStacks,
    /// The text of `/proc/interrupts`, once it was asked for.
    interrupts: Option<String>,
}

impl std::fmt::Debug for Symbolizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Symbolizer").field("stacks", &self.stacks).finish_non_exhaustive()
    }
}

impl Symbolizer {
    /// For the kernel that runs, and the processes whose stacks these are.
    pub fn new(stacks: ProcessStacks) -> Self {
        // Its demangling takes a C function called `c` for the type `char`.
        let blazesym = Blazesym::builder().enable_demangling(false).build();
        let (kernel, user, binaries) = (HashMap::new(), HashMap::new(), elf::Binaries::default());
        Self { blazesym, kernel, user, binaries, stacks, interrupts: None }
    }

    fn name_user(&mut self, tgid: u32, place: Place, is_return: bool) -> String {
        let Self { blazesym, user, binaries, stacks, .. } = self;
        let name = || match stacks.images(tgid) {
            Some(images) => elf::name(blazesym, binaries, images, place, is_return),
            None => format!("{:#x}", place.address),
        };
        user.entry((tgid, place, is_return)).or_insert_with(name).clone()
    }

    fn name_kernel(&mut self, missing: &[Addr]) {
        // kallsyms belongs to the kernel that runs; a vmlinux file found on disk may be another's.
        let source = Source::Kernel(Kernel { vmlinux: MaybeDefault::None, ..Kernel::default() });
        let named = self.blazesym.symbolize(&source, Input::AbsAddr(missing)).unwrap_or_default();
        for (index, address) in missing.iter().enumerate() {
            let name = match named.get(index) {
                Some(Symbolized::Sym(symbol)) => symbol.name.clone().into_owned(),
                _ => format!("{address:#x}"),
            };
            self.kernel.insert(*address, name);
        }
    }
}

impl Names for Symbolizer {
    fn kernel(&mut self, frames: &[u64]) -> Vec<String> {
        let missing: Vec<Addr> =
            frames.iter().copied().filter(|frame| !self.kernel.contains_key(frame)).collect();
        if !missing.is_empty() {
            self.name_kernel(&missing);
        }
        let names: Vec<&str> = frames.iter().map(|frame| self.kernel[frame].as_str()).collect();
        trim::without_tracing(&names).iter().map(|name| (*name).to_owned()).collect()
    }

    fn user(&mut self, tgid: u32, user: &UserSide) -> UserNames {
        let frames = self.stacks.frames(tgid, user);
        let places = frames.places.iter().enumerate();
        let named = places.map(|(depth, place)| self.name_user(tgid, *place, depth > 0));
        UserNames { frames: named.collect(), truncated: frames.truncated }
    }

    fn device(&mut self, interrupt: u32) -> Option<String> {
        let read = || fs::read_to_string("/proc/interrupts").unwrap_or_default();
        interrupt::device(self.interrupts.get_or_insert_with(read), interrupt)
    }
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
