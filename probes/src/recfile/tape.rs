//! Writes a recording down while it goes on.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::Arc;

use probes_common::{Kind, Loss, UserRegisters, UserStack};
use reports::futex::Home;

use super::container::Writer;
use super::contents::RecordedDevices;
use super::entry;
use super::facts::{ClosingFacts, Fact, MapsFact, Module, OpeningFacts, UserName};
use super::seen::{Seen, UserAddress};
use crate::decode::{self, UserSide};
use crate::device::Disks;
use crate::images::Images;
use crate::pipeline::{Consumer, Ending, Gathered, Pass, losses, total};
use crate::symbolize::{Namer, Places, build_id, hidden_kernel_symbols};
use crate::unwind::ProcessStacks;

/// Plain bytes that are put into one block.
const BLOCK: usize = 1 << 20;
/// How long a block is waited for to fill. What is not in a block is lost if this process is killed.
const BLOCK_NS: u64 = 1_000_000_000;

/// What a file came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Its size.
    pub bytes: u64,
    /// Records of the kernel side in it.
    pub records: u64,
}

/// A file that is being written.
#[derive(Debug)]
pub struct Tape {
    writer: Writer<Arc<File>>,
    plain: Vec<u8>,
    block_begun_ns: u64,
    records: u64,
    /// Nothing more is written after this.
    failed: Option<io::Error>,
    seen: Seen,
    namer: Namer,
    /// Addresses whose names may be had when nothing is recorded any more.
    to_be_fetched: Vec<UserAddress>,
    places: BTreeMap<u32, Places>,
    /// By process: how many of its mappings are in the file, and which were current.
    modules: BTreeMap<u32, (usize, Vec<u32>)>,
    /// `None` where no events of devices are recorded.
    disks: Option<Disks>,
}

impl Tape {
    /// Goes on with a file that has nothing but its head, with what is known as the recording begins. What goes
    /// wrong with the file from now on is told at its end.
    pub fn begin(writer: Writer<Arc<File>>, facts: OpeningFacts, user: &ProcessStacks) -> Self {
        let namer = Namer::default();
        // Reads the kernel's symbols now, and not while the ring buffer fills.
        namer.kernel(&[0]);
        let mut tape = Self {
            writer,
            plain: Vec::with_capacity(BLOCK + (64 << 10)),
            block_begun_ns: facts.start_ns,
            records: 0,
            failed: None,
            seen: Seen::default(),
            namer,
            to_be_fetched: Vec::new(),
            places: user.pids().map(|pid| (pid, Places::of(pid))).collect(),
            modules: BTreeMap::new(),
            disks: (facts.devices != RecordedDevices::None).then(Disks::default),
        };
        for seed in &facts.opening().seeds {
            if let Some(side) = seed.user {
                tape.user_side(seed.tgid, side, user);
            }
        }
        for call in facts.seed_calls() {
            tape.seen.call(call.tgid, call.number, &call.arguments, &[]);
        }
        let stacks = std::mem::take(&mut tape.plain);
        tape.fact(&Fact::Opening(Box::new(facts)));
        tape.modules(user);
        tape.disks();
        tape.plain.extend(stacks);
        tape.flush();
        tape
    }

    fn fact(&mut self, fact: &Fact) {
        if let Err(error) = entry::put_fact(&mut self.plain, fact) {
            self.failed.get_or_insert(error.into());
        }
    }

    fn flush(&mut self) {
        if self.failed.is_none()
            && let Err(error) = self.writer.block(&self.plain)
        {
            self.failed = Some(error);
        }
        self.plain.clear();
    }

    /// Writes down the frames of a stack that the file does not have yet.
    fn user_side(&mut self, pid: u32, side: UserSide, user: &ProcessStacks) {
        match side.stack {
            Some(signature) if user.has(pid, &side) => {
                if self.seen.signature(pid, signature) {
                    let frames = user.frames(pid, &side);
                    self.seen.places(pid, &frames.places);
                    entry::put_stack(&mut self.plain, pid, signature, &frames);
                }
            }
            _ => self.seen.bare(pid, side),
        }
    }

    /// What came to be mapped, or is mapped no more.
    fn modules(&mut self, user: &ProcessStacks) {
        for pid in user.pids() {
            let Some(images) = user.images(pid) else { continue };
            let (written, current) = self.modules.entry(pid).or_default();
            if *written == images.all().len() && current == images.current() {
                continue;
            }
            let added = modules(images, *written);
            (*written, *current) = (images.all().len(), images.current().to_vec());
            let current = current.clone();
            self.fact(&Fact::Modules { pid, added, current });
        }
    }

