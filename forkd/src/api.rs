//! The JSON of the HTTP API: what clients send and what the daemon answers.
//!
//! Requests refuse unknown fields. Durations are nanoseconds (`_ns`); `_ms` fields repeat one of them
//! for people. Times are CLOCK_MONOTONIC nanoseconds, the clock of the kernel's trace events, so that
//! a span here can be laid over a recording of the same host.

use probes_common::BranchPhase;
use serde::{Deserialize, Serialize};

/// `POST /v1/snapshots`: boot a microVM, wait until it is ready, snapshot it, end it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshot {
    /// Name of the new snapshot, `^[A-Za-z0-9_-]{1,64}$`.
    pub tag: String,
    /// Path of an uncompressed kernel image on the daemon's host; the built-in guest when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Path of an initial RAM disk; only with `kernel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<String>,
    /// Path of a root file system image, attached read-only; only with `kernel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<String>,
    /// Kernel command line; only with `kernel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_args: Option<String>,
    /// Virtual CPUs, 1 to 32; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u8>,
    /// Guest memory in MiB, 16 to 65536; 128 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_mib: Option<u32>,
    /// How long the guest may take to be ready. The built-in guest says so itself, and this is a
    /// deadline (10 s when absent); any other guest is given exactly this long (2 s when absent).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_wait_ms: Option<u64>,
}

/// A snapshot that sandboxes can be forked from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name.
    pub tag: String,
    /// Its directory on the daemon's host.
    pub dir: String,
    /// Seconds since the Unix epoch.
    pub created_at_unix: u64,
    /// Id of the sandbox it was BRANCHed from; absent for a snapshot made by booting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branched_from: Option<String>,
    /// Guest memory in MiB.
    pub mem_mib: u32,
    /// Virtual CPUs.
    pub vcpus: u8,
    /// Disk space its files take, in bytes.
    pub physical_bytes: u64,
    /// Whether it was on disk before it became visible.
    pub durable: bool,
    /// Root file system image that it was booted with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<String>,
}

/// How far a snapshot has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotStatus {
    /// It is being written, and not listed yet.
    Writing,
    /// It is whole and listed; durable too, unless its BRANCH asked not to wait for the disk.
    Ready,
    /// It could not be written, or is damaged.
    Failed,
}

/// `GET /v1/snapshots/:tag`: all there is to know about one snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotDetail {
    /// Its name.
    pub tag: String,
    /// How far it has come.
    pub status: SnapshotStatus,
    /// Whether children can be forked from it.
    pub bootable: bool,
    /// Why not, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_bootable_because: Option<String>,
    /// Bytes of guest memory; 0 where that is not known.
    pub logical_bytes: u64,
    /// Disk space of its own files, in bytes.
    pub physical_bytes: u64,
    /// The snapshot that it is a layer on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Layers down to the image it begins with; 0 for an image.
    pub depth: u32,
    /// The layers that lie directly on it.
    pub dependents: Vec<String>,
}

/// `POST /v1/sandboxes`: fork children from a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxState {
    /// The guest runs.
    Running,
    /// A BRANCH has stopped the guest and is about to let it go on.
    Branching,
    /// A BRANCH stopped the guest, and every attempt to resume it failed: it needs an operator.
    StuckPaused,
    /// Its Firecracker is gone.
    Dead,
}

/// `POST /v1/sandboxes/:id/console`: write to the guest's serial console and read what it answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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

/// What the guest's console said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleAnswer {
    /// Output since the write, to the end of `until` where that was found.
    pub output: String,
    /// Whether `until` was found; false without one.
    pub matched: bool,
    /// Bytes of output that were dropped because nobody read them in time.
    pub dropped_bytes: u64,
}

/// `POST /v1/sandboxes/:id/branch`: snapshot a running sandbox and let it go on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BranchRequest {
    /// Name of the new snapshot; `branch-` and a unique suffix when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// What Firecracker writes; `full` when neither this nor `diff` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<BranchMode>,
    /// The older spelling of `mode`: true is `diff`, false is `full`. Not together with `mode`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<bool>,
    /// How the bytes get to disk; the daemon's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_path: Option<DataPath>,
    /// Whether the answer waits until the snapshot is on disk; true when absent. With false it is visible and
    /// whole, and a power cut may still take it or damage it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable: Option<bool>,
    /// Whether to answer only when the snapshot is durable; true when absent. With false the answer comes right
    /// after the resume, with `status` `writing`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<bool>,
}

