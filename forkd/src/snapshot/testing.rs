//! Manifests for tests.

use super::digest::Digest;
use super::manifest::{Manifest, Memory, SCHEMA};
use crate::api::{BranchMode, DataPath};

/// A manifest of a guest with 1 MiB, with the identity that is right for it.
pub fn manifest_of(tag: &str, vmstate: Digest, memory: Memory) -> Manifest {
    Manifest {
        schema: SCHEMA.to_owned(),
        tag: tag.to_owned(),
        created_at_unix: 1,
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
