//! Plays a file to the stages that a recording goes through.

use std::collections::BTreeMap;
use std::io::Read;

use reports::futex::Home;

use super::container::Reader;
use super::contents::Needed;
use super::entry::{Entries, Entry};
use super::error::ReadError;
use super::facts::{ClosingFacts, Fact, Module, OpeningFacts, UserName};
use crate::device::Disks;
use crate::images::{Mapping, Place};
use crate::pipeline::{Analysis, Consumer, Ending, Gathered, Pass, Pipeline};
use crate::recording::{Facts, Start};
use crate::symbolize::{Known, Symbolizer};
use crate::unwind::ProcessStacks;

/// Where futex words lie: by process and address.
pub type Homes = BTreeMap<(u32, u64), Home>;

/// The most CPUs that Linux can be built for (`NR_CPUS` of arch/x86/Kconfig).
const MAX_CPUS: u32 = 8192;

/// What a file came to.
#[derive(Debug)]
pub struct Replayed<A> {
    /// What every report begins with.
    pub facts: Facts,
    /// What was recorded.
    pub gathered: Gathered<A>,
    /// The names that were recorded with it.
    pub known: Known,
    /// Where the words lie that threads waited on.
    pub homes: Homes,
    /// The disks that there were.
    pub disks: Disks,
}

impl<A> Replayed<A> {
    /// The stacks' names, and the rest.
    pub fn named(self) -> (Facts, Gathered<A>, Symbolizer, Homes) {
        let Self { facts, mut gathered, known, homes, .. } = self;
        let symbolizer = Symbolizer::recorded(std::mem::take(&mut gathered.user), known);
        (facts, gathered, symbolizer, homes)
    }
}

/// Reads what a recording begins with.
///
/// # Errors
/// [`ReadError`] says what is wrong with the file, and where.
pub fn read(file: impl Read) -> Result<OpeningFacts, ReadError> {
    let mut reader = Reader::new(file)?;
    let (offset, plain) = reader.block()?.ok_or(ReadError::Empty(reader.offset()))?;
    let damaged = |what| ReadError::Damaged { offset, what };
    match Entries(&plain).next_entry().map_err(damaged)? {
        Some(Entry::Fact(fact)) => match *fact {
            Fact::Opening(facts) => checked(*facts).map_err(damaged),
            _ => Err(damaged("it does not begin with how the recording began")),
        },
        _ => Err(damaged("it does not begin with how the recording began")),
    }
}

/// Plays a recording to the analysis that `analysis` makes, if it holds what is needed. Of a file that ends inside
/// a block, what is before it is read where `partial` says so.
///
/// # Errors
/// [`ReadError`] says what is wrong with the file, and where.
pub fn replay<A: Analysis>(
    file: impl Read,
    partial: bool,
    needed: Needed,
    analysis: impl FnOnce(&Start) -> A,
) -> Result<Replayed<A>, ReadError> {
    let mut reader = Reader::new(file)?;
    let mut analysis = Some(analysis);
    let mut player: Option<Player<A>> = None;
    loop {
        let (offset, plain) = match reader.block() {
            Ok(Some(block)) => block,
            Ok(None) => break,
            Err(ReadError::Cut { .. }) if partial && player.is_some() => break,
            Err(error) => return Err(error),
        };
        let damaged = |what| ReadError::Damaged { offset, what };
        let mut entries = Entries(&plain);
        while let Some(entry) = entries.next_entry().map_err(damaged)? {
            match (&mut player, analysis.take()) {
                (Some(player), _) => player.take(entry).map_err(damaged)?,
                (None, Some(analysis)) => player = Some(begin(entry, offset, needed, analysis)?),
                (None, None) => return Err(damaged("it does not begin with how the recording began")),
            }
        }
    }
    player.map(Player::finish).ok_or(ReadError::Empty(reader.offset()))
}

/// Takes the first entry.
fn begin<A: Analysis>(
    entry: Entry<'_>,
    offset: u64,
    needed: Needed,
    analysis: impl FnOnce(&Start) -> A,
) -> Result<Player<A>, ReadError> {
    let damaged = |what| ReadError::Damaged { offset, what };
    let Entry::Fact(fact) = entry else {
        return Err(damaged("it does not begin with how the recording began"));
    };
    let Fact::Opening(facts) = *fact else {
        return Err(damaged("it does not begin with how the recording began"));
    };
    let facts = checked(*facts).map_err(damaged)?;
    needed.check(&facts)?;
    let start = Start {
        start_ns: facts.start_ns,
        calls: facts.seed_calls(),
        hooks: facts.hooks.clone(),
        throttles: facts.throttles(),
    };
    Ok(Player {
        pipeline: Pipeline::new(facts.opening(), analysis(&start)),
        facts,
        user: ProcessStacks::default(),
        known: Known::default(),
        homes: Homes::new(),
        disks: Disks::default(),
        last_pass: None,
        closing: None,
    })
}

