//! Snapshots.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /v1/snapshots`: boot a microVM, wait until it is ready, snapshot it, end it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
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
    /// Path of a root file system image; only with `kernel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<String>,
    /// What guests may do with `rootfs`, and only with it; `read-only` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs_mode: Option<RootfsMode>,
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

/// Who uses a root file system image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RootfsMode {
    /// The image itself is the drive of the guest and of all its children, which cannot write to it.
    #[default]
    ReadOnly,
    /// Each sandbox has a copy to write to. A snapshot holds the drive as it was at the pause, and each child
    /// begins with a copy of that.
    PerSandbox,
}

/// A snapshot that sandboxes can be forked from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Snapshot {
    /// Its name.
    pub tag: String,
    /// Its directory on the daemon's host.
    pub dir: String,
    /// Seconds since the Unix epoch.
    pub created_at_unix: u64,
    /// The same in milliseconds; a whole second where the snapshot says no more.
    #[serde(default)]
    pub created_at_unix_ms: u64,
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
    /// Root file system image that it was booted with, and that its children share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<String>,
    /// The snapshot that it is a layer on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Why no child can be forked from it, in one line. Of a damaged snapshot, which is listed only where that is
    /// asked for (`GET /v1/snapshots?damaged=true`), what cannot be read is 0 or absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_bootable_because: Option<String>,
    /// Size of the root drive that is a part of it, in bytes; absent for a guest without one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drive_bytes: Option<u64>,
}

/// How far a snapshot has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
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
