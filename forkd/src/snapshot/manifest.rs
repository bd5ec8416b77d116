//! What a snapshot's directory says of itself: `manifest.json`, written last.

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::extents::Extent;
use super::origin::Cpu;
use crate::api::{BranchMode, DataPath};

/// The `schema` of [`Manifest`].
pub const SCHEMA: &str = "forkd.snapshot/1";

/// Describes one snapshot. Nothing outside its directory is needed to use it but `rootfs` and, for a layer,
/// its parent.
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
    /// What Firecracker wrote.
    pub mode: BranchMode,
    /// How it got to disk.
    pub data_path: DataPath,
    /// Its files were synced before it became visible. Without that, a power cut may have damaged it.
    pub durable: bool,
    /// Guest memory in MiB.
    pub mem_mib: u32,
    /// Virtual CPUs.
    pub vcpus: u8,
    /// Path of the root file system image that the microVM opens again when it is restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<String>,
    /// The Firecracker that wrote it, as `major.minor.patch`.
    pub firecracker: String,
    /// The version of the format of device and CPU state; absent where that Firecracker does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_format: Option<String>,
    /// The processor that the guest saw. A snapshot without one is restored on any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// What it is, however it is stored: a layer that is turned into an image keeps it. See [`Manifest::identity_of`].
    pub identity: Digest,
    /// Digest of the device and CPU state.
    pub vmstate: Digest,
    /// Where guest memory is.
    pub memory: Memory,
    /// The root drive that the guest writes to, where it has one; its contents at the pause are in the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drive: Option<Drive>,
}

/// A snapshot's own copy of a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drive {
    /// Its size.
    pub bytes: u64,
    /// Digest of its contents.
    pub digest: Digest,
}

/// Where a snapshot's guest memory is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Memory {
    /// All of it in the snapshot's own memory image.
    Image {
        /// Digest of the image.
        digest: Digest,
    },
    /// The parent's memory with these pages laid over it.
    Layer {
        /// The parent.
        parent: Parent,
        /// Which parts of guest memory the layer file holds: the file is their contents, one after another.
        extents: Vec<Extent>,
        /// Digest of the layer file.
        digest: Digest,
    },
}

/// The snapshot that a layer lies on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parent {
    /// Its name.
    pub tag: String,
    /// Its identity: another snapshot under the same name is not taken for it.
    pub identity: Digest,
}

impl Manifest {
    /// Size of guest memory in bytes.
    pub fn memory_bytes(&self) -> u64 {
        u64::from(self.mem_mib) << 20
    }

    /// The snapshot that it lies on, where it is a layer.
    pub fn parent(&self) -> Option<&Parent> {
        match &self.memory {
            Memory::Image { .. } => None,
            Memory::Layer { parent, .. } => Some(parent),
        }
    }

    /// The identity of a snapshot with this state, this memory and this drive: a digest over the digests of all that it is
    /// made of, its parents included.
    pub fn identity_of(vmstate: Digest, memory: &Memory, drive: Option<&Drive>) -> Digest {
        let mut text = format!("vmstate {vmstate}\n");
        match memory {
            Memory::Image { digest } => text.push_str(&format!("image {digest}\n")),
            Memory::Layer { parent, extents, digest } => {
                text.push_str(&format!("parent {}\nlayer {digest}\n", parent.identity));
                for extent in extents {
                    text.push_str(&format!("{} {}\n", extent.start, extent.bytes));
                }
            }
        }
        if let Some(Drive { bytes, digest }) = drive {
            text.push_str(&format!("drive {bytes} {digest}\n"));
        }
        Digest::of(text.as_bytes())
    }

    /// Checks what a hostile or damaged manifest could claim of a layer's extents: in order, apart, whole
    /// pages, inside guest memory. Says what is wrong.
    pub fn check_extents(&self) -> Result<(), String> {
        let Memory::Layer { extents, .. } = &self.memory else { return Ok(()) };
        let mut end = 0;
        for extent in extents {
            let past = extent.start.checked_add(extent.bytes).filter(|past| *past <= self.memory_bytes());
            let whole_pages = extent.start % 4096 == 0 && extent.bytes % 4096 == 0 && extent.bytes > 0;
            match past {
                Some(past) if whole_pages && extent.start >= end => end = past,
                _ => return Err(format!("extent {}+{} does not fit", extent.start, extent.bytes)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Extent, Manifest};

    fn layer(extents: &[(u64, u64)]) -> Manifest {
        let digest = "00".repeat(32);
        let mut manifest: Manifest = serde_json::from_value(serde_json::json!({
            "schema": super::SCHEMA, "tag": "a", "created_at_unix": 0, "mode": "diff", "data_path": "stage", "durable": true,
            "mem_mib": 1, "vcpus": 1, "firecracker": "1.12.1", "vmstate": digest, "identity": digest,
            "memory": { "layer": { "parent": { "tag": "p", "identity": digest }, "extents": [], "digest": digest } },
        }))
        .unwrap();
        let super::Memory::Layer { extents: list, .. } = &mut manifest.memory else { unreachable!() };
        list.extend(extents.iter().map(|(start, bytes)| Extent { start: *start, bytes: *bytes }));
        manifest
    }

    #[test]
    fn extents_must_be_whole_pages_in_order_apart_and_inside_guest_memory() {
        assert_eq!(layer(&[]).check_extents(), Ok(()));
        assert_eq!(layer(&[(0, 4096), (4096, 8192), ((1 << 20) - 4096, 4096)]).check_extents(), Ok(()));
        for wrong in [
            &[(1, 4096)][..],
            &[(0, 100)],
            &[(0, 0)],
            &[(4096, 4096), (0, 4096)],
            &[(0, 8192), (4096, 4096)],
            &[(1 << 20, 4096)],
            &[(u64::MAX - 4095, 4096)],
        ] {
            assert!(layer(wrong).check_extents().is_err(), "{wrong:?}");
        }
    }
}