/// What Firecracker writes during the pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BranchMode {
    /// All of the guest's memory.
    Full,
    /// The pages dirtied since the last BRANCH, or since the fork.
    Diff,
}

/// How a BRANCH's bytes get to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataPath {
    /// The parent's image is copied while the guest is paused and after; Firecracker writes to the same disk.
    Naive,
    /// As `naive`, into a destination whose blocks were allocated before the pause.
    Fallocate,
    /// Firecracker writes to memory; the parent's image is copied past the page cache (O_DIRECT).
    Direct,
    /// Firecracker writes to memory; the parent's image is copied with several requests in flight (io_uring).
    Uring,
    /// Firecracker writes to memory, and only the dirtied pages go to disk, as a layer on the parent.
    Stage,
}

impl DataPath {
    /// Every data path.
    pub const ALL: [Self; 5] = [Self::Naive, Self::Fallocate, Self::Direct, Self::Uring, Self::Stage];

    /// Its name in requests, tables and file names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Naive => "naive",
            Self::Fallocate => "fallocate",
            Self::Direct => "direct",
            Self::Uring => "uring",
            Self::Stage => "stage",
        }
    }

    /// Whether Firecracker writes to memory during the pause, and the disk is touched after it only.
    pub const fn stages_in_memory(self) -> bool {
        matches!(self, Self::Direct | Self::Uring | Self::Stage)
    }
}

impl std::str::FromStr for DataPath {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|data_path| data_path.name() == name);
        found.ok_or_else(|| format!("no data path is called '{name}': use one of {known}"))
    }
}

/// A BRANCH that succeeded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Branch {
    /// The new snapshot.
    pub tag: String,
    /// The sandbox it was taken of.
    pub branched_from: String,
    /// What Firecracker wrote: `full` also where `diff` was asked for and could not be had (see `warnings`).
    pub mode: BranchMode,
    /// How the bytes got to disk.
    pub data_path: DataPath,
    /// From sending the pause request to the answer of the resume request.
    pub pause_ns: u64,
    /// `pause_ns` in milliseconds.
    pub pause_ms: f64,
    /// Time Firecracker took to write memory and state (the `create` phase), in milliseconds.
    pub diff_ms: f64,
    /// Bytes of guest memory that Firecracker wrote: the memory file's disk space, or its pages in memory.
    pub diff_physical_bytes: u64,
    /// Memory that held the snapshot between the pause and the disk, in bytes; 0 where Firecracker wrote to disk.
    pub staged_bytes: u64,
    /// The snapshot was to be staged in memory and was written to disk, because memory was short.
    pub fell_back_to_disk: bool,
    /// How far the snapshot has come.
    pub status: SnapshotStatus,
    /// Every phase, in the order in which they begin. `copy` may begin before `pause` and end after `resume`.
    pub phases: Vec<PhaseSpan>,
    /// What did not go as asked, one sentence each.
    pub warnings: Vec<String>,
}

/// When one phase of a BRANCH began, and how long it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseSpan {
    /// Which phase.
    #[serde(with = "phase_name")]
    pub phase: BranchPhase,
    /// CLOCK_MONOTONIC at its begin.
    pub start_ns: u64,
    /// Its length; 0 for a phase that this BRANCH had no use for.
    pub ns: u64,
}

impl Branch {
    /// Length of `phase`, 0 where it did not occur.
    pub fn phase_ns(&self, phase: BranchPhase) -> u64 {
        self.phases.iter().find(|span| span.phase == phase).map_or(0, |span| span.ns)
    }

    /// The pause as CLOCK_MONOTONIC nanoseconds `(start, end)`, for laying it over a recording.
    pub fn pause_window_ns(&self) -> Option<(u64, u64)> {
        let pause = self.phases.iter().find(|span| span.phase == BranchPhase::Pause)?;
        Some((pause.start_ns, pause.start_ns + self.pause_ns))
    }
}

/// Every error body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What was refused or failed, why, and what to do, in one line.
    pub error: String,
}

mod phase_name {
    use probes_common::BranchPhase;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(phase: &BranchPhase, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(phase.name())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BranchPhase, D::Error> {
        let name = String::deserialize(deserializer)?;
        BranchPhase::ALL
            .into_iter()
            .find(|phase| phase.name() == name)
            .ok_or_else(|| D::Error::custom(format!("no BRANCH phase is called '{name}'")))
    }
}
