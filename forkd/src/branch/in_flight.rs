//! What a sandbox's record says while it is being BRANCHed, for a daemon that finds it after a crash.

use super::BranchError;
use crate::api::SandboxState;
use crate::sandbox::{DiffBase, Sandbox, recorded};

/// A BRANCH that is under way. Dropping it says that the BRANCH failed.
#[derive(Debug)]
pub(super) struct InFlight<'a> {
    sandbox: &'a Sandbox,
    succeeded: bool,
}

impl<'a> InFlight<'a> {
    /// Writes down that a BRANCH is under way, and that nothing is known that a diff could build on.
    pub fn begin(sandbox: &'a Sandbox) -> Result<Self, BranchError> {
        let begin = sandbox.record(|record| {
            record.branching = true;
            record.diff_base = None;
        });
        begin.map_err(BranchError::Record)?;
        Ok(Self { sandbox, succeeded: false })
    }

    /// Writes down and counts a BRANCH that succeeded: the next diff builds on `base`.
    pub fn succeed(mut self, base: &DiffBase) {
        self.succeeded = true;
        self.sandbox.count_branch();
        self.end(|record| {
            record.diff_base = Some(recorded(base));
            record.branches += 1;
        });
    }

    fn end(&self, change: impl FnOnce(&mut crate::sandbox::record::Record)) {
        let end = self.sandbox.record(|record| {
            record.branching = false;
            change(record);
        });
        if let Err(error) = end {
            // The record goes on to say that a BRANCH is under way, which is safe: after a restart the next is full.
            tracing::warn!(sandbox = self.sandbox.id, %error, "cannot write down the end of a BRANCH");
        }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        // A guest that could not be resumed is for a later daemon to resume.
        if !self.succeeded && self.sandbox.state() != SandboxState::StuckPaused {
            self.end(|_| {});
        }
    }
}
