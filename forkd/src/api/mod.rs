//! The JSON of the HTTP API: what clients send and what the daemon answers.
//!
//! Requests refuse unknown fields. Durations are nanoseconds (`_ns`); `_ms` fields repeat one of them
//! for people. Times are CLOCK_MONOTONIC nanoseconds, the clock of the kernel's trace events, so that
//! a span here can be laid over a recording of the same host.

mod branches;
mod events;
mod packs;
mod sandboxes;
mod snapshots;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::branches::{Branch, BranchMode, BranchQuery, BranchRecord, BranchRequest, DataPath, PhaseSpan};
pub use self::events::{Event, Happening};
pub use self::packs::{Packed, Unpacked};
pub use self::sandboxes::{
    ConsoleAnswer, ConsoleOutput, ConsoleRequest, CreateSandboxes, Sandbox, SandboxState,
};
pub use self::snapshots::{CreateSnapshot, RootfsMode, Snapshot, SnapshotDetail, SnapshotStatus};

/// `GET /version`: what answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// The daemon's version.
    pub version: String,
    /// The API's version.
    pub api: String,
    /// Version of the Firecracker that microVMs run on.
    pub firecracker: String,
    /// What is known of that version: `tested`, `accepted` or `unsupported`.
    #[serde(default)]
    pub firecracker_support: String,
    /// The versions that are supported, for people.
    #[serde(default)]
    pub firecracker_supported_versions: String,
    /// The version of the snapshots that it writes, where it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_format: Option<String>,
}

/// `GET /healthz`: the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Always true.
    pub ok: bool,
}

/// Every error body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What was refused or failed, why, and what to do, in one line.
    pub error: String,
}
