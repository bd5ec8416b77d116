//! From registers and stack bytes to the calls that led there.

use std::collections::HashMap;

use gimli::X86_64;

use super::cfi::Step;
use super::frame_rule::FrameRule;
use super::module::Module;
use super::offsets::At;
use super::registers::{Registers, Stack};
use super::{MAX_DEPTH, UserFrames};
use crate::images::{Content, Images, Place};

/// The modules of a process, each read when a frame first lies in it.
#[derive(Debug, Default)]
pub struct Modules(HashMap<FileId, Module>);

/// Device and inode: the file is held open, so the pair cannot become another file's. The vdso has one
/// image for all processes of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum FileId {
    Inode(u64, u64),
    Vdso,
}

/// One walk.
pub struct Walk<'a> {
    /// What the process has mapped.
    pub images: &'a Images,
    /// What is known of its files.
    pub modules: &'a mut Modules,
    /// Its stack.
    pub stack: Stack<'a>,
}

impl Walk<'_> {
    /// The frames, innermost first, from `registers` on.
    ///
    /// Each frame's stack pointer is above the one before, so the walk ends; it ends early, and says so,
    /// where the stack at hand does, and where nothing tells the way to the caller.
    pub fn frames(mut self, mut registers: Registers) -> UserFrames {
        let mut at = At::Next(registers.ip());
        let mut places = Vec::new();
        while places.len() < MAX_DEPTH {
            let place = self.images.place(at.lookup());
            places.push(Place { address: at.address(), ..place });
            match self.step(at, place, &registers) {
                Step::End => return UserFrames { places, truncated: false },
                Step::Caller { registers: caller, interrupted } if caller.sp() > registers.sp() => {
                    registers = caller;
                    at = if interrupted { At::Next(registers.ip()) } else { At::After(registers.ip()) };
                }
                _ => break,
            }
        }
        UserFrames { places, truncated: true }
    }

    fn step(&mut self, at: At, place: Place, registers: &Registers) -> Step {
        let by_module = self.images.mapping(place).and_then(|mapping| {
            let module = self.modules.of(mapping.content())?;
            // How far the file's own terms are from the process's.
            let bias = at.lookup().wrapping_sub(module.address(mapping.offset(at.lookup()))?);
            Some(module.step(at.less(bias), registers, self.stack))
        });
        match by_module.unwrap_or(Step::Uncovered) {
            Step::Uncovered => self.by_frame_pointer(registers),
            // A call frame that returns to nowhere is how some runtimes end a stack.
            Step::Caller { registers, .. } if registers.ip() == 0 => Step::End,
            step => step,
        }
    }

    /// The last resort: a frame pointer, where it leads to something that looks like a frame.
    fn by_frame_pointer(&self, registers: &Registers) -> Step {
        let is_frame = registers.get(X86_64::RBP).is_some_and(|bp| bp >= registers.sp() && bp % 8 == 0);
        let caller = is_frame.then(|| FrameRule::FRAME_POINTER.apply(registers, self.stack)).flatten();
        match caller {
            Some(caller) if caller.ip() == 0 && caller.get(X86_64::RBP) == Some(0) => Step::End,
            Some(caller) if self.images.place(caller.ip().wrapping_sub(1)).mapping.is_some() => {
                Step::Caller { registers: caller, interrupted: false }
            }
            _ => Step::Uncovered,
        }
    }
}

impl Modules {
    fn of(&mut self, content: &Content) -> Option<&Module> {
        let id = match content {
            Content::File(file) => {
                let status = rustix::fs::fstat(file).ok()?;
                FileId::Inode(status.st_dev, status.st_ino)
            }
            Content::Memory(_) => FileId::Vdso,
            Content::Unknown => return None,
        };
        Some(self.0.entry(id).or_insert_with(|| Module::new(content)))
    }
}

impl At {
    /// The same in the terms of a file that is mapped `bias` higher than it says.
    const fn less(self, bias: u64) -> Self {
        match self {
            Self::Next(ip) => Self::Next(ip.wrapping_sub(bias)),
            Self::After(ip) => Self::After(ip.wrapping_sub(bias)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::unwind::MAX_DEPTH;

    fn walk(images: &Images, registers: Registers, start: u64, bytes: &[u8]) -> UserFrames {
        Walk { images, modules: &mut Modules::default(), stack: Stack { start, bytes } }.frames(registers)
    }

    /// Addresses in this program's own code, which make a walk go further than random ones do.
    fn own_code() -> Vec<u64> {
        let own = own_code as fn() -> Vec<u64> as usize as u64;
        let libc = libc::nanosleep as *const () as usize as u64;
        vec![own, own + 4, own + 64, libc, libc + 16, 0]
    }

    fn words() -> impl Strategy<Value = u64> {
        let near = (0u64..4096).prop_map(|offset| 0x7000 + offset);
        prop_oneof![any::<u64>(), near, prop::sample::select(own_code())]
    }

    thread_local! {
        static OWN: Images = Images::of(std::process::id()).unwrap();
    }

    proptest! {
        #[test]
        fn no_stack_makes_it_panic_or_run_on(
            stack in prop::collection::vec(words(), 0..512), registers in prop::array::uniform8(words()), cut in 0usize..8,
        ) {
            let bytes: Vec<u8> = stack.iter().flat_map(|word| word.to_le_bytes()).collect();
            let bytes = &bytes[..bytes.len().saturating_sub(cut)];
            let [ip, bp, bx, r12, r13, r14, r15, sp] = registers;
            for start in [0x7000, sp, u64::MAX - 64] {
                let user = probes_common::UserRegisters { ip, sp: start, bp, bx, r12_to_r15: [r12, r13, r14, r15] };
                let frames = OWN.with(|own| walk(own, user.into(), start, bytes));
                prop_assert!((1..=MAX_DEPTH).contains(&frames.places.len()));
                prop_assert_eq!(frames.places[0].address, ip);
            }
        }
    }

    // [rbp] -> saved rbp, return address; the last frame ends in two zeros
    #[test]
    fn frame_pointers_lead_to_the_end_of_a_chain_in_code_without_a_file() {
        let images = Images::anonymous(&[(0x1000, 0x2000)]);
        let mut registers = Registers::caller(0x1010, 0x7000);
        registers.set(X86_64::RBP, Some(0x7008));
        let stack: Vec<u8> =
            [9, 0x7020, 0x1020, 9, 0, 0].iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
        let frames = walk(&images, registers, 0x7000, &stack);
        let found: Vec<u64> = frames.places.iter().map(|place| place.address).collect();
        assert_eq!((found, frames.truncated), (vec![0x1010, 0x1020], false));
        // Without the last frame's bytes the chain is cut.
        assert!(walk(&images, registers, 0x7000, &stack[..40]).truncated);
        // A frame pointer that leads to data is none.
        registers.set(X86_64::RBP, Some(0x7010));
        assert_eq!(walk(&images, registers, 0x7000, &stack).places.len(), 1);
    }
}
