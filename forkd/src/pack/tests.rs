//! Packs written and read between two snapshot roots, whole and broken.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::sample::forged;
use super::{PackError, Packer, unpack, verify};
use crate::snapshot::copy::pack as pack_layer;
use crate::snapshot::digest::Digest;
use crate::snapshot::extents::{data_extents, total_bytes};
use crate::snapshot::manifest::{Manifest, Memory, Parent};
use crate::snapshot::store::{Store, StoreError};
use crate::snapshot::tag::Tag;
use crate::snapshot::testing::{manifest_of, with_drive};

const PAGE: u64 = 4096;
const MEMORY_BYTES: u64 = 1 << 20;

type Pages = BTreeMap<u64, u8>;

fn tag(name: &str) -> Tag {
    name.parse().unwrap()
}

fn root() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn sparse(path: &Path, pages: &Pages) -> File {
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    file.set_len(MEMORY_BYTES).unwrap();
    for (page, value) in pages {
        file.write_all_at(&[*value; PAGE as usize], page * PAGE).unwrap();
    }
    file
}

fn add_image(store: &Store, name: &str, pages: &Pages) {
    let staging = store.stage(tag(name)).unwrap();
    sparse(&staging.memory_path(), pages);
    fs::write(staging.vmstate_path(), format!("state of {name}")).unwrap();
    let digest = Digest::of_file(&staging.memory_path()).unwrap();
    let vmstate = Digest::of(format!("state of {name}").as_bytes());
    staging.publish(&manifest_of(name, vmstate, Memory::Image { digest })).unwrap();
}

/// A drive of which only the third page was ever written, and whose size is no whole number of pages.
fn drive() -> Vec<u8> {
    let mut contents = vec![0; 256 << 10];
    contents[2 * PAGE as usize..3 * PAGE as usize].fill(7);
    contents.resize(contents.len() + 512, 0);
    contents
}

fn add_layer(store: &Store, name: &str, parent: &str, pages: &Pages) {
    add_layer_of(store, name, parent, pages, |_, manifest| manifest);
}

/// A layer of a guest that has [`drive`].
fn add_layer_with_drive(store: &Store, name: &str, parent: &str, pages: &Pages) {
    add_layer_of(store, name, parent, pages, |path, manifest| {
        let file = File::create_new(path).unwrap();
        file.set_len(drive().len() as u64).unwrap();
        file.write_all_at(&[7; PAGE as usize], 2 * PAGE).unwrap();
        with_drive(manifest, &drive())
    });
}

fn add_layer_of(
    store: &Store,
    name: &str,
    parent: &str,
    pages: &Pages,
    drive: impl FnOnce(&Path, Manifest) -> Manifest,
) {
    let staging = store.stage(tag(name)).unwrap();
    let diff = sparse(&staging.diff_path(), pages);
    let extents = data_extents(&diff).unwrap();
    let layer = File::create(staging.layer_path()).unwrap();
    pack_layer(&diff, &extents, &layer).unwrap();
    fs::write(staging.vmstate_path(), format!("state of {name}")).unwrap();
    let digest = Digest::of_file(&staging.layer_path()).unwrap();
    let vmstate = Digest::of(format!("state of {name}").as_bytes());
    let identity = store.link(&tag(parent)).unwrap().identity;
    let memory = Memory::Layer { parent: Parent { tag: parent.to_owned(), identity }, extents, digest };
    let manifest = drive(&staging.drive_path(), manifest_of(name, vmstate, memory));
    staging.publish(&manifest).unwrap();
}

/// `base`, and the layers `one`, with a drive, and `two` on it.
fn three() -> (TempDir, Store) {
    let (dir, store) = root();
    add_image(&store, "base", &Pages::from([(3, 1), (200, 2)]));
    add_layer_with_drive(&store, "one", "base", &Pages::from([(3, 3), (4, 4)]));
    add_layer(&store, "two", "one", &Pages::from([(100, 5)]));
    (dir, store)
}

fn packed(store: &Store, name: &str, zstd: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let packed = Packer::new(store, &tag(name)).unwrap().write(&mut bytes, zstd).unwrap();
    assert_eq!(packed.bytes, bytes.len() as u64);
    bytes
}

