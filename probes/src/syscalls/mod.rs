//! A recording of processes' system calls, from attach to report.

mod sums;

use std::io::Read;

use probes_common::CallFilter;
use reports::syscalls::{SCHEMA, Syscalls};

pub use sums::{Sums, name};

use crate::error::{AttachError, FinishError};
use crate::offcpu::unpaired;
use crate::pipeline::Gathered;
use crate::recfile::{self, Needed, ReadError, RecordedCalls};
use crate::recording::{self, Facts, Options, Recording};
use crate::target::Target;

/// A recording of every system call, which goes on until it is finished or dropped.
#[derive(Debug)]
pub struct Session {
    recording: Recording<Sums>,
}

impl Session {
    /// Attaches, and records from when this returns.
    ///
    /// # Errors
    /// [`AttachError`] says what was refused, and what to do about it. Nothing is left attached.
    pub fn attach(targets: Vec<Target>, options: &Options) -> Result<Self, AttachError> {
        let recording = Recording::attach(targets, Some(CallFilter::All), options, |start| {
            Sums::new(start.start_ns, start.calls.clone())
        })?;
        Ok(Self { recording })
    }

    /// The watched processes.
    pub fn targets(&self) -> &[Target] {
        self.recording.targets()
    }

    /// Ends the recording, and reports on `tids`, or on every thread where that is empty.
    ///
    /// # Errors
    /// [`FinishError::Drain`] where the recording had ended by itself.
    pub fn finish(mut self, tids: &[u32]) -> Result<Syscalls, FinishError> {
        let gathered = self.recording.finish()?;
        Ok(report(self.recording.facts(), gathered, tids))
    }
}

/// Reports on a recording in a file, as [`Session::finish`] does on one that has just ended. Of a file that ends
/// inside a block, what is before it is read where `partial` says so.
///
/// # Errors
/// [`ReadError`] says what is wrong with the file, and where.
pub fn replay(file: impl Read, partial: bool, tids: &[u32]) -> Result<Syscalls, ReadError> {
    let needed = Needed::calls(RecordedCalls::All);
    let replayed =
        recfile::replay(file, partial, needed, |start| Sums::new(start.start_ns, start.calls.clone()))?;
    Ok(report(replayed.facts, replayed.gathered, tids))
}

fn report(facts: Facts, gathered: Gathered<Sums>, tids: &[u32]) -> Syscalls {
    let Facts { processes, start_ns, attach, mut warnings, .. } = facts;
    warnings.extend(recording::no_room(&gathered.loss));
    warnings.extend(unpaired(&gathered.loss));
    Syscalls {
        schema: SCHEMA.to_owned(),
        processes,
        window_ns: gathered.end_ns.saturating_sub(start_ns),
        attach: [attach.as_str(), "tp_btf/sys_enter", "tp_btf/sys_exit"].map(str::to_owned).to_vec(),
        threads: gathered.analysis.finish(gathered.end_ns, &gathered.notes, tids),
        loss: gathered.loss,
        warnings,
    }
}
