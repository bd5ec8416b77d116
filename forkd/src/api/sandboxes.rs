//! Sandboxes and their consoles.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /v1/sandboxes`: fork children from a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSandboxes {
    /// The snapshot to fork from.
    pub snapshot_tag: String,
    /// How many children, 1 to 1000; 1 when absent.
    #[serde(default = "one")]
    pub n: u32,
}

fn one() -> u32 {
    1
}

/// A microVM that the daemon runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sandbox {
    /// Its id, `sb-` and twelve hexadecimal digits.
    pub id: String,
    /// The snapshot it was forked from.
    pub snapshot_tag: String,
    /// What it is doing.
    pub state: SandboxState,
    /// Process id of its Firecracker.
    pub pid: u32,
    /// Seconds since the Unix epoch.
    pub created_at_unix: u64,
    /// Guest memory in MiB.
    pub mem_mib: u32,
    /// BRANCHes taken of it that succeeded.
    pub branches: u64,
}

/// What a sandbox is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxState {
    /// The guest runs.
    Running,
    /// A BRANCH has stopped the guest and is about to let it go on.
    Branching,
    /// A BRANCH stopped the guest, and it could not be resumed; the daemon goes on trying while Firecracker lives.
    StuckPaused,
    /// Its Firecracker is gone.
    Dead,
}

/// `POST /v1/sandboxes/:id/console`: write to the guest's serial console and read what it answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsoleRequest {
    /// Bytes for the guest; a guest that reads lines wants the `\n` too.
    pub write: String,
    /// Answer as soon as this appears in the output that follows the write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Answer after this long at the latest: 1 000 when absent, 60 000 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// `GET /v1/sandboxes/:id/console?from=N&wait_ms=N`: what the guest's console said from an offset on. Reading this
/// way takes nothing from other readers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConsoleOutput {
    /// Output from the offset on that is still kept; empty where nothing came in time, or no offset was given.
    pub output: String,
    /// The offset to read on from.
    pub next: u64,
    /// Bytes behind the offset that were dropped because nobody read them in time.
    pub dropped_bytes: u64,
}

/// What the guest's console said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConsoleAnswer {
    /// Output since the write, to the end of `until` where that was found.
    pub output: String,
    /// Whether `until` was found; false without one.
    pub matched: bool,
    /// Bytes of output that were dropped because nobody read them in time.
    pub dropped_bytes: u64,
}