/// Every file below a root but the daemon's own, with its contents.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for snapshot in fs::read_dir(root).unwrap() {
        let snapshot = snapshot.unwrap();
        let name = snapshot.file_name().into_string().unwrap();
        if !name.starts_with('.') {
            for file in fs::read_dir(snapshot.path()).unwrap() {
                let path = file.unwrap().path();
                let file = path.file_name().unwrap().to_str().unwrap().to_owned();
                files.insert(format!("{name}/{file}"), fs::read(path).unwrap());
            }
        }
    }
    files
}

fn require_untouched(dir: &TempDir) {
    assert!(files(dir.path()).is_empty());
    assert_eq!(fs::read_dir(dir.path().join(".staging")).unwrap().count(), 0);
}

#[test]
fn every_file_comes_back_byte_for_byte_and_holes_stay_holes() {
    for zstd in [false, true] {
        let (from, store) = three();
        let pack = packed(&store, "two", zstd);
        verify(&pack[..]).unwrap();
        let (to, other) = root();
        let unpacked = unpack(&other, &pack[..], None).unwrap();
        assert_eq!((unpacked.tag.as_str(), unpacked.added.len(), unpacked.kept.len()), ("two", 3, 0));
        assert_eq!(files(from.path()), files(to.path()));
        assert_eq!(other.chain(&tag("two")).unwrap().len(), 3);
        assert_eq!(fs::read(to.path().join("one/drive.img")).unwrap(), drive());
        for file in ["base/memory.bin", "one/drive.img"] {
            let file = fs::metadata(to.path().join(file)).unwrap();
            assert!(file.blocks() * 512 < file.len() / 2, "{} blocks", file.blocks());
        }
    }
}

#[test]
fn compressing_makes_a_pack_smaller_and_the_same_snapshot_gives_the_same_bytes() {
    let (_from, store) = three();
    assert_eq!(packed(&store, "two", false), packed(&store, "two", false));
    assert!(packed(&store, "two", true).len() < packed(&store, "two", false).len());
}

#[test]
fn what_is_there_with_the_same_identity_is_kept_and_only_the_packed_tag_is_renamed() {
    let (_from, store) = three();
    let (to, other) = root();
    unpack(&other, &packed(&store, "one", false)[..], None).unwrap();
    let unpacked = unpack(&other, &packed(&store, "two", false)[..], Some(&tag("copy"))).unwrap();
    assert_eq!(unpacked.tag, "copy");
    assert_eq!(
        (unpacked.added, unpacked.kept),
        (vec!["copy".to_owned()], vec!["base".to_owned(), "one".to_owned()])
    );
    assert!(to.path().join("copy/layer.bin").exists() && !to.path().join("two").exists());
    assert_eq!(other.chain(&tag("copy")).unwrap()[0].identity, store.chain(&tag("two")).unwrap()[0].identity);
    let again = unpack(&other, &packed(&store, "one", false)[..], None).unwrap();
    assert_eq!(again.added, [""; 0]);
    // Nothing is held any longer.
    other.delete_snapshot(&tag("copy")).unwrap();
    other.delete_snapshot(&tag("one")).unwrap();
}

#[test]
fn a_tag_that_is_another_snapshot_here_refuses_the_pack_and_stays() {
    let (_from, store) = three();
    let (to, other) = root();
    add_image(&other, "one", &Pages::from([(7, 7)]));
    let before = files(to.path());
    let error = unpack(&other, &packed(&store, "two", false)[..], None).unwrap_err();
    assert!(matches!(&error, PackError::Conflict { tag, .. } if tag == "one"), "{error}");
    assert_eq!(files(to.path()), before);
    assert_eq!(fs::read_dir(to.path().join(".staging")).unwrap().count(), 0);
    other.delete_snapshot(&tag("one")).unwrap();
}

#[test]
fn a_compacted_snapshot_and_the_layers_on_it_can_be_packed() {
    let (_from, store) = three();
    let images = crate::snapshot::images::Images::open(&store, 1 << 30).unwrap();
    crate::snapshot::compact::compact(&store, &images, &tag("one")).unwrap();
    let (to, other) = root();
    let unpacked = unpack(&other, &packed(&store, "two", false)[..], None).unwrap();
    assert_eq!(unpacked.added, ["one", "two"]);
    assert_eq!(fs::read(to.path().join("one/memory.bin")).unwrap()[3 * PAGE as usize], 3);
}

