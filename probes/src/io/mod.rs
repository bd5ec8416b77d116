//! A recording of what passes between processes and disks, from attach to report.

mod pairs;
mod sums;

use std::io::Read;

use probes_common::Loss;
use reports::io::{Io, SCHEMA};

pub use sums::{Lists, Question, Sums};

use crate::device::{Dirtiers, Disks};
use crate::error::{AttachError, FinishError};
use crate::pipeline::Gathered;
use crate::recfile::{self, Needed, ReadError, Replayed};
use crate::recording::{self, Facts, Group, Options, Plan, Recording, Refused, Scope};
use crate::target::Target;

/// What is recorded.
pub const GROUPS: [Group; 4] = [Group::Block, Group::Journal, Group::Allocate, Group::Dirty];

/// A recording of the whole machine's block I/O, which goes on until it is finished or dropped.
#[derive(Debug)]
pub struct Session {
    recording: Recording<Sums>,
    disks: Disks,
}

impl Session {
    /// Attaches, and records from when this returns. The report will be about `targets`; about everybody where there
    /// are none. Recorded is the whole machine in any case: what is ahead of a process's request may be anybody's.
    ///
    /// # Errors
    /// [`AttachError`] says what was refused, and what to do about it. Nothing is left attached.
    pub fn attach(targets: Vec<Target>, options: &Options) -> Result<Self, AttachError> {
        let mut disks = Disks::default();
        disks.look();
        let plan = Plan::devices(options.ring_bytes, &GROUPS);
        let options = Options { scope: Scope::Machine, ..options.clone() };
        let recording = Recording::attach_plan(targets, &plan, &options, |start| Sums::new(start.start_ns))?;
        Ok(Self { recording, disks })
    }

    /// The watched processes.
    pub fn targets(&self) -> &[Target] {
        self.recording.targets()
    }

    /// Ends the recording, and reports; lists by thread are of `tids`, or of every thread where that is empty.
    ///
    /// # Errors
    /// [`FinishError::Drain`] where the recording had ended by itself.
    pub fn finish(mut self, tids: &[u32]) -> Result<Io, FinishError> {
        let gathered = self.recording.finish()?;
        self.disks.look();
        let cost = self.recording.cost(&gathered);
        let mut report = report(self.recording.facts(), gathered, &self.disks, tids);
        report.warnings.extend(self.recording.not_kept());
        Ok(Io { cost, ..report })
    }
}

/// Reports on a recording in a file, as [`Session::finish`] does on one that has just ended; about the processes that
/// were watched. Of a file that ends inside a block, what is before it is read where `partial` says so.
///
/// # Errors
/// [`ReadError`] says what is wrong with the file, and where.
pub fn replay(file: impl Read, partial: bool, tids: &[u32]) -> Result<Io, ReadError> {
    let replayed = recfile::replay(file, partial, Needed::IO, |start| Sums::new(start.start_ns))?;
    let Replayed { facts, gathered, disks, .. } = replayed;
    Ok(report(facts, gathered, &disks, tids))
}

fn report(facts: Facts, gathered: Gathered<Sums>, disks: &Disks, tids: &[u32]) -> Io {
    let Facts { processes, start_ns, hooks, refused: refusals, tick_ns, cut_off, .. } = facts;
    let pids = processes.iter().map(|process| process.pid).collect();
    let question = Question { pids, tids: tids.to_vec(), tick_ns };
    let dirtiers = Dirtiers::new(&gathered.maps.dirtied);
    let mut lists = gathered.analysis.finish(gathered.end_ns, &dirtiers, &question);
    for device in &mut lists.devices {
        if let Some(disk) = disks.get(&device.device) {
            device.name.clone_from(&disk.name);
            device.backing_file.clone_from(&disk.backing_file);
            device.backing_device.clone_from(&disk.backing_device);
        }
    }
    let mut warnings: Vec<String> = cut_off.iter().cloned().collect();
    warnings.extend(cut_off.is_some().then(uncounted_at_all));
    warnings.extend(recording::no_room(&gathered.loss));
    warnings.extend(uncounted(&gathered.loss));
    warnings.extend(refused(&refusals));
    Io {
        schema: SCHEMA.to_owned(),
        processes,
        start_ns,
        window_ns: gathered.end_ns.saturating_sub(start_ns),
        attach: hooks,
        loss: gathered.loss,
        warnings,
        devices: lists.devices,
        flows: lists.flows,
        slowest: lists.slowest,
        syncs: lists.syncs,
        journals: lists.journals,
        allocations: lists.allocations,
        pauses: lists.pauses,
        cost: None,
    }
}

/// What it means that a file ends early: the kernel side counts dirty pages in a map, which is read at the end.
pub fn uncounted_at_all() -> String {
    "whose pages became dirty stood at the end of the file: writes are charged to who made the requests"
        .to_owned()
}

/// What it means that the dirtied pages of some files were not counted.
pub fn uncounted(loss: &std::collections::BTreeMap<String, u64>) -> Option<String> {
    let count = loss.get(Loss::DirtierUncounted.name()).copied().filter(|count| *count > 0)?;
    Some(format!(
        "{count} times pages became dirty of more files and processes than are counted: writes of these files are \
         charged to who made the requests"
    ))
}

/// What this kernel does not show, in one sentence.
pub fn refused(refused: &[Refused]) -> Option<String> {
    let first = refused.first()?;
    let names: Vec<&str> = refused.iter().map(|one| one.name.as_str()).collect();
    Some(format!("not recorded, because this kernel refuses it: {} ({})", names.join(", "), first.reason))
}