    /// What disks there are, and were.
    fn disks(&mut self) {
        let Some(disks) = &mut self.disks else { return };
        disks.look();
        let fact = Fact::Disks(disks.clone());
        self.fact(&fact);
    }

    /// Names what has occurred since they were written last.
    fn names(&mut self, user: &ProcessStacks) {
        self.modules(user);
        let kernel = self.seen.take_kernel();
        let names = self.namer.kernel(&kernel);
        let mut named = Vec::new();
        let new = self.seen.take_user(user);
        for (pid, place, is_return) in std::mem::take(&mut self.to_be_fetched).into_iter().chain(new) {
            let Some(images) = user.images(pid) else { continue };
            if self.namer.may_be_fetched(pid, images, place) {
                self.to_be_fetched.push((pid, place, is_return));
                continue;
            }
            let name = self.namer.user(pid, images, place, is_return);
            named.push(UserName { pid, mapping: place.mapping, address: place.address, is_return, name });
        }
        let kernel: Vec<_> = kernel.into_iter().zip(names).collect();
        let devices = self.seen.take_devices();
        let devices: Vec<_> = devices.into_iter().map(|number| (number, self.namer.device(number))).collect();
        if !kernel.is_empty() || !named.is_empty() || !devices.is_empty() {
            self.fact(&Fact::Names { kernel, user: named, devices });
        }
        let words = self.seen.take_words();
        self.homes(&words);
    }

    /// Where futex words lie.
    fn homes(&mut self, words: &[(u32, u64)]) {
        if words.is_empty() {
            return;
        }
        let Self { places, namer, .. } = self;
        for (pid, places) in &mut *places {
            places.refresh(*pid);
        }
        let mut home = |pid: u32, address: u64| -> Home {
            places.get(&pid).map_or(Home::Unmapped, |places| namer.home(places, address))
        };
        let homes = words.iter().map(|(pid, address)| (*pid, *address, home(*pid, *address))).collect();
        self.fact(&Fact::Homes(homes));
    }

    fn record(&mut self, bytes: &[u8], user: &ProcessStacks) {
        self.records += 1;
        if let Some(sample) = decode::user_stack(bytes) {
            let side = UserSide { ip: sample.registers.ip, stack: Some(sample.signature) };
            self.user_side(sample.tgid, side, user);
            // What a process has on its stack is nobody's business but its own.
            entry::put_record(&mut self.plain, &without_contents(bytes));
        } else {
            if let Some((pid, side)) = self.seen.record(bytes) {
                self.user_side(pid, side, user);
            }
            entry::put_record(&mut self.plain, bytes);
        }
        if self.plain.len() >= BLOCK {
            self.flush();
        }
    }

    fn end_pass(&mut self, pass: &Pass, user: &ProcessStacks) {
        entry::put_pass(&mut self.plain, pass);
        if pass.ended_ns.saturating_sub(self.block_begun_ns) >= BLOCK_NS {
            self.names(user);
            self.flush();
            self.block_begun_ns = pass.ended_ns;
        }
    }

    fn close(mut self, ending: &Ending, user: &ProcessStacks) -> io::Result<Written> {
        self.namer.allow_fetching();
        self.names(user);
        let words = self.seen.all_words();
        self.homes(&words);
        self.disks();
        self.fact(&Fact::Closing(ClosingFacts {
            end_ns: ending.end_ns,
            ran_ns: ending.ran_ns.iter().map(|(tid, ran_ns)| (*tid, *ran_ns)).collect(),
            recursion_misses: ending.recursion_misses,
            unkept: ending.unkept,
            programs: ending.programs.clone(),
            warnings: hidden_kernel_symbols().into_iter().chain(self.namer.warning()).collect(),
            maps: MapsFact::from(&ending.maps),
        }));
        self.flush();
        match self.failed {
            Some(error) => Err(error),
            None => {
                self.writer.file().sync_all()?;
                Ok(Written { bytes: self.writer.written(), records: self.records })
            }
        }
    }
}

/// A recording that is written down as well, if it is to be.
#[derive(Debug)]
pub struct Kept<C> {
    /// The file.
    pub tape: Option<Tape>,
    /// What else becomes of it.
    pub rest: C,
}

impl<C: Consumer> Consumer for Kept<C> {
    type Made = (C::Made, Option<io::Result<Written>>);

    fn record(&mut self, bytes: &[u8], user: &ProcessStacks) {
        if let Some(tape) = &mut self.tape {
            tape.record(bytes, user);
        }
        self.rest.record(bytes, user);
    }