#[test]
fn a_damaged_snapshot_is_not_packed_and_its_file_is_named() {
    let (from, store) = three();
    for name in ["one/layer.bin", "one/drive.img"] {
        let file = from.path().join(name);
        let whole = fs::read(&file).unwrap();
        let mut bytes = whole.clone();
        bytes[5] ^= 1;
        fs::write(&file, bytes).unwrap();
        let error = Packer::new(&store, &tag("two")).unwrap_err().to_string();
        assert!(error.contains(&format!("{name} has the digest")), "{error}");
        fs::write(&file, whole).unwrap();
    }
}

#[test]
fn while_a_pack_is_written_nothing_of_it_can_be_deleted() {
    let (_from, store) = three();
    let packer = Packer::new(&store, &tag("two")).unwrap();
    assert!(matches!(store.delete_snapshot(&tag("two")), Err(StoreError::Pinned(_))));
    drop(packer);
    store.delete_snapshot(&tag("two")).unwrap();
}

#[test]
fn every_flipped_byte_and_every_cut_is_refused_with_its_place() {
    let (_from, store) = three();
    for zstd in [false, true] {
        let pack = packed(&store, "two", zstd);
        for at in 0..pack.len() {
            let mut broken = pack.clone();
            broken[at] ^= 0x40;
            let Err(PackError::Refused { offset, part, .. }) = verify(&broken[..]) else {
                panic!("byte {at} of {} can be flipped", pack.len())
            };
            assert!(offset <= pack.len() as u64 && !part.is_empty());
        }
        for end in (0..pack.len()).step_by(7) {
            let error = verify(&pack[..end]).unwrap_err();
            assert!(error.to_string().contains("pack ends here"), "{end}: {error}");
        }
        let longer = [&pack[..], b"x"].concat();
        assert!(verify(&longer[..]).unwrap_err().to_string().contains("more behind its end"));
    }
}

#[test]
fn a_broken_pack_leaves_nothing_in_the_root() {
    let (_from, store) = three();
    let pack = packed(&store, "two", false);
    let (to, other) = root();
    for at in (0..pack.len()).step_by(211).chain([pack.len() - 1]) {
        let mut broken = pack.clone();
        broken[at] ^= 1;
        assert!(unpack(&other, &broken[..], None).is_err(), "byte {at}");
        assert!(unpack(&other, &pack[..at], None).is_err(), "cut at {at}");
        require_untouched(&to);
    }
    unpack(&other, &pack[..], None).unwrap();
}

#[derive(Clone)]
struct Parts {
    manifest: Manifest,
    memory: Vec<u8>,
    drive: Vec<u8>,
}

fn image_of(name: &str) -> Parts {
    let memory = vec![1; MEMORY_BYTES as usize];
    let manifest = manifest_of(name, Digest::of(b"state"), Memory::Image { digest: Digest::of(&memory) });
    Parts { manifest, memory, drive: Vec::new() }
}

fn layer_on(name: &str, parent: &Manifest) -> Parts {
    let layer = vec![2; PAGE as usize];
    let memory = Memory::Layer {
        parent: Parent { tag: parent.tag.clone(), identity: parent.identity },
        extents: vec![crate::snapshot::extents::Extent { start: 0, bytes: PAGE }],
        digest: Digest::of(&layer),
    };
    let manifest = manifest_of(name, Digest::of(b"state"), memory);
    Parts { manifest, memory: layer, drive: Vec::new() }
}

fn encoded(Parts { manifest, memory, drive }: Parts) -> [Vec<u8>; 4] {
    [manifest.encode().unwrap(), b"state".to_vec(), memory, drive]
}

