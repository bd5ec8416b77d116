//! A recording of what processes' threads do with futexes, from attach to report.

mod op;
mod ran;
mod verdict;
mod words;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::io::Read;

use probes_common::CallFilter;
use reports::futex::{self, Futex, Home, SCHEMA};

pub use op::waited_words;
pub use verdict::{Evidence, verdict};
pub use words::{Ended, Place, Summed, Waiter, Word, Words};

use crate::aggregate::{Names, UserNames};
use crate::comm::Comm;
use crate::decode::{ThreadId, UserSide};
use crate::error::{AttachError, FinishError};
use crate::interval::ThreadNote;
use crate::offcpu::unpaired;
use crate::pipeline::Gathered;
use crate::recfile::{self, Needed, ReadError, RecordedCalls};
use crate::recording::{self, Facts, Options, Recording};
use crate::symbolize::{Places, Symbolizer};
use crate::target::Target;

/// A recording of futex calls, which goes on until it is finished or dropped.
#[derive(Debug)]
pub struct Session {
    recording: Recording<Words>,
    places: BTreeMap<u32, Places>,
}

impl Session {
    /// Attaches, and records from when this returns.
    ///
    /// # Errors
    /// [`AttachError`] says what was refused, and what to do about it. Nothing is left attached.
    pub fn attach(targets: Vec<Target>, options: &Options) -> Result<Self, AttachError> {
        let places = targets.iter().map(|target| (target.pid(), Places::of(target.pid()))).collect();
        let recording = Recording::attach(targets, Some(CallFilter::Futex), options, |start| {
            Words::new(start.start_ns, start.calls.clone())
        })?;
        Ok(Self { recording, places })
    }

    /// The watched processes.
    pub fn targets(&self) -> &[Target] {
        self.recording.targets()
    }

    /// Ends the recording, and reports on the waits of `tids`, or of every thread where that is empty.
    ///
    /// # Errors
    /// [`FinishError::Drain`] where the recording had ended by itself.
    pub fn finish(mut self, tids: &[u32]) -> Result<Futex, FinishError> {
        let mut gathered = self.recording.finish()?;
        for (pid, places) in &mut self.places {
            places.refresh(*pid);
        }
        let names = Symbolizer::after_recording(std::mem::take(&mut gathered.user));
        Ok(report(self.recording.facts(), gathered, tids, names, &self.places))
    }
}

/// Reports on a recording in a file, as [`Session::finish`] does on one that has just ended. Of a file that ends
/// inside a block, what is before it is read where `partial` says so.
///
/// # Errors
/// [`ReadError`] says what is wrong with the file, and where.
pub fn replay(file: impl Read, partial: bool, tids: &[u32]) -> Result<Futex, ReadError> {
    let needed = Needed::calls(RecordedCalls::Futex);
    let replayed =
        recfile::replay(file, partial, needed, |start| Words::new(start.start_ns, start.calls.clone()))?;
    let (facts, gathered, names, homes) = replayed.named();
    Ok(report(facts, gathered, tids, names, &homes))
}

/// Knows where words lie.
trait Homes {
    /// `names` has those of variables.
    fn home(&self, pid: u32, address: u64, names: &mut Symbolizer) -> Home;
}

impl Homes for BTreeMap<u32, Places> {
    fn home(&self, pid: u32, address: u64, names: &mut Symbolizer) -> Home {
        self.get(&pid).map_or(Home::Unmapped, |places| names.home(places, address))
    }
}

impl Homes for recfile::Homes {
    fn home(&self, pid: u32, address: u64, _: &mut Symbolizer) -> Home {
        self.get(&(pid, address)).cloned().unwrap_or(Home::Unmapped)
    }
}

fn report(
    facts: Facts,
    gathered: Gathered<Words>,
    tids: &[u32],
    names: Symbolizer,
    homes: &dyn Homes,
) -> Futex {
    let Facts { processes, start_ns, attach, mut warnings, .. } = facts;
    let summed = gathered.analysis.finish(gathered.end_ns);
    warnings.extend(recording::no_room(&gathered.loss));
    warnings.extend(unpaired(&gathered.loss));
    warnings.extend(unplaced(summed.unplaced));
    let mut table = Table::new(&gathered.notes, names, homes, tids);
    let sound = !summed.events_lost && gathered.loss.get("recursion_misses").is_none_or(|lost| *lost == 0);
    let mut words: Vec<futex::Word> =
        summed.words.into_iter().filter_map(|(place, word)| table.word(place, word, sound)).collect();
    words.sort_by_key(|word| (Reverse(asleep_ns(word)), word.pid, word.address));
    warnings.extend(table.names.warning());
    Futex {
        schema: SCHEMA.to_owned(),
        processes,
        window_ns: gathered.end_ns.saturating_sub(start_ns),
        attach: [attach.as_str(), "tp_btf/sys_enter", "tp_btf/sys_exit"].map(str::to_owned).to_vec(),
        loss: gathered.loss,
        warnings,
        words,
    }
}

