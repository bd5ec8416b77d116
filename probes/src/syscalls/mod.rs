//! A recording of processes' system calls, from attach to report.

mod sums;

use probes_common::CallFilter;
use reports::syscalls::{SCHEMA, Syscalls};

pub use sums::{Sums, name};

use crate::error::{AttachError, FinishError};
use crate::offcpu::unpaired;
use crate::recording::{self, ATTACH, Options, Recording};
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
        let threads = gathered.analysis.finish(gathered.end_ns, &gathered.notes, tids);
        Ok(Syscalls {
            schema: SCHEMA.to_owned(),
            processes: recording::processes(self.recording.targets()),
            window_ns: gathered.end_ns.saturating_sub(self.recording.start_ns()),
            attach: [ATTACH, "tp_btf/sys_enter", "tp_btf/sys_exit"].map(str::to_owned).to_vec(),
            warnings: recording::no_room(&gathered.loss)
                .into_iter()
                .chain(unpaired(&gathered.loss))
                .collect(),
            loss: gathered.loss,
            threads,
        })
    }
}
