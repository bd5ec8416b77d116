//! Every user stack of one process, unwound when its bytes come, and kept as frames.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use probes_common::{CODE_SPANS, CodeSpan, UserRegisters};

use super::UserFrames;
use super::registers::{Registers, Stack};
use super::walk::{Modules, Walk};
use crate::decode::{UserSample, UserSide};
use crate::images::Images;

/// Signatures that are kept: 8 MiB of table. More than these are counted.
const MAX_SIGNATURES: usize = 1 << 18;
/// Different stacks that are kept.
const MAX_STACKS: usize = 1 << 16;

/// Frames by signature. Signatures of equal frames are one: locals differ more often than calls do.
#[derive(Debug, Default)]
pub struct UserStacks {
    images: Images,
    modules: Modules,
    /// The index of a signature's stack in `stacks`.
    by_signature: HashMap<u64, u32>,
    stacks: Vec<Kept>,
    by_frames: HashMap<Arc<UserFrames>, u32>,
    /// Stacks that came without a place left to keep them.
    unkept: u64,
    /// An address lay in nothing that was known to be mapped.
    stale: bool,
}

#[derive(Debug)]
struct Kept {
    frames: Arc<UserFrames>,
    /// The first signature that led to it.
    signature: u64,
}

impl UserStacks {
    /// For the process `pid`, with what it has mapped now.
    ///
    /// # Errors
    /// Where `/proc/PID/maps` cannot be read.
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self { images: Images::of(pid)?, ..Self::default() })
    }

    /// Unwinds a stack that the kernel side copied.
    pub fn take(&mut self, sample: &UserSample<'_>) {
        let stack = Stack { start: sample.registers.sp, bytes: sample.stack };
        self.add(sample.signature, sample.registers.into(), stack);
    }

    /// Unwinds the stack of a thread that was found asleep at `ip`. Registers that were read at another
    /// time count only if the thread had the same instruction and stack pointer then.
    pub fn add_sleeper(&mut self, ip: u64, known: Option<&UserRegisters>, stack: Stack<'_>) -> UserSide {
        let known = known.filter(|known| (known.ip, known.sp) == (ip, stack.start));
        let registers = known.map_or(Registers::caller(ip, stack.start), |known| (*known).into());
        let frames = self.unwind(registers, stack);
        // Signatures of the kernel side are odd.
        let signature = 2 * (self.stacks.len() as u64 + 1);
        let kept = self.keep(signature, frames);
        UserSide { ip, stack: kept.map(|index| self.stacks[index as usize].signature) }
    }

    fn add(&mut self, signature: u64, registers: Registers, stack: Stack<'_>) {
        if self.by_signature.contains_key(&signature) {
            return;
        }
        let frames = self.unwind(registers, stack);
        if !self.insert(signature, frames) {
            self.unkept += 1;
        }
    }

    fn unwind(&mut self, registers: Registers, stack: Stack<'_>) -> UserFrames {
        let frames = Walk { images: &self.images, modules: &mut self.modules, stack }.frames(registers);
        self.stale |= frames.truncated && frames.places.iter().any(|place| place.mapping.is_none());
        frames
    }

    /// Keeps a stack that is unwound already under `signature`; false where there is no room for it.
    pub fn insert(&mut self, signature: u64, frames: UserFrames) -> bool {
        self.by_signature.len() < MAX_SIGNATURES && self.keep(signature, frames).is_some()
    }

    fn keep(&mut self, signature: u64, frames: UserFrames) -> Option<u32> {
        if let Some(known) = self.by_frames.get(&frames) {
            self.by_signature.insert(signature, *known);
            return Some(*known);
        }
        if self.stacks.len() >= MAX_STACKS {
            return None;
        }
        let (frames, index) = (Arc::new(frames), self.stacks.len() as u32);
        self.by_frames.insert(Arc::clone(&frames), index);
        self.stacks.push(Kept { frames, signature });
        self.by_signature.insert(signature, index);
        Some(index)
    }

    /// Whether the stack of that signature is kept.
    pub fn has(&self, signature: u64) -> bool {
        self.by_signature.contains_key(&signature)
    }

    /// The same with the first signature that led to these frames.
    pub fn canonical(&self, user: UserSide) -> UserSide {
        let kept = user.stack.and_then(|signature| self.by_signature.get(&signature));
        UserSide { stack: kept.map(|index| self.stacks[*index as usize].signature).or(user.stack), ..user }
    }

    /// The frames; the instruction alone, truncated, where no stack came.
    pub fn frames(&self, user: &UserSide) -> Arc<UserFrames> {
        let kept = user.stack.and_then(|signature| self.by_signature.get(&signature));
        kept.map_or_else(
            || Arc::new(UserFrames { places: vec![self.images.place(user.ip)], truncated: true }),
            |index| Arc::clone(&self.stacks[*index as usize].frames),
        )
    }

    /// Different stacks that are kept.
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub const fn len(&self) -> usize {
        self.stacks.len()
    }

    /// Stacks for which there was no place left.
    pub const fn unkept(&self) -> u64 {
        self.unkept
    }

    /// Looks again at what is mapped, if `now` says so or an address was found in nothing; the spans of
    /// code, if they have changed.
    pub fn refresh(&mut self, now: bool) -> Option<[CodeSpan; CODE_SPANS]> {
        if !now && !std::mem::take(&mut self.stale) {
            return None;
        }
        let before = self.images.code_spans();
        // A process that has ended keeps what it had.
        let _ = self.images.refresh();
        Some(self.images.code_spans()).filter(|spans| *spans != before)
    }

    /// Where code of the process can lie.
    pub fn code_spans(&self) -> [CodeSpan; CODE_SPANS] {
        self.images.code_spans()
    }

    /// What the process had mapped, to be added to.
    pub const fn images_mut(&mut self) -> &mut Images {
        &mut self.images
    }

    /// What the process had mapped.
    pub const fn images(&self) -> &Images {
        &self.images
    }
}
