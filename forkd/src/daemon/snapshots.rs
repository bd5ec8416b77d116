//! Operations on snapshots.

use super::{Config, Daemon, OperationError};
use crate::api::{BranchMode, DataPath, Happening, Snapshot, SnapshotDetail, SnapshotStatus};
use crate::branch::boot::snapshot_after_boot;
use crate::clock;
use crate::sandbox::Boot;
use crate::snapshot::compact::compact;
use crate::snapshot::delete::{Change, Dependents, delete};
use crate::snapshot::digest::Digest;
use crate::snapshot::list::{describe, list, why_not_bootable};
use crate::snapshot::manifest::{Manifest, Memory, SCHEMA};
use crate::snapshot::store::StoreError;
use crate::snapshot::tag::Tag;
use crate::vmm::boot::BootSource;

impl Daemon {
    /// Boots a microVM and snapshots it under `tag`.
    #[tracing::instrument(name = "boot", skip_all, fields(%tag))]
    pub async fn create_snapshot(
        &self,
        tag: Tag,
        source: BootSource,
        (vcpus, mem_mib): (u8, u32),
        boot_wait_ms: Option<u64>,
    ) -> Result<Snapshot, OperationError> {
        let Config { firecracker, run_dir, .. } = &self.config;
        let unknown = Digest::of(b"");
        let created_at_unix_ms = clock::unix_ms();
        let manifest = Manifest {
            schema: SCHEMA.to_owned(),
            tag: tag.to_string(),
            created_at_unix: created_at_unix_ms / 1000,
            created_at_unix_ms: Some(created_at_unix_ms),
            branched_from: None,
            mode: BranchMode::Full,
            data_path: DataPath::Naive,
            durable: true,
            mem_mib,
            vcpus,
            rootfs: source.shared_rootfs().map(|path| path.display().to_string()),
            firecracker: self.origin.firecracker.clone(),
            snapshot_format: self.origin.snapshot_format.clone(),
            cpu: self.origin.cpu.clone(),
            // The files tell these, when they are there.
            identity: unknown,
            vmstate: unknown,
            memory: Memory::Image { digest: unknown },
            drive: None,
        };
        let boot = Boot { firecracker, run_dir, source: &source, boot_wait_ms };
        snapshot_after_boot(&self.store, &self.drives, boot, (tag.clone(), manifest)).await?;
        self.events.tell(Happening::SnapshotReady { tag: tag.to_string() });
        Ok(describe(&self.store.whole(&tag)?))
    }

    /// Every whole snapshot, newest first; with `damaged`, those too that are not whole.
    pub fn snapshots(&self, damaged: bool) -> Result<Vec<Snapshot>, OperationError> {
        Ok(list(&self.store, damaged, Some(&self.origin))?)
    }

    /// All there is to know about one snapshot, whole, damaged or in the making.
    pub fn snapshot(&self, tag: &Tag) -> Result<SnapshotDetail, OperationError> {
        let whole = match self.store.whole(tag) {
            Ok(whole) => whole,
            Err(StoreError::NotFound(_)) if self.store.is_being_made(tag) => {
                let writing = not_bootable(tag, "it is being written".into());
                return Ok(SnapshotDetail { status: SnapshotStatus::Writing, ..writing });
            }
            Err(StoreError::NotFound(name)) => {
                let reason = self.failures.reason(tag).ok_or(StoreError::NotFound(name))?;
                return Ok(not_bootable(tag, reason));
            }
            Err(StoreError::Damaged { reason, .. }) => return Ok(not_bootable(tag, reason)),
            Err(error) => return Err(error.into()),
        };
        let chain = self.store.chain(tag);
        let not_bootable_because = why_not_bootable(&whole.manifest, &chain, Some(&self.origin));
        let dependents = self.store.dependents(tag)?;
        Ok(SnapshotDetail {
            tag: tag.to_string(),
            status: SnapshotStatus::Ready,
            bootable: not_bootable_because.is_none(),
            not_bootable_because,
            logical_bytes: whole.manifest.memory_bytes(),
            physical_bytes: whole.physical_bytes().unwrap_or(0),
            parent: whole.manifest.parent().map(|parent| parent.tag.clone()),
            depth: chain.map_or(0, |chain| chain.len() as u32 - 1),
            dependents: dependents.iter().map(Tag::to_string).collect(),
        })
    }

    /// Deletes a snapshot; sandboxes forked from it go on. Blocks for as long as the disk takes.
    pub fn delete_snapshot(&self, tag: &Tag, dependents: Dependents) -> Result<(), OperationError> {
        let mut tell = |change: Change<'_>| {
            self.events.tell(match change {
                Change::Deleted(tag) => Happening::SnapshotDeleted { tag: tag.to_string() },
                Change::Compacted(tag) => Happening::SnapshotCompacted { tag: tag.to_string() },
            });
        };
        Ok(delete(&self.store, &self.images, tag, dependents, &mut tell)?)
    }

    /// Turns a layer into an image of its own, which lies on nothing; layers on it stay what they are. Does
    /// nothing to an image. Blocks for as long as the disk takes.
    pub fn compact(&self, tag: &Tag) -> Result<(), OperationError> {
        let was_layer = self.store.snapshot(tag)?.manifest.parent().is_some();
        compact(&self.store, &self.images, tag)?;
        if was_layer {
            self.events.tell(Happening::SnapshotCompacted { tag: tag.to_string() });
        }
        Ok(())
    }
}

fn not_bootable(tag: &Tag, reason: String) -> SnapshotDetail {
    SnapshotDetail {
        tag: tag.to_string(),
        status: SnapshotStatus::Failed,
        bootable: false,
        not_bootable_because: Some(reason),
        logical_bytes: 0,
        physical_bytes: 0,
        parent: None,
        depth: 0,
        dependents: Vec::new(),
    }
}
