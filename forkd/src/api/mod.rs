//! The JSON of the HTTP API: what clients send and what the daemon answers.
//!
//! Requests refuse unknown fields. Durations are nanoseconds (`_ns`); `_ms` fields repeat one of them
//! for people. Times are CLOCK_MONOTONIC nanoseconds, the clock of the kernel's trace events, so that
//! a span here can be laid over a recording of the same host.

mod branches;
mod packs;
mod sandboxes;
mod snapshots;

use serde::{Deserialize, Serialize};

pub use self::branches::{Branch, BranchMode, BranchRequest, DataPath, PhaseSpan};
pub use self::packs::{Packed, Unpacked};
pub use self::sandboxes::{
    ConsoleAnswer, ConsoleOutput, ConsoleRequest, CreateSandboxes, Sandbox, SandboxState,
};
pub use self::snapshots::{CreateSnapshot, Snapshot, SnapshotDetail, SnapshotStatus};

/// Every error body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What was refused or failed, why, and what to do, in one line.
    pub error: String,
}
