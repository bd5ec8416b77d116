//! Names from the running kernel and from the files that [`Images`] hold open.

use std::fs;

use blazesym::symbolize::source::{Kernel, Source};
use blazesym::symbolize::{Input, Symbolized, Symbolizer as Blazesym};
use blazesym::{Addr, MaybeDefault};
use reports::futex::Home;

use super::debug_file::DebugFiles;
use super::elf::{self, Binaries};
use super::place::Places;
use crate::images::{Images, Place};
use crate::interrupt;

/// Looks names up, each time it is asked.
pub struct Namer {
    blazesym: Blazesym,
    binaries: Binaries,
    /// The text of `/proc/interrupts`, once it was asked for.
    interrupts: Option<String>,
}

impl std::fmt::Debug for Namer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Namer").field("binaries", &self.binaries).finish_non_exhaustive()
    }
}

impl Default for Namer {
    fn default() -> Self {
        // Its demangling takes a C function called `c` for the type `char`.
        let blazesym = Blazesym::builder().enable_demangling(false).build();
        Self { blazesym, binaries: Binaries::new(DebugFiles::from_environment()), interrupts: None }
    }
}

impl Namer {
    /// Names of kernel addresses, in their order; the address itself where it has none.
    pub fn kernel(&self, addresses: &[Addr]) -> Vec<String> {
        // kallsyms belongs to the kernel that runs; a vmlinux file found on disk may be another's.
        let source = Source::Kernel(Kernel { vmlinux: MaybeDefault::None, ..Kernel::default() });
        let named = self.blazesym.symbolize(&source, Input::AbsAddr(addresses)).unwrap_or_default();
        let name = |(index, address): (usize, &Addr)| match named.get(index) {
            Some(Symbolized::Sym(symbol)) => symbol.name.clone().into_owned(),
            _ => format!("{address:#x}"),
        };
        addresses.iter().enumerate().map(name).collect()
    }

    /// The function of the process `pid` that holds `place`, or where in which file that is. `is_return` tells
    /// that a call comes back to it.
    pub fn user(&mut self, pid: u32, images: &Images, place: Place, is_return: bool) -> String {
        elf::name(&self.blazesym, &mut self.binaries, pid, images, place, is_return)
    }

    /// What lies at a data address of the process that has `places`.
    pub fn home(&mut self, places: &Places, address: u64) -> Home {
        places.home(address, self.binaries.debug_files())
    }

    /// Whether [`Self::user`] would find a better name after [`Self::allow_fetching`].
    pub fn may_be_fetched(&mut self, pid: u32, images: &Images, place: Place) -> bool {
        self.binaries.may_be_fetched(pid, images, place)
    }

    /// Has debug files that are not here fetched from the servers that `DEBUGINFOD_URLS` names. That may take minutes, and
    /// is not for as long as anything is recorded.
    pub fn allow_fetching(&mut self) {
        self.binaries.allow_fetching();
    }

    /// What could not be fetched, in one sentence.
    pub fn warning(&self) -> Option<String> {
        self.binaries.warning()
    }

    /// Who has a handler for a device interrupt.
    pub fn device(&mut self, interrupt: u32) -> Option<String> {
        let read = || fs::read_to_string("/proc/interrupts").unwrap_or_default();
        interrupt::device(self.interrupts.get_or_insert_with(read), interrupt)
    }
}
