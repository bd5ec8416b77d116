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
    /// Name of the network namespace that each child's Firecracker is started in, as `ip netns` lists it, or its
    /// path below `/run/netns`; the daemon's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// Memory that each child's Firecracker may use, guest memory included, in MiB, at least 16; beyond it the
    /// kernel kills it. No limit of its own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_mib: Option<u32>,
    /// CPU time that each child's Firecracker may use, as a number of CPUs (1.5 is one and a half), 0.01 to 1024.
    /// No limit of its own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_quota: Option<f64>,
    /// Whether to restore a snapshot that another Firecracker wrote, or that was taken on another CPU; false when
    /// absent. The guest may crash or compute wrongly.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

impl CreateSandboxes {
    /// Asks for `n` children of a snapshot, without limits.
    pub fn new(snapshot_tag: impl Into<String>, n: u32) -> Self {
        let snapshot_tag = snapshot_tag.into();
        Self { snapshot_tag, n, netns: None, memory_limit_mib: None, cpu_quota: None, force: false }
    }
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
    /// From the request that it was forked by to the moment its guest ran.
    pub running_after_ns: u64,
    /// `running_after_ns` in milliseconds.
    pub running_after_ms: f64,
    /// The network namespace that it runs in, where it was given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// Memory that its Firecracker may use, in MiB, where it was given a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_mib: Option<u32>,
    /// CPUs' worth of time that its Firecracker may use, where it was given a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_quota: Option<f64>,
    /// Why it is dead, where it is, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_because: Option<String>,
}

/// What a sandbox is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxState {
    /// The guest runs.
    Running,
    /// A BRANCH has stopped the guest and is about to let it go on.
    Branching,
    /// Its user has paused the guest; it stands still until its user resumes it.
    Paused,
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
