//! The snapshot that a lineage begins with: a microVM booted, snapshotted and ended.

use std::path::Path;

use super::pause::with_guest_paused;
use super::phases::PhaseLog;
use super::{BranchError, blocking};
use crate::api::BranchMode;
use crate::sandbox::Sandbox;
use crate::snapshot::digest::Digest;
use crate::snapshot::manifest::{Manifest, Memory};
use crate::snapshot::store::{Store, at};
use crate::snapshot::tag::Tag;
use crate::vmm::boot::BootSource;
use crate::vmm::control::{Control, Request};
use crate::vmm::firecracker::Firecracker;

/// Boots `source` as `manifest` describes it, waits until the guest is ready, and publishes a full snapshot
/// under `tag`. The microVM is ended on every way out.
pub async fn snapshot_after_boot(
    store: &Store,
    firecracker: &Firecracker,
    run_dir: &Path,
    source: &BootSource,
    boot_wait_ms: Option<u64>,
    (tag, manifest): (Tag, Manifest),
) -> Result<(), BranchError> {
    let staging = store.stage(tag)?;
    let sandbox = Sandbox::boot(firecracker, run_dir, source, boot_wait_ms, manifest.clone()).await?;
    let mut control = sandbox.control();
    let create = Request::create_snapshot(BranchMode::Full, &staging.vmstate_path(), &staging.memory_path());
    let write = move || {
        let create = |control: &mut Control| control.call(&create);
        with_guest_paused(&mut control, &mut PhaseLog::default(), create)
    };
    let written = blocking(write).await;
    sandbox.kill().await;
    let publish = move || {
        written?;
        let (vmstate_path, memory_path) = (staging.vmstate_path(), staging.memory_path());
        let vmstate = Digest::of_file(&vmstate_path).map_err(at("read", &vmstate_path))?;
        let digest = Digest::of_file(&memory_path).map_err(at("read", &memory_path))?;
        let memory = Memory::Image { digest };
        let identity = Manifest::identity_of(vmstate, &memory);
        staging.publish(&Manifest { identity, vmstate, memory, ..manifest })?;
        Ok(())
    };
    blocking(publish).await
}
