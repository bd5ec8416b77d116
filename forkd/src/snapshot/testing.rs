//! Manifests for tests.

use super::digest::Digest;
use super::manifest::{Drive, Manifest, Memory, SCHEMA};
use crate::api::{BranchMode, DataPath};

/// A manifest of a guest with 1 MiB, with the identity that is right for it.
pub fn manifest_of(tag: &str, vmstate: Digest, memory: Memory) -> Manifest {
    Manifest {
        schema: SCHEMA.to_owned(),
        tag: tag.to_owned(),
        created_at_unix: 1,
        created_at_unix_ms: None,
        branched_from: None,
        mode: BranchMode::Full,
        data_path: DataPath::Naive,
        durable: true,
        mem_mib: 1,
        vcpus: 1,
        rootfs: None,
        firecracker: "1.12.1".to_owned(),
        snapshot_format: None,
        cpu: None,
        identity: Manifest::identity_of(vmstate, &memory, None),
        vmstate,
        memory,
        drive: None,
    }
}

/// The same manifest of a guest that has a drive with these contents.
pub fn with_drive(manifest: Manifest, contents: &[u8]) -> Manifest {
    let drive = Some(Drive { bytes: contents.len() as u64, digest: Digest::of(contents) });
    let identity = Manifest::identity_of(manifest.vmstate, &manifest.memory, drive.as_ref());
    Manifest { drive, identity, ..manifest }
}