/// Refuses what no recorder writes.
fn checked(facts: OpeningFacts) -> Result<OpeningFacts, &'static str> {
    if facts.cpus > MAX_CPUS {
        return Err("it counts more CPUs than a machine has");
    }
    if facts.armed_ns > facts.start_ns {
        return Err("its window opens before anything was recorded");
    }
    if !facts.has_known_causes() {
        return Err("it counts losses whose causes are not known");
    }
    Ok(facts)
}

struct Player<A> {
    facts: OpeningFacts,
    pipeline: Pipeline<A>,
    user: ProcessStacks,
    known: Known,
    homes: Homes,
    disks: Disks,
    last_pass: Option<Pass>,
    closing: Option<ClosingFacts>,
}

impl<A: Analysis> Player<A> {
    fn take(&mut self, entry: Entry<'_>) -> Result<(), &'static str> {
        if self.closing.is_some() {
            return Err("something follows the end of the recording");
        }
        match entry {
            Entry::Record(bytes) => self.pipeline.record(bytes, &self.user),
            Entry::Stack { pid, signature, frames } => {
                // One that was not kept there has no entry, and one too many here is counted as lost there.
                self.user.process(pid).insert(signature, frames);
            }
            Entry::Pass(pass) => return self.pass(pass),
            Entry::Fact(fact) => return self.fact(*fact),
        }
        Ok(())
    }

    fn pass(&mut self, pass: Pass) -> Result<(), &'static str> {
        let before_ns = self.last_pass.as_ref().map_or(self.facts.armed_ns, |last| last.begun_ns);
        if !(before_ns..=pass.ended_ns).contains(&pass.begun_ns) {
            return Err("a pass that begins before the one before it");
        }
        self.pipeline.end_pass(&pass, &self.user);
        self.last_pass = Some(pass);
        Ok(())
    }

    fn fact(&mut self, fact: Fact) -> Result<(), &'static str> {
        match fact {
            Fact::Opening(_) => return Err("it begins twice"),
            Fact::Modules { pid, added, current } => {
                let images = self.user.process(pid).images_mut();
                if !images.restore(added.into_iter().map(mapping), current) {
                    return Err("a mapping that was not described");
                }
            }
            Fact::Names { kernel, user, devices } => {
                self.known.kernel.extend(kernel);
                self.known.user.extend(user.into_iter().map(user_name));
                self.known.devices.extend(devices);
            }
            Fact::Homes(homes) => {
                self.homes.extend(homes.into_iter().map(|(pid, address, home)| ((pid, address), home)));
            }
            Fact::Disks(disks) => self.disks = disks,
            Fact::Closing(closing) => self.closing = Some(closing),
        }
        Ok(())
    }

    fn finish(self) -> Replayed<A> {
        let Self { facts, pipeline, user, known, homes, disks, last_pass, closing } = self;
        let OpeningFacts { processes, attach, start_ns, mut warnings, hooks, refused, host, .. } = facts;
        let was_cut = closing.is_none();
        // Everything from before the last pass began is in the file.
        let last_ns = last_pass.as_ref().map_or(start_ns, |pass| pass.begun_ns);
        let closing = closing.unwrap_or_else(|| ClosingFacts { end_ns: last_ns, ..ClosingFacts::default() });
        let end_ns = closing.end_ns.max(start_ns);
        let cut_off = was_cut.then(|| cut_off(end_ns - start_ns));
        warnings.extend(cut_off.clone());
        warnings.extend(closing.warnings);
        let ending = Ending {
            end_ns,
            ran_ns: closing.ran_ns.into_iter().collect(),
            counters: last_pass.map(|pass| pass.counters).unwrap_or_default(),
            recursion_misses: closing.recursion_misses,
            unkept: closing.unkept,
            programs: closing.programs,
            maps: closing.maps.into(),
        };
        let gathered = pipeline.finish(ending, user);
        let tick_ns = host.tick_ns;
        let facts = Facts { processes, start_ns, attach, hooks, refused, tick_ns, warnings, cut_off };
        Replayed { facts, gathered, known, homes, disks }
    }
}

fn cut_off(recorded_ns: u64) -> String {
    let seconds = recorded_ns as f64 / 1e9;
    format!(
        "the recording was cut off: the file holds its first {seconds:.3} s, and some names may be missing"
    )
}

fn mapping(module: Module) -> Mapping {
    Mapping::recorded(module.start..module.end, module.file_offset, module.path)
}

fn user_name(name: UserName) -> ((u32, Place, bool), String) {
    let place = Place { mapping: name.mapping, address: name.address };
    ((name.pid, place, name.is_return), name.name)
}
