//! Addresses to names. The only module that reads binaries and kernel symbols.

mod image;
mod place;
mod trim;

use std::collections::{BTreeMap, HashMap};
use std::fs;

use blazesym::symbolize::source::{Kernel, Source};
use blazesym::symbolize::{Input, Symbolized, Symbolizer as Blazesym};
use blazesym::{Addr, MaybeDefault};

pub use image::Images;
pub use place::Places;

use crate::aggregate::Names;

/// Names kernel and user addresses, each at most once.
pub struct Symbolizer {
    blazesym: Blazesym,
    kernel: HashMap<u64, String>,
    user: HashMap<(u32, u64), String>,
    images: BTreeMap<u32, Images>,
}

impl std::fmt::Debug for Symbolizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Symbolizer").field("images", &self.images).finish_non_exhaustive()
    }
}

impl Symbolizer {
    /// For the kernel that runs, and the processes whose images these are.
    pub fn new(images: BTreeMap<u32, Images>) -> Self {
        Self { blazesym: Blazesym::new(), kernel: HashMap::new(), user: HashMap::new(), images }
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

    fn user(&mut self, tgid: u32, ip: u64) -> String {
        if let Some(name) = self.user.get(&(tgid, ip)) {
            return name.clone();
        }
        let images = self.images.get(&tgid);
        let name = images.map_or_else(|| format!("{ip:#x}"), |images| images.name(&self.blazesym, ip));
        self.user.insert((tgid, ip), name.clone());
        name
    }
}

/// One sentence where the kernel hides its symbols' addresses, so that frames stay bare addresses.
pub fn hidden_kernel_symbols() -> Option<String> {
    let restrict = fs::read_to_string("/proc/sys/kernel/kptr_restrict").unwrap_or_default();
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let is_hidden = symbols
        .lines()
        .take(16)
        .all(|line| line.split(' ').next().is_none_or(|address| address.bytes().all(|byte| byte == b'0')));
    is_hidden.then(|| {
        format!(
            "kernel frames have no names: /proc/kallsyms hides addresses (kernel.kptr_restrict is {}); \
             run as root with sysctl kernel.kptr_restrict=1 or 0",
            restrict.trim()
        )
    })
}
