//! What a pack holds, put into a snapshot root: all of it or nothing.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use super::PackError;
use super::format::Part;
use super::read::{Refusal, Sink, read};
use crate::api::Unpacked;
use crate::snapshot::digest::Digest;
use crate::snapshot::manifest::{Manifest, Memory};
use crate::snapshot::staging::Staging;
use crate::snapshot::store::{Reservation, Store, StoreError, at};
use crate::snapshot::tag::Tag;

/// Manifests are held in memory until the pack has been read: at most this much of them.
const MAX_MANIFEST_BYTES: u64 = 256 << 20;
/// Firecracker's state of a microVM is some tens of KiB.
const MAX_VMSTATE_BYTES: u64 = 256 << 20;

/// Puts the snapshots of a pack into `store`, the packed tag under the name `tag` where one is given. Those that
/// are there with the same identity are kept as they are; a tag that is there with another identity refuses
/// the pack. Nothing becomes visible before the whole pack is read and found right, and then one after another,
/// as a BRANCH is published, the image first; when that fails half-way, what was published is deleted again.
///
/// Blocks for as long as the disk and `input` take.
pub fn unpack(store: &Store, input: impl Read, tag: Option<&Tag>) -> Result<Unpacked, PackError> {
    let mut incoming = Incoming {
        store,
        rename: tag,
        snapshots: Vec::new(),
        manifest_bytes: 0,
        text: Vec::new(),
        file: None,
        part: Part::Manifest,
        last: false,
    };
    read(input, &mut incoming)?;
    publish(store, incoming.snapshots)
}

/// One snapshot of the pack, read so far.
struct Snapshot {
    tag: Tag,
    /// Its name in the pack, which layers on it use.
    packed_as: String,
    manifest: Manifest,
    place: Place,
}

enum Place {
    /// It is here already, and is not deleted meanwhile.
    Kept(Reservation),
    /// Where its files are put.
    Staged(Staging),
}

struct Incoming<'a> {
    store: &'a Store,
    rename: Option<&'a Tag>,
    snapshots: Vec<Snapshot>,
    manifest_bytes: u64,
    /// The manifest that is being read.
    text: Vec<u8>,
    /// The file that is being written.
    file: Option<(File, PathBuf)>,
    part: Part,
    /// Whether this is the snapshot that the pack is of.
    last: bool,
}

