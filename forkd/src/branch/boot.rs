//! The snapshot that a lineage begins with: a microVM booted, snapshotted and ended.

use std::path::Path;

use super::pause::with_guest_paused;
use super::phases::PhaseLog;
use super::{BranchError, blocking};
use crate::api::BranchMode;
use crate::sandbox::Sandbox;
use crate::snapshot::manifest::Manifest;
use crate::snapshot::store::Store;
use crate::snapshot::tag::Tag;
use crate::vmm::boot::BootSource;
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
    let (vmstate, memory) = (staging.vmstate_path(), staging.memory_path());
    let create = sandbox.api.create_snapshot(BranchMode::Full, &vmstate, &memory);
    let written = with_guest_paused(&sandbox.api, &mut PhaseLog::default(), create).await;
    sandbox.kill().await;
    written?;
    blocking(move || staging.publish(&manifest)).await?;
    Ok(())
}
