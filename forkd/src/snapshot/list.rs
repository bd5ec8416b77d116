//! The list of snapshots, as the API and the command line show it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::chain::Link;
use super::manifest::Manifest;
use super::origin::Origin;
use super::store::{Store, StoreError, Whole, at};
use super::tag::Tag;
use crate::api::Snapshot;

/// A snapshot root that another process may be using: it can be read, and nothing in it can be changed.
#[derive(Debug)]
pub struct View(Store);

impl View {
    /// Looks at the snapshots below `root`, which must be there.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        Store::unlocked(root).map(Self)
    }

    /// Every snapshot, newest first, damaged ones included. Where it was taken is not looked at: nobody says which
    /// Firecracker would restore it.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>, StoreError> {
        list(&self.0, true, None)
    }
}

/// Every whole snapshot, newest first; with `damaged`, those too that are not whole. `here` is where they would be
/// restored, where that is known.
pub fn list(store: &Store, damaged: bool, here: Option<&Origin>) -> Result<Vec<Snapshot>, StoreError> {
    let bootable = |whole: &Whole| {
        let chain = store.chain(&whole.manifest.tag.parse().ok()?);
        why_not_bootable(&whole.manifest, &chain, here)
    };
    let whole = store.snapshots()?;
    let mut listed: Vec<Snapshot> = whole
        .iter()
        .map(|whole| Snapshot { not_bootable_because: bootable(whole), ..describe(whole) })
        .collect();
    if damaged {
        listed.extend(damaged_ones(store, &listed)?);
        listed.sort_by(|a, b| (b.created_at_unix_ms, &a.tag).cmp(&(a.created_at_unix_ms, &b.tag)));
    }
    Ok(listed)
}

/// What the API says of a whole snapshot, but for what it lies on.
pub fn describe(whole: &Whole) -> Snapshot {
    // 0 where it was deleted a moment ago.
    snapshot(whole.manifest.clone(), &whole.dir, whole.physical_bytes().unwrap_or(0))
}

fn snapshot(manifest: Manifest, dir: &Path, physical_bytes: u64) -> Snapshot {
    let parent = manifest.parent().map(|parent| parent.tag.clone());
    let created_at_unix_ms = manifest.created_at_ms();
    let Manifest { tag, created_at_unix, branched_from, durable, mem_mib, vcpus, rootfs, drive, .. } =
        manifest;
    Snapshot {
        tag,
        dir: dir.display().to_string(),
        created_at_unix,
        created_at_unix_ms,
        branched_from,
        mem_mib,
        vcpus,
        physical_bytes,
        durable,
        rootfs,
        drive_bytes: drive.map(|drive| drive.bytes),
        parent,
        not_bootable_because: None,
    }
}

/// Why no child can be forked from a whole snapshot, in one line: `chain` is what came of walking its chain,
/// `here` is where it would be restored, where that is known.
pub fn why_not_bootable(
    manifest: &Manifest,
    chain: &Result<Vec<Arc<Link>>, StoreError>,
    here: Option<&Origin>,
) -> Option<String> {
    match chain {
        Ok(_) => {}
        Err(StoreError::NotFound(_)) => return Some("it was deleted a moment ago".to_owned()),
        Err(error) => return reason(error),
    }
    let reason = Origin::of(manifest).why_not_restored(here?)?;
    Some(format!("{reason} (\"force\" restores it all the same)"))
}

/// The directories whose names are tags and that are not among the `whole`.
fn damaged_ones(store: &Store, whole: &[Snapshot]) -> Result<Vec<Snapshot>, StoreError> {
    let mut damaged = Vec::new();
    for entry in fs::read_dir(store.root()).map_err(at("list", store.root()))? {
        let entry = entry.map_err(at("list", store.root()))?;
        let Some(tag) = entry.file_name().to_str().and_then(|name| name.parse::<Tag>().ok()) else {
            continue;
        };
        if whole.iter().any(|snapshot| snapshot.tag == tag.as_str()) {
            continue;
        }
        let Err(error) = store.whole(&tag) else { continue };
        let Some(not_bootable_because) = reason(&error) else { continue };
        damaged.push(Snapshot {
            not_bootable_because: Some(not_bootable_because),
            ..remains(store, &entry.path(), &tag)
        });
    }
    Ok(damaged)
}

/// What a directory that is no whole snapshot still says of itself.
fn remains(store: &Store, dir: &Path, tag: &Tag) -> Snapshot {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    let physical_bytes = files.flat_map(|file| file.metadata()).map(|file| file.blocks() * 512).sum();
    if let Ok(manifest) = store.manifest(tag) {
        return snapshot(manifest, dir, physical_bytes);
    }
    let created_at_unix = fs::symlink_metadata(dir).map_or(0, |dir| dir.mtime().max(0) as u64);
    Snapshot {
        tag: tag.to_string(),
        dir: dir.display().to_string(),
        created_at_unix,
        created_at_unix_ms: created_at_unix.saturating_mul(1000),
        branched_from: None,
        mem_mib: 0,
        vcpus: 0,
        physical_bytes,
        durable: false,
        rootfs: None,
        drive_bytes: None,
        parent: None,
        not_bootable_because: None,
    }
}

/// What is wrong, without the tag that it is wrong with; nothing of a snapshot that is gone.
fn reason(error: &StoreError) -> Option<String> {
    match error {
        StoreError::NotFound(_) => None,
        StoreError::Damaged { reason, .. } => Some(reason.clone()),
        error => Some(error.to_string()),
    }
}
