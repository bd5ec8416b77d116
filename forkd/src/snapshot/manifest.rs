//! What a snapshot's directory says of itself: `manifest.json`, written last.

use serde::{Deserialize, Serialize};

use crate::api::{BranchMode, DataPath};

/// The `schema` of [`Manifest`].
pub const SCHEMA: &str = "forkd.snapshot/1";

/// Describes one snapshot; nothing outside its directory is needed to use it, but `rootfs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: String,
    /// The snapshot's name; equal to its directory's.
    pub tag: String,
    /// Seconds since the Unix epoch.
    pub created_at_unix: u64,
    /// The sandbox it was BRANCHed from; absent for one made by booting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branched_from: Option<String>,
    /// The tag that sandbox was forked from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// What Firecracker wrote.
    pub mode: BranchMode,
    /// How it got to disk.
    pub data_path: DataPath,
    /// Its files were synced before it became visible. Without that, a power cut may have damaged it.
    pub durable: bool,
    /// Guest memory in MiB; the memory file has exactly this size.
    pub mem_mib: u32,
    /// Virtual CPUs.
    pub vcpus: u8,
    /// Path of the root file system image that the microVM opens again when it is restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<String>,
    /// The Firecracker that wrote it, as `major.minor.patch`.
    pub firecracker: String,
}

impl Manifest {
    /// Size of the memory file in bytes.
    pub fn memory_bytes(&self) -> u64 {
        u64::from(self.mem_mib) << 20
    }
}