impl Sink for Incoming<'_> {
    fn begin(&mut self, part: Part, number: u64, snapshots: u32, file_bytes: u64) -> Result<(), Refusal> {
        self.part = part;
        self.last = number + 1 == u64::from(snapshots);
        let fits = match (part, self.snapshots.last()) {
            (Part::Manifest, _) => {
                self.manifest_bytes = self.manifest_bytes.saturating_add(file_bytes);
                self.manifest_bytes <= MAX_MANIFEST_BYTES
            }
            (Part::Vmstate, _) => file_bytes <= MAX_VMSTATE_BYTES,
            (Part::Memory, Some(snapshot)) => file_bytes == snapshot.manifest.memory_file_bytes(),
            (Part::Drive, Some(Snapshot { manifest, .. })) => {
                file_bytes == manifest.drive.map_or(0, |drive| drive.bytes)
            }
            (Part::Memory | Part::Drive, None) => false,
        };
        if !fits {
            return Err(Refusal::Pack(format!("{file_bytes} bytes are not what this part can have")));
        }
        if part == Part::Manifest {
            self.text.clear();
            return Ok(());
        }
        self.file = self.create(file_bytes)?;
        Ok(())
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Refusal> {
        match (self.part, &self.file) {
            (Part::Manifest, _) if offset == self.text.len() as u64 => self.text.extend_from_slice(bytes),
            (Part::Manifest, _) => return Err(Refusal::Pack("a manifest with a hole".to_owned())),
            (_, Some((file, path))) => file.write_all_at(bytes, offset).map_err(at("write", path))?,
            // Of a snapshot that is here already.
            (_, None) => {}
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Refusal> {
        if self.part == Part::Manifest {
            let manifest = Manifest::decode(&self.text).map_err(Refusal::Pack)?;
            let snapshot = self.place(manifest)?;
            self.snapshots.push(snapshot);
            return Ok(());
        }
        let (Some((file, path)), Some(snapshot)) = (self.file.take(), self.snapshots.last()) else {
            return Ok(());
        };
        let expected = match (self.part, snapshot.manifest.drive) {
            (Part::Vmstate, _) => snapshot.manifest.vmstate,
            (Part::Drive, Some(drive)) => drive.digest,
            _ => snapshot.manifest.memory.digest(),
        };
        let found = Digest::of_open(&file, &crate::snapshot::pace::Urgent).map_err(at("read", &path))?;
        if found != expected {
            return Err(Refusal::Pack(format!(
                "it has the digest {found}, and its manifest says {expected}"
            )));
        }
        Ok(())
    }
}

impl Incoming<'_> {
    /// Decides where the snapshot of this manifest goes.
    fn place(&self, manifest: Manifest) -> Result<Snapshot, Refusal> {
        self.check_place_in_chain(&manifest).map_err(Refusal::Pack)?;
        let packed_as = manifest.tag.clone();
        let own: Tag = packed_as.parse().map_err(|_| Refusal::Pack("a name that is no tag".to_owned()))?;
        let tag = self.rename.filter(|_| self.last).cloned().unwrap_or(own);
        // The parent keeps its name here, because only the last snapshot, which is nobody's parent, is renamed.
        let manifest = Manifest { tag: tag.to_string(), durable: true, ..manifest };
        let held = self.store.hold(tag.clone());
        let place = match self.store.link(&tag) {
            Ok(here) if here.identity != manifest.identity => {
                return Err(Refusal::Other(PackError::Conflict {
                    tag: tag.to_string(),
                    here: here.identity.to_string(),
                    in_pack: manifest.identity.to_string(),
                }));
            }
            Ok(here) if !here.durable && !self.last => {
                return Err(Refusal::Other(PackError::NotDurable(tag.to_string())));
            }
            Ok(_) => {
                // Damaged as it is here, it would be of no use to what is put on it.
                self.store.chain(&tag)?;
                Place::Kept(held)
            }
            Err(StoreError::NotFound(_)) => Place::Staged(self.store.stage(tag.clone())?),
            Err(error) => return Err(error.into()),
        };
        Ok(Snapshot { tag, packed_as, manifest, place })
    }

    /// A layer lies on the snapshot before it, which has the same amount of memory; the first one is an image.
    fn check_place_in_chain(&self, manifest: &Manifest) -> Result<(), String> {
        let Some(parent) = manifest.parent() else { return Ok(()) };
        let below = self.snapshots.last().ok_or("the first snapshot is a layer: it lies on nothing")?;
        if (&below.packed_as, below.manifest.identity) != (&parent.tag, parent.identity) {
            return Err(format!("it lies on '{}', and that is not the snapshot before it", parent.tag));
        }
        if below.manifest.mem_mib != manifest.mem_mib {
            return Err("it has another amount of memory than what it lies on".to_owned());
        }
        Ok(())
    }

    /// The empty file of this part, where the snapshot has one and is not here already.
    fn create(&self, file_bytes: u64) -> Result<Option<(File, PathBuf)>, StoreError> {
        let Some(Snapshot { place: Place::Staged(staging), manifest, .. }) = self.snapshots.last() else {
            return Ok(None);
        };
        let path = match (self.part, &manifest.memory) {
            (Part::Drive, _) if manifest.drive.is_none() => return Ok(None),
            (Part::Drive, _) => staging.drive_path(),
            (Part::Vmstate, _) => staging.vmstate_path(),
            (_, Memory::Layer { .. }) => staging.layer_path(),
            (_, Memory::Image { .. } | Memory::Compacted { .. }) => staging.memory_path(),
        };
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(at("create", &path))?;
        file.set_len(file_bytes).map_err(at("create", &path))?;
        Ok(Some((file, path)))
    }
}

/// Publishes what is staged, in order. Each stays pinned until all are: nobody deletes what the next lies on.
fn publish(store: &Store, snapshots: Vec<Snapshot>) -> Result<Unpacked, PackError> {
    let mut unpacked = Unpacked { tag: String::new(), added: Vec::new(), kept: Vec::new() };
    let mut added: Vec<(Tag, Reservation)> = Vec::new();
    let mut kept = Vec::new();
    for Snapshot { tag, manifest, place, .. } in snapshots {
        unpacked.tag = tag.to_string();
        match place {
            Place::Kept(pin) => {
                unpacked.kept.push(tag.to_string());
                kept.push(pin);
            }
            Place::Staged(staging) => {
                let pin = store.hold(tag.clone());
                if let Err(error) = staging.publish(&manifest) {
                    withdraw(store, added);
                    return Err(error.into());
                }
                unpacked.added.push(tag.to_string());
                added.push((tag, pin));
            }
        }
    }
    Ok(unpacked)
}

/// Deletes what was published before something failed, the last first.
fn withdraw(store: &Store, added: Vec<(Tag, Reservation)>) {
    for (tag, pin) in added.into_iter().rev() {
        drop(pin);
        if let Err(error) = store.delete_snapshot(&tag) {
            tracing::warn!(%tag, %error, "left of a pack that could not be unpacked");
        }
    }
}
