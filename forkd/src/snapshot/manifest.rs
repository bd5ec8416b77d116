//! What a snapshot's directory says of itself: `manifest.json`, written last.

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::extents::{Extent, total_bytes};
use super::origin::Cpu;
use super::tag::Tag;
use crate::api::{BranchMode, DataPath};

/// The `schema` of [`Manifest`].
pub const SCHEMA: &str = "forkd.snapshot/1";
/// A manifest with one extent for every second page of 64 GiB has about this many.
pub const MAX_BYTES: usize = 1 << 30;
/// The key that [`Manifest::encode`] adds.
const CHECKSUM: &str = "checksum";
/// More than Firecracker takes of each.
const MAX_MEM_MIB: u32 = 1 << 20;
const MAX_VCPUS: u8 = 32;
/// More than a file on ext4 has: 16 TiB.
const MAX_DRIVE_BYTES: u64 = 1 << 44;

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
    /// The same in milliseconds, so that those of one second have an order too; absent where nobody noted them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at_unix_ms: Option<u64>,
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
    /// The same, of what was a layer before it was compacted.
    Compacted {
        /// Digest of the image.
        digest: Digest,
        /// What it was as a layer, see [`Memory::description`]: its identity is made of that.
        layer: Digest,
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

impl Memory {
    /// Digest of the memory file, whichever it is.
    pub const fn digest(&self) -> Digest {
        match self {
            Self::Image { digest } | Self::Compacted { digest, .. } | Self::Layer { digest, .. } => *digest,
        }
    }

    /// Whether the snapshot has all of guest memory in a file of its own.
    pub const fn is_image(&self) -> bool {
        !matches!(self, Self::Layer { .. })
    }

    /// A digest over all that guest memory is made of, parents included; a layer that is compacted keeps it.
    pub fn description(&self) -> Digest {
        match self {
            Self::Image { digest } => Digest::of(format!("image {digest}\n").as_bytes()),
            Self::Compacted { layer, .. } => *layer,
            Self::Layer { parent, extents, digest } => {
                let mut hasher = blake3::Hasher::new();
                hasher.update(format!("parent {}\nlayer {digest}\n", parent.identity).as_bytes());
                for extent in extents {
                    hasher.update(format!("{} {}\n", extent.start, extent.bytes).as_bytes());
                }
                Digest::of_hasher(&hasher)
            }
        }
    }
}

impl Manifest {
    /// When it was made, in milliseconds since the Unix epoch, as exactly as it says.
    pub fn created_at_ms(&self) -> u64 {
        self.created_at_unix_ms.unwrap_or_else(|| self.created_at_unix.saturating_mul(1000))
    }

    /// Size of guest memory in bytes.
    pub fn memory_bytes(&self) -> u64 {
        u64::from(self.mem_mib) << 20
    }

    /// The snapshot that it lies on, where it is a layer.
    pub fn parent(&self) -> Option<&Parent> {
        match &self.memory {
            Memory::Image { .. } | Memory::Compacted { .. } => None,
            Memory::Layer { parent, .. } => Some(parent),
        }
    }

    /// Bytes of the file that holds its memory: guest memory, or the contents of the layer's extents.
    pub fn memory_file_bytes(&self) -> u64 {
        match &self.memory {
            Memory::Image { .. } | Memory::Compacted { .. } => self.memory_bytes(),
            Memory::Layer { extents, .. } => total_bytes(extents),
        }
    }

    /// The identity of a snapshot with this state, this memory and this drive: a digest over the digests of all
    /// that it is made of, its parents included.
    pub fn identity_of(vmstate: Digest, memory: &Memory, drive: Option<&Drive>) -> Digest {
        let mut text = format!("vmstate {vmstate}\nmemory {}\n", memory.description());
        if let Some(Drive { bytes, digest }) = drive {
            text.push_str(&format!("drive {bytes} {digest}\n"));
        }
        Digest::of(text.as_bytes())
    }

    /// As the file `manifest.json`: its fields and `checksum`, a digest over them.
    pub fn encode(&self) -> serde_json::Result<Vec<u8>> {
        let mut fields = serde_json::to_value(self)?;
        fields[CHECKSUM] = serde_json::to_value(self.checksum()?)?;
        let mut text = serde_json::to_vec_pretty(&fields)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Reads what [`Self::encode`] wrote. Refuses, saying why, what is damaged (the checksum), what was edited
    /// (the identity), and what no daemon writes, whatever the digests say.
    pub fn decode(text: &[u8]) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("{} bytes are more than a manifest has", text.len()));
        }
        let mut fields: serde_json::Value =
            serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let checksum = fields.as_object_mut().and_then(|fields| fields.remove(CHECKSUM));
        let checksum = checksum.ok_or("it has no checksum")?;
        let manifest: Self = serde_json::from_value(fields).map_err(|error| error.to_string())?;
        if manifest.schema != SCHEMA {
            return Err(format!("it is of schema {:?}, and this forkd reads {SCHEMA}", manifest.schema));
        }
        let expected = manifest.checksum().map_err(|error| error.to_string())?;
        if checksum != serde_json::Value::String(expected.to_string()) {
            return Err("its checksum does not fit it".to_owned());
        }
        manifest.check()?;
        Ok(manifest)
    }

    /// Over its fields in the order in which they are declared.
    fn checksum(&self) -> serde_json::Result<Digest> {
        Ok(Digest::of(&serde_json::to_vec(self)?))
    }

    /// Checks what it claims: names, sizes, extents, and that its identity is that of its parts.
    pub fn check(&self) -> Result<(), String> {
        let name = |tag: &str| tag.parse::<Tag>().map(drop).map_err(|error| error.to_string());
        name(&self.tag)?;
        if let Some(parent) = self.parent() {
            name(&parent.tag)?;
        }
        if !(1..=MAX_MEM_MIB).contains(&self.mem_mib) || !(1..=MAX_VCPUS).contains(&self.vcpus) {
            return Err(format!("{} MiB and {} vCPUs are no microVM", self.mem_mib, self.vcpus));
        }
        if let Some(Drive { bytes, .. }) = self.drive.filter(|drive| drive.bytes > MAX_DRIVE_BYTES) {
            return Err(format!("a drive of {bytes} bytes is more than a file can have"));
        }
        self.check_extents()?;
        let identity = Self::identity_of(self.vmstate, &self.memory, self.drive.as_ref());
        if self.identity != identity {
            return Err(format!("its identity is {} and not {identity}, that of its parts", self.identity));
        }
        Ok(())
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

    /// Encodes `manifest` after `forge` has changed its fields, with the checksum that is right for them.
    fn forged(manifest: &Manifest, forge: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
        let mut fields = serde_json::to_value(manifest).unwrap();
        forge(&mut fields);
        if let Ok(forged) = serde_json::from_value::<Manifest>(fields.clone()) {
            fields["checksum"] = forged.checksum().unwrap().to_string().into();
        } else {
            fields["checksum"] = manifest.checksum().unwrap().to_string().into();
        }
        serde_json::to_vec(&fields).unwrap()
    }

    #[test]
    fn a_drive_of_an_impossible_size_is_refused() {
        let drive = |bytes| super::Drive { bytes, digest: super::Digest::of(b"drive") };
        let sized = |bytes| {
            let manifest = Manifest { drive: Some(drive(bytes)), ..layer(&[]) };
            let identity = Manifest::identity_of(manifest.vmstate, &manifest.memory, manifest.drive.as_ref());
            Manifest { identity, ..manifest }.check()
        };
        assert_eq!(sized(1 << 44), Ok(()));
        assert!(sized((1 << 44) + 1).is_err_and(|error| error.contains("drive")));
        assert!(sized(u64::MAX).is_err());
    }

    #[test]
    fn a_time_without_milliseconds_is_that_of_its_second() {
        let manifest = Manifest { created_at_unix: 7, ..layer(&[]) };
        assert_eq!(manifest.created_at_ms(), 7000);
        assert_eq!(Manifest { created_at_unix_ms: Some(7250), ..manifest }.created_at_ms(), 7250);
    }

    fn whole(extents: &[(u64, u64)]) -> Manifest {
        let manifest = layer(extents);
        Manifest { identity: Manifest::identity_of(manifest.vmstate, &manifest.memory, None), ..manifest }
    }

    #[test]
    fn a_forged_manifest_is_refused_for_what_it_claims_though_its_checksum_is_right() {
        let manifest = whole(&[(0, 4096)]);
        assert_eq!(Manifest::decode(&forged(&manifest, |_| {})), Ok(manifest.clone()));
        let other = "11".repeat(32);
        let check = |forge: &dyn Fn(&mut serde_json::Value), expected: &str| {
            let error = Manifest::decode(&forged(&manifest, forge)).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        };
        check(&|m| m["schema"] = "forkd.snapshot/9".into(), "schema");
        check(&|m| m["vmstate"] = other.clone().into(), "that of its parts");
        check(&|m| m["memory"]["layer"]["digest"] = other.clone().into(), "that of its parts");
        check(&|m| m["memory"]["layer"]["parent"]["identity"] = other.clone().into(), "that of its parts");
        check(&|m| m["memory"]["layer"]["extents"][0]["start"] = 4096.into(), "that of its parts");
        check(&|m| m["memory"]["layer"]["extents"][0]["bytes"] = (1_u64 << 40).into(), "does not fit");
        check(&|m| m["memory"]["layer"]["extents"][0]["start"] = u64::MAX.into(), "does not fit");
        check(&|m| m["memory"]["layer"]["parent"]["tag"] = "../../etc".into(), "refused");
        check(&|m| m["tag"] = "a/b".into(), "refused");
        check(&|m| m["mem_mib"] = 0.into(), "no microVM");
        check(&|m| m["mem_mib"] = u32::MAX.into(), "no microVM");
        check(&|m| m["vcpus"] = 255.into(), "no microVM");
        check(&|m| m["extra"] = 1.into(), "unknown field");
        check(&|m| m["memory"] = serde_json::json!({"layer": {}}), "missing field");
    }

    #[test]
    fn a_compacted_layer_keeps_its_identity_and_no_other_image_can_claim_it() {
        let layer = whole(&[(0, 4096)]);
        let digest = layer.vmstate;
        let memory = super::Memory::Compacted { digest, layer: layer.memory.description() };
        let compacted = Manifest { memory, ..layer.clone() };
        assert_eq!(Manifest::decode(&compacted.encode().unwrap()), Ok(compacted.clone()));
        let image = Manifest { memory: super::Memory::Image { digest }, ..layer };
        assert!(Manifest::decode(&image.encode().unwrap()).unwrap_err().contains("that of its parts"));
    }

    proptest::proptest! {
        #[test]
        fn a_manifest_with_a_changed_byte_says_the_same_or_is_refused(at in 0_usize..2000, value: u8) {
            let manifest = whole(&[(0, 4096), (8192, 4096)]);
            let mut text = manifest.encode().unwrap();
            let at = at % text.len();
            text[at] = value;
            if let Ok(read) = Manifest::decode(&text) {
                proptest::prop_assert_eq!(read, manifest);
            }
        }

        #[test]
        fn extents_that_are_taken_are_in_order_apart_and_inside(
            extents in proptest::collection::vec((0_u64..300, 0_u64..4), 0..6),
            odd in 0_u64..2,
        ) {
            let extents: Vec<_> = extents.iter().map(|(page, pages)| (page * 4096 + odd, pages * 4096)).collect();
            let taken = whole(&extents).check().is_ok();
            let in_order = extents.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0);
            let inside = extents.iter().all(|(start, bytes)| *bytes > 0 && start % 4096 == 0 && start + bytes <= 1 << 20);
            proptest::prop_assert_eq!(taken, in_order && inside);
        }

        #[test]
        fn no_bytes_make_it_panic(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            proptest::prop_assert!(Manifest::decode(&text).is_err());
        }
    }
}