    fn end_pass(&mut self, pass: &Pass, user: &ProcessStacks) {
        if let Some(tape) = &mut self.tape {
            tape.end_pass(pass, user);
        }
        self.rest.end_pass(pass, user);
    }

    fn finish(self, ending: Ending, user: ProcessStacks) -> Self::Made {
        let written = self.tape.map(|tape| tape.close(&ending, &user));
        (self.rest.finish(ending, user), written)
    }
}

/// Makes nothing of a recording but its counts.
#[derive(Debug, Default)]
pub struct Counted {
    received: u64,
}

impl Consumer for Counted {
    type Made = Gathered<()>;

    fn record(&mut self, _: &[u8], _: &ProcessStacks) {
        self.received += 1;
    }

    fn end_pass(&mut self, _: &Pass, _: &ProcessStacks) {}

    fn finish(self, ending: Ending, user: ProcessStacks) -> Gathered<()> {
        let Self { received } = self;
        let loss = losses(&ending, received);
        let attempted = total(ending.counters.iter().map(|cpu| cpu.attempted));
        let Ending { end_ns, programs, maps, .. } = ending;
        let notes = Vec::new();
        Gathered { end_ns, analysis: (), notes, loss, user, programs, received, attempted, maps }
    }
}

/// The causes of loss in the order in which passes count them.
pub fn loss_causes() -> Vec<String> {
    Loss::ALL.iter().map(|cause| cause.name().to_owned()).collect()
}

/// A record of a user stack, less its registers and bytes.
fn without_contents(bytes: &[u8]) -> Vec<u8> {
    use std::mem::offset_of;
    let body = size_of::<probes_common::Head>();
    let mut kept = bytes[..bytes.len().min(body + size_of::<UserStack>())].to_vec();
    debug_assert_eq!(kept[offset_of!(probes_common::Head, kind)], Kind::UserStack as u8);
    let registers = body + offset_of!(UserStack, registers);
    kept[registers..registers + size_of::<UserRegisters>()].fill(0);
    let length = body + offset_of!(UserStack, bytes);
    kept[length..length + 8].fill(0);
    kept
}

fn modules(images: &Images, from: usize) -> Vec<Module> {
    let module = |mapping: &crate::images::Mapping| Module {
        start: mapping.addresses().start,
        end: mapping.addresses().end,
        file_offset: mapping.file_offset(),
        path: mapping.path().to_owned(),
        build_id: build_id(mapping.content()),
    };
    images.all()[from..].iter().map(module).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_stack_is_written_but_its_name() {
        let mut bytes = vec![0xee; 40 + 80 + 4096];
        let kind = std::mem::offset_of!(probes_common::Head, kind);
        bytes[kind] = Kind::UserStack as u8;
        bytes[112..120].copy_from_slice(&4096_u64.to_ne_bytes());
        let kept = without_contents(&bytes);
        let (before, after) = (decode::user_stack(&bytes).unwrap(), decode::user_stack(&kept).unwrap());
        assert_eq!((after.signature, after.time_ns), (before.signature, before.time_ns));
        assert_eq!((after.stack.len(), after.registers), (0, UserRegisters::default()));
        assert_eq!(kept.len(), 120);
    }

    /// A file is read by its version: with another layout of the records it is another version.
    #[test]
    fn the_version_grows_with_the_layout_of_the_records() {
        use probes_common::{Allocation, Bio, Commit, DirtyPause, Request, Sync, ThrottleExit};
        use probes_common::{CallEnter, CallExit, Head, SwitchOut, Waking};
        use probes_common::{WbtLatency, WbtStat, WbtStep, WbtTimer};
        let of_threads = [
            size_of::<Head>(),
            size_of::<SwitchOut>(),
            size_of::<Waking>(),
            size_of::<UserStack>(),
            size_of::<CallEnter>(),
            size_of::<CallExit>(),
        ];
        let of_devices = [
            size_of::<Request>(),
            size_of::<Bio>(),
            size_of::<Commit>(),
            size_of::<Sync>(),
            size_of::<Allocation>(),
            size_of::<DirtyPause>(),
            size_of::<WbtStat>(),
            size_of::<WbtLatency>(),
            size_of::<WbtStep>(),
            size_of::<WbtTimer>(),
            size_of::<ThrottleExit>(),
        ];
        assert_eq!(super::super::VERSION, 2);
        assert_eq!(of_threads, [40, 40, 32, 80, 72, 16]);
        assert_eq!(of_devices, [72, 40, 16, 32, 40, 72, 96, 40, 72, 48, 32]);
    }
}
