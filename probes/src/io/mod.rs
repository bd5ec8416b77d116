//! A recording of what passes between processes and disks, from attach to report.

mod pairs;
mod sums;

use probes_common::Loss;
use reports::io::{Io, SCHEMA};

pub use sums::{Lists, Question, Sums};

use crate::device::{Dirtiers, Disks};
use crate::error::{AttachError, FinishError};
use crate::proc;
use crate::recording::{self, Group, Options, Plan, Recording, Refused, Scope};
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
        let pids = self.recording.targets().iter().map(Target::pid).collect();
        let question = Question { pids, tids: tids.to_vec(), tick_ns: proc::tick_ns() };
        let dirtiers = Dirtiers::new(&gathered.maps.dirtied);
        let mut lists = gathered.analysis.finish(gathered.end_ns, &dirtiers, &question);
        for device in &mut lists.devices {
            if let Some(disk) = self.disks.get(&device.device) {
                device.name.clone_from(&disk.name);
                device.backing_file.clone_from(&disk.backing_file);
                device.backing_device.clone_from(&disk.backing_device);
            }
        }
        let start_ns = self.recording.start_ns();
        let mut warnings: Vec<String> = recording::no_room(&gathered.loss).into_iter().collect();
        warnings.extend(uncounted(&gathered.loss));
        warnings.extend(refused(self.recording.refused()));
        Ok(Io {
            schema: SCHEMA.to_owned(),
            processes: recording::processes(self.recording.targets()),
            start_ns,
            window_ns: gathered.end_ns.saturating_sub(start_ns),
            attach: self.recording.hooks().to_vec(),
            loss: gathered.loss,
            warnings,
            devices: lists.devices,
            flows: lists.flows,
            slowest: lists.slowest,
            syncs: lists.syncs,
            journals: lists.journals,
            allocations: lists.allocations,
            pauses: lists.pauses,
        })
    }
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