#[test]
fn a_forged_pack_with_right_digests_is_refused_for_what_it_claims() {
    let base = image_of("base");
    let other = image_of("other");
    let layer = layer_on("layer", &base.manifest);
    let check = |pack: Vec<u8>, expected: &str| {
        let (to, store) = root();
        let error = unpack(&store, &pack[..], None).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
        require_untouched(&to);
    };
    check(forged(&[encoded(layer.clone())]), "lies on nothing");
    check(forged(&[encoded(other), encoded(layer.clone())]), "not the snapshot before it");
    let mut bigger = layer.clone();
    bigger.manifest.mem_mib = 2;
    check(forged(&[encoded(base.clone()), encoded(bigger)]), "another amount of memory");
    let mut edited = base.clone();
    edited.manifest.vmstate = Digest::of(b"another");
    check(forged(&[encoded(edited)]), "that of its parts");
    let mut named = base.clone();
    named.manifest.tag = "../up".to_owned();
    check(forged(&[encoded(named)]), "refused");
    let mut short = base.clone();
    short.memory.truncate(100);
    check(forged(&[encoded(short)]), "not what this part can have");
    let mut swapped = base.clone();
    swapped.memory[0] = 9;
    check(forged(&[encoded(swapped)]), "its manifest says");
    let driven = Parts { manifest: with_drive(base.manifest.clone(), &drive()), ..base.clone() };
    check(forged(&[encoded(driven.clone())]), "not what this part can have");
    check(forged(&[encoded(Parts { drive: drive(), ..base.clone() })]), "not what this part can have");
    let mut rewritten = drive();
    rewritten[9] ^= 1;
    check(forged(&[encoded(Parts { drive: rewritten, ..driven.clone() })]), "its manifest says");
    let mut undescribed = Parts { drive: drive(), ..driven.clone() };
    undescribed.manifest.drive = None;
    check(forged(&[encoded(undescribed)]), "that of its parts");
    let mut far = layer.clone();
    if let Memory::Layer { extents, .. } = &mut far.manifest.memory {
        extents[0].start = MEMORY_BYTES;
    }
    check(forged(&[encoded(base.clone()), encoded(far)]), "does not fit");
    check(forged(&[encoded(base.clone()), encoded(base.clone())]), "taken");
    check(forged(&[[b"{}".to_vec(), Vec::new(), Vec::new(), Vec::new()]]), "no checksum");
    check(forged(&[]), "0 snapshots");
    // The same parts, and nothing forged.
    let (_to, store) = root();
    unpack(&store, &forged(&[encoded(base), encoded(layer)])[..], None).unwrap();
    let (to, store) = root();
    unpack(&store, &forged(&[encoded(Parts { drive: drive(), ..driven })])[..], None).unwrap();
    assert_eq!(fs::read(to.path().join("base/drive.img")).unwrap(), drive());
}

/// Takes so many bytes and then fails.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 < bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0 -= bytes.len();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_output_that_fails_ends_the_pack_with_its_reason() {
    let (_from, store) = three();
    let error = Packer::new(&store, &tag("two")).unwrap().write(Full(1000), false).unwrap_err();
    assert!(matches!(error, PackError::Write(_)), "{error}");
    store.delete_snapshot(&tag("two")).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_chain_survives_the_way_through_a_pack(
        base in prop::collection::btree_map(0..256_u64, 0_u8.., 0..20),
        layers in prop::collection::vec(prop::collection::btree_map(0..256_u64, 0_u8.., 0..10), 0..5),
        zstd in any::<bool>(),
    ) {
        let (from, store) = root();
        add_image(&store, "l0", &base);
        for (number, pages) in layers.iter().enumerate() {
            add_layer(&store, &format!("l{}", number + 1), &format!("l{number}"), pages);
        }
        let pack = packed(&store, &format!("l{}", layers.len()), zstd);
        let (to, other) = root();
        unpack(&other, &pack[..], None).unwrap();
        prop_assert_eq!(files(from.path()), files(to.path()));
        let data: u64 = layers.iter().map(|pages| pages.len() as u64 * PAGE).sum();
        let stored: u64 = (1..=layers.len())
            .map(|number| match other.manifest(&tag(&format!("l{number}"))).unwrap().memory {
                Memory::Layer { extents, .. } => total_bytes(&extents),
                _ => 0,
            })
            .sum();
        prop_assert_eq!(data, stored);
    }

    #[test]
    fn whatever_is_read_nothing_panics_and_nothing_is_kept(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0..400_usize) {
        let (to, store) = root();
        let mut pack = forged(&[encoded(image_of("base"))]);
        let at = at.min(pack.len());
        pack.splice(at..(at + bytes.len()).min(pack.len()), bytes.iter().copied());
        let whole = pack == forged(&[encoded(image_of("base"))]);
        prop_assert_eq!(unpack(&store, &pack[..], None).is_ok(), whole);
        if !whole {
            require_untouched(&to);
        }
    }
}
