//! What has occurred in a recording, and is to be named in its file.

use std::collections::{BTreeSet, HashSet};
use std::hash::{BuildHasher, RandomState};

use crate::call::{self, CallEvent};
use crate::decode::{self, UserSide};
use crate::futex::waited_words;
use crate::images::Place;
use crate::unwind::ProcessStacks;

/// An address of a process, and whether a call comes back to it.
pub type UserAddress = (u32, Place, bool);

/// Addresses, stacks and futex words, each told once.
#[derive(Debug, Default)]
pub struct Seen {
    hasher: RandomState,
    /// Hashes of kernel stacks, of which there are far fewer than records.
    stacks: HashSet<u64>,
    kernel: HashSet<u64>,
    new_kernel: Vec<u64>,
    signatures: HashSet<(u32, u64)>,
    user: HashSet<UserAddress>,
    new_user: Vec<UserAddress>,
    /// Instructions without a stack so far.
    bare: HashSet<(u32, UserSide)>,
    devices: HashSet<u32>,
    new_devices: Vec<u32>,
    words: BTreeSet<(u32, u64)>,
    new_words: Vec<(u32, u64)>,
}

impl Seen {
    /// Notes what a record names. The process and its side in user space, where the record has one.
    pub fn record(&mut self, bytes: &[u8]) -> Option<(u32, UserSide)> {
        if call::is_call(bytes) {
            let record = call::decode(bytes).ok()?;
            let CallEvent::Enter { number, arguments, words, user } = record.event else { return None };
            self.call(record.tgid, number, &arguments, &words);
            return user.map(|side| (record.tgid, side));
        }
        if let Some(frames) = decode::kernel_stack(bytes)
            && self.stacks.insert(self.hasher.hash_one(frames))
        {
            let (frames, _) = frames.as_chunks::<8>();
            for frame in frames.iter().map(|frame| u64::from_ne_bytes(*frame)) {
                if self.kernel.insert(frame) {
                    self.new_kernel.push(frame);
                }
            }
        }
        if let Some(number) = decode::device(bytes)
            && self.devices.insert(number)
        {
            self.new_devices.push(number);
        }
        decode::user_side(bytes)
    }

    /// Notes the words that a call waits on.
    pub fn call(&mut self, pid: u32, number: u32, arguments: &[u64; 6], words: &[u64]) {
        for word in waited_words(number, arguments, words) {
            if self.words.insert((pid, word)) {
                self.new_words.push((pid, word));
            }
        }
    }

    /// Notes a stack; whether it is new.
    pub fn signature(&mut self, pid: u32, signature: u64) -> bool {
        self.signatures.insert((pid, signature))
    }

    /// Notes an instruction of which no stack has come.
    pub fn bare(&mut self, pid: u32, side: UserSide) {
        self.bare.insert((pid, side));
    }

    /// Notes the frames of a stack, innermost first.
    pub fn places(&mut self, pid: u32, places: &[Place]) {
        for (depth, place) in places.iter().enumerate() {
            self.address((pid, *place, depth > 0));
        }
    }

    fn address(&mut self, address: UserAddress) {
        if self.user.insert(address) {
            self.new_user.push(address);
        }
    }

    /// Kernel addresses that were not taken yet.
    pub fn take_kernel(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.new_kernel)
    }

    /// User addresses that were not taken yet.
    pub fn take_user(&mut self, user: &ProcessStacks) -> Vec<UserAddress> {
        for (pid, side) in std::mem::take(&mut self.bare) {
            if !user.has(pid, &side)
                && let Some(images) = user.images(pid)
            {
                self.address((pid, images.place(side.ip), false));
            }
        }
        std::mem::take(&mut self.new_user)
    }

    /// Device interrupts that were not taken yet.
    pub fn take_devices(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.new_devices)
    }

    /// Futex words that were not taken yet.
    pub fn take_words(&mut self) -> Vec<(u32, u64)> {
        std::mem::take(&mut self.new_words)
    }

    /// Every futex word.
    pub fn all_words(&self) -> Vec<(u32, u64)> {
        self.words.iter().copied().collect()
    }
}
