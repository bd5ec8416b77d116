//! What happens in the daemon, as `GET /v1/events` tells it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{BranchMode, DataPath};

/// One thing that happened. As a server-sent event, `id` and `type` are also its id and its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Greater than that of every event before it, also of an earlier daemon on this host.
    pub id: u64,
    /// When it happened, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub happening: Happening,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type")]
pub enum Happening {
    /// A sandbox was forked and runs.
    #[serde(rename = "sandbox.started")]
    SandboxStarted {
        /// Its id.
        sandbox: String,
        /// The snapshot it was forked from.
        snapshot_tag: String,
        /// Process id of its Firecracker.
        pid: u32,
    },
    /// A sandbox is no more.
    #[serde(rename = "sandbox.ended")]
    SandboxEnded {
        /// Its id.
        sandbox: String,
        /// `ended by request`, or what is known of the end of its Firecracker.
        why: String,
    },
    /// A BRANCH was admitted.
    #[serde(rename = "branch.started")]
    BranchStarted {
        /// Its id in the history.
        branch: String,
        /// The sandbox it is taken of.
        sandbox: String,
        /// The snapshot it is to become.
        tag: String,
        /// What Firecracker is asked to write.
        mode: BranchMode,
        /// How the bytes get to disk.
        data_path: DataPath,
    },
    /// The guest of a BRANCH runs again; its snapshot is not whole yet.
    #[serde(rename = "branch.resumed")]
    BranchResumed {
        /// Its id in the history.
        branch: String,
        /// The sandbox it is taken of.
        sandbox: String,
        /// The snapshot it is to become.
        tag: String,
        /// How long the guest stood still.
        pause_ns: u64,
    },
    /// A BRANCH is whole, and its snapshot is listed.
    #[serde(rename = "branch.ready")]
    BranchReady {
        /// Its id in the history.
        branch: String,
        /// The sandbox it was taken of.
        sandbox: String,
        /// Its snapshot.
        tag: String,
        /// How long the guest stood still.
        pause_ns: u64,
    },
    /// A BRANCH failed; there is no snapshot.
    #[serde(rename = "branch.failed")]
    BranchFailed {
        /// Its id in the history.
        branch: String,
        /// The sandbox it was taken of.
        sandbox: String,
        /// The snapshot it was to become.
        tag: String,
        /// Why, in one line.
        error: String,
    },
    /// The pauses of a sandbox grow from BRANCH to BRANCH.
    #[serde(rename = "branch.pauses-grow")]
    PausesGrow {
        /// The sandbox.
        sandbox: String,
        /// Over how many BRANCHes this was seen.
        branches: u32,
        /// The pause at their begin, by a line fitted through them.
        from_ns: u64,
        /// The pause at their end, by the same line.
        to_ns: u64,
    },
    /// A snapshot is whole and listed.
    #[serde(rename = "snapshot.ready")]
    SnapshotReady {
        /// The snapshot.
        tag: String,
    },
    /// A snapshot was deleted.
    #[serde(rename = "snapshot.deleted")]
    SnapshotDeleted {
        /// The snapshot.
        tag: String,
    },
    /// A layer was turned into an image, which lies on nothing.
    #[serde(rename = "snapshot.compacted")]
    SnapshotCompacted {
        /// The snapshot.
        tag: String,
    },
    /// A guest stands still and could not be resumed: it needs an operator.
    #[serde(rename = "guest.stuck-paused")]
    GuestStuckPaused {
        /// The sandbox.
        sandbox: String,
        /// What was tried.
        error: String,
    },
    /// A guest that was stuck paused could be resumed after all.
    #[serde(rename = "guest.runs-again")]
    GuestRunsAgain {
        /// The sandbox.
        sandbox: String,
    },
    /// This client has not been told of everything: events were dropped before it read them.
    #[serde(rename = "lost")]
    Lost {
        /// How many of this daemon's.
        count: u64,
        /// Whether the client has read from an earlier daemon, whose last events are not known to this one.
        daemon_restarted: bool,
    },
    /// The daemon ends in order; this is its last event.
    #[serde(rename = "daemon.stopping")]
    DaemonStopping,
}

impl Happening {
    /// Its `type` in JSON, and the name of the server-sent event.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SandboxStarted { .. } => "sandbox.started",
            Self::SandboxEnded { .. } => "sandbox.ended",
            Self::BranchStarted { .. } => "branch.started",
            Self::BranchResumed { .. } => "branch.resumed",
            Self::BranchReady { .. } => "branch.ready",
            Self::BranchFailed { .. } => "branch.failed",
            Self::PausesGrow { .. } => "branch.pauses-grow",
            Self::SnapshotReady { .. } => "snapshot.ready",
            Self::SnapshotDeleted { .. } => "snapshot.deleted",
            Self::SnapshotCompacted { .. } => "snapshot.compacted",
            Self::GuestStuckPaused { .. } => "guest.stuck-paused",
            Self::GuestRunsAgain { .. } => "guest.runs-again",
            Self::Lost { .. } => "lost",
            Self::DaemonStopping => "daemon.stopping",
        }
    }
}