/// Makes rows of sums.
struct Table<'a> {
    comms: HashMap<ThreadId, Comm>,
    comms_by_tid: HashMap<u32, Comm>,
    names: Symbolizer,
    homes: &'a dyn Homes,
    tids: &'a [u32],
}

impl<'a> Table<'a> {
    fn new(notes: &[ThreadNote], names: Symbolizer, homes: &'a dyn Homes, tids: &'a [u32]) -> Self {
        let comms: HashMap<ThreadId, Comm> =
            notes.iter().filter_map(|note| Some((note.thread, note.comm?))).collect();
        let comms_by_tid = comms.iter().map(|(thread, comm)| (thread.tid, *comm)).collect();
        Self { comms, comms_by_tid, names, homes, tids }
    }

    /// `None` where none of the threads asked for waited on it.
    fn word(&mut self, (pid, address): Place, word: Word, all_sound: bool) -> Option<futex::Word> {
        let is_asked = |id: &ThreadId| self.tids.is_empty() || self.tids.contains(&id.tid);
        if !word.waiters.keys().any(is_asked) {
            return None;
        }
        let named = |((name, private), row): ((&'static str, bool), futex::Operation)| futex::Operation {
            name: name.to_owned(),
            private,
            ..row
        };
        let mut operations: Vec<_> = word.operations.into_iter().map(named).collect();
        operations.sort_by_key(|row| Reverse(row.asleep_ns));
        let mut waiters: Vec<_> =
            word.waiters.into_iter().map(|(id, one)| self.waiter(pid, id, one)).collect();
        waiters.sort_by_key(|waiter| (Reverse(waiter.asleep_ns), waiter.tid));
        let mut wakers: Vec<_> =
            word.wakers.into_iter().map(|(tid, one)| self.waker(pid, tid, one)).collect();
        wakers.sort_by_key(|waker| (Reverse(waker.waits_ended), waker.tid));
        Some(futex::Word {
            pid,
            address,
            home: self.homes.home(pid, address, &mut self.names),
            verdict: verdict(word.evidence),
            sound: all_sound && !word.truncated,
            handed_on: word.evidence.handed_on,
            woken: word.evidence.woken,
            operations,
            waiters,
            wakers,
        })
    }

    fn waiter(&mut self, pid: u32, id: ThreadId, waiter: Waiter) -> futex::Waiter {
        let known = self.comms.get(&id).or_else(|| self.comms_by_tid.get(&id.tid));
        futex::Waiter {
            tid: id.tid,
            comm: known.map_or_else(String::new, |comm| comm.text().into()),
            waits: waiter.waits,
            asleep_ns: waiter.asleep_ns,
            user: self.user(pid, waiter.user),
        }
    }

    fn waker(&mut self, pid: u32, tid: u32, ended: Ended) -> futex::Waker {
        let comm = ended.peer.map_or_else(String::new, |peer| peer.comm.text().into());
        futex::Waker {
            tid,
            comm,
            waits_ended: ended.waits,
            by_operation: ended.by_operation,
            operation: ended.operation.map(str::to_owned),
            ran_meanwhile_ns: ended.ran_meanwhile_ns,
            user: self.user(ended.peer.map_or(pid, |peer| peer.tgid), ended.user),
        }
    }

    fn user(&mut self, pid: u32, user: Option<UserSide>) -> Vec<String> {
        let Some(user) = user else { return Vec::new() };
        let UserNames { mut frames, truncated } = self.names.user(pid, &user);
        frames.extend(truncated.then(|| "[truncated]".to_owned()));
        frames
    }
}

fn asleep_ns(word: &futex::Word) -> u64 {
    word.operations.iter().map(|operation| operation.asleep_ns).sum()
}

fn unplaced(count: u64) -> Option<String> {
    (count > 0).then(|| {
        format!("{count} futex waits that began before the window are left out: their word was not seen")
    })
}

#[cfg(test)]
mod tests;
