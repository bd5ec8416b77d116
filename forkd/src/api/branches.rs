//! BRANCHes.

use probes_common::BranchPhase;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::SnapshotStatus;

/// `POST /v1/sandboxes/:id/branch`: snapshot a running sandbox and let it go on.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BranchMode {
    /// All of the guest's memory.
    Full,
    /// The pages dirtied since the last BRANCH, or since the fork.
    Diff,
}

impl BranchMode {
    /// Its name in requests, tables and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Diff => "diff",
        }
    }
}

/// How a BRANCH's bytes get to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Branch {
    /// Its id in the history: a UUID of version 7, which sorts by the time at which the BRANCH began.
    pub id: String,
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
    /// Time it took to copy the guest's drive, a part of the `create` phase; 0 for a guest without a drive of its own.
    #[serde(default)]
    pub drive_copy_ns: u64,
    /// How far the snapshot has come.
    pub status: SnapshotStatus,
    /// Every phase, in the order in which they begin. `copy` may begin before `pause` and end after `resume`.
    pub phases: Vec<PhaseSpan>,
    /// What did not go as asked, one sentence each.
    pub warnings: Vec<String>,
}

/// `GET /v1/branches/:id`: a BRANCH as the history has it, also one that failed or is not whole yet.
///
/// Of one that failed, figures and phases are those that it reached; the rest is 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BranchRecord {
    /// What the answer to the BRANCH says, or would say.
    #[serde(flatten)]
    pub branch: Branch,
    /// Whether it was to be on disk before it became visible.
    pub durable: bool,
    /// When it began, in milliseconds since the Unix epoch.
    pub started_at_unix_ms: u64,
    /// Why it failed, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Version of the Firecracker that wrote it.
    pub firecracker: String,
    /// Version of the daemon that took it.
    pub forkd: String,
    /// Where the time of its pause went, where that was asked for (`--attribution`): a report of the schema
    /// `forkd.explain/1` without its segments, or `{"unavailable": "why"}`. It is there shortly after the resume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attribution: Option<serde_json::Value>,
}

/// Which BRANCHes `GET /v1/branches` answers with, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BranchQuery {
    /// Only those of this sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Only those to this tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// How many, 1 to 1000; 100 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only those that began before the BRANCH with this id: the last id of one answer asks for the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

/// When one phase of a BRANCH began, and how long it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PhaseSpan {
    /// Which phase.
    #[serde(with = "phase_name")]
    #[schema(value_type = String, examples("create"))]
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
