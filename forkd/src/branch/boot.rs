//! The snapshot that a lineage begins with: a microVM booted, snapshotted and ended.

use std::fs::File;
use std::path::Path;

use super::pause::with_guest_paused;
use super::phases::PhaseLog;
use super::{BranchError, blocking};
use crate::api::BranchMode;
use crate::sandbox::{Boot, Sandbox, new_id};
use crate::snapshot::digest::Digest;
use crate::snapshot::drives::{Drive, DriveCopy, Drives, describe};
use crate::snapshot::manifest::{Manifest, Memory};
use crate::snapshot::store::{Store, StoreError, at};
use crate::snapshot::tag::Tag;
use crate::vmm::VmmError;
use crate::vmm::boot::BootSource;
use crate::vmm::control::{Control, Request};

/// Boots `source` as `manifest` describes it, waits until the guest is ready, and publishes a full snapshot
/// under `tag`. The microVM is ended on every way out.
pub async fn snapshot_after_boot(
    store: &Store,
    drives: &Drives,
    boot: Boot<'_>,
    (tag, manifest): (Tag, Manifest),
) -> Result<(), BranchError> {
    let staging = store.stage(tag)?;
    let id = new_id();
    let drive = tokio::task::block_in_place(|| create_drive(drives, &id, boot.source))?;
    let sandbox = Sandbox::boot(boot, (id, drive), manifest.clone()).await?;
    let mut control = sandbox.control();
    let create = Request::create_snapshot(BranchMode::Full, &staging.vmstate_path(), &staging.memory_path());
    let drive_path = staging.drive_path();
    let write = move || {
        let create = |control: &mut Control| {
            control.call(&create)?;
            copy_drive(sandbox.drive.as_ref(), &drive_path)
        };
        let written = with_guest_paused(&mut control, &mut PhaseLog::default(), create);
        (sandbox, written)
    };
    let (sandbox, written) = blocking(write).await;
    sandbox.kill().await;
    let publish = move || {
        written?;
        let (vmstate_path, memory_path) = (staging.vmstate_path(), staging.memory_path());
        let vmstate = Digest::of_file(&vmstate_path).map_err(at("read", &vmstate_path))?;
        let digest = Digest::of_file(&memory_path).map_err(at("read", &memory_path))?;
        let memory = Memory::Image { digest };
        let drive = describe(&staging.drive_path())?;
        let identity = Manifest::identity_of(vmstate, &memory, drive.as_ref());
        staging.publish(&Manifest { identity, vmstate, memory, drive, ..manifest })?;
        Ok(())
    };
    blocking(publish).await
}

/// The drive that the guest gets to write to, where it gets one.
fn create_drive(drives: &Drives, id: &str, source: &BootSource) -> Result<Option<Drive>, StoreError> {
    let Some(image) = source.copied_rootfs() else { return Ok(None) };
    let file = File::open(image).map_err(at("open", image))?;
    drives.create(id, &file).map(Some)
}

/// Copies the drive of a paused guest, after Firecracker has written its state.
pub(super) fn copy_drive(drive: Option<&Drive>, to: &Path) -> Result<Option<DriveCopy>, VmmError> {
    drive.map(|drive| drive.copy_of_paused_guest(to)).transpose().map_err(VmmError::Drive)
}
