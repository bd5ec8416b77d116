//! How long it takes to put a layer together, and to make a memory image of layers: `cargo bench snapshots`.
//!
//! Real files, on the file system of the temporary directory (`TMPDIR`): on one that can share blocks an image costs
//! less. Nothing waits for the disk.

use std::fs::{self, File};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use forkd::api::{BranchMode, DataPath};
use forkd::snapshot::copy::{Method, overlay, pack};
use forkd::snapshot::digest::Digest;
use forkd::snapshot::extents::{Extent, data_extents, total_bytes};
use forkd::snapshot::images::Images;
use forkd::snapshot::manifest::{Manifest, Memory, Parent, SCHEMA};
use forkd::snapshot::store::Store;
use forkd::snapshot::tag::Tag;

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
const MEMORY_MIB: u32 = 64;
/// Of each layer: every other page, so that each is an extent of its own, the worst that a guest can do.
const DIRTY_PAGES: u64 = 1024;
const STATE: &[u8] = b"state";

criterion_group!(snapshots, layer, merge, materialise);
criterion_main!(snapshots);

/// The dirtied pages of a guest packed one after another into a layer's file.
fn layer(criterion: &mut Criterion) {
    reports::plot::stand_in_for_sans_serif();
    let folder = tempfile::tempdir().expect("the temporary directory can be written");
    let diff = diff(folder.path(), 0);
    let extents = data_extents(&diff).expect("the file system tells data from holes");
    let mut group = criterion.benchmark_group("snapshots/layer");
    group.throughput(Throughput::Bytes(total_bytes(&extents)));
    group.bench_function("pack 1024 pages", |bencher| {
        bencher.iter_batched(
            || create(&folder.path().join("layer")),
            |layer| pack(&diff, black_box(&extents), &layer).expect("the layer is written"),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// The dirtied pages laid over an image, as all data paths but `stage` do.
fn merge(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("the temporary directory can be written");
    let diff = diff(folder.path(), 0);
    let image = create(&folder.path().join("image"));
    image.set_len(u64::from(MEMORY_MIB) * MIB).expect("the image has room");
    let mut group = criterion.benchmark_group("snapshots/merge");
    group.throughput(Throughput::Bytes(DIRTY_PAGES * PAGE));
    for (name, method) in [("kernel", Method::Kernel), ("uring", Method::Uring)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| overlay(method, black_box(&diff), &image).expect("the pages are written"));
        });
    }
    group.finish();
}

/// A memory image of a chain of layers, each read, checked by its digest and laid over the one below.
fn materialise(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("snapshots/materialise");
    group.sample_size(10);
    for layers in [1, 8, 32] {
        let folder = tempfile::tempdir().expect("the temporary directory can be written");
        let store = Store::open(folder.path()).expect("a fresh store");
        let newest = chain(&store, layers);
        let images = Images::open(&store, u64::MAX).expect("a fresh folder of images");
        let identity = store.snapshot(&newest).expect("it was published").manifest.identity;
        group.bench_function(BenchmarkId::new("layers", layers), |bencher| {
            bencher.iter_batched(
                || images.delete_image(identity),
                |()| images.snapshot_with_image(&store, &newest).expect("the chain is whole"),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// A base image with `layers` layers on it; gives the newest one's tag.
fn chain(store: &Store, layers: u64) -> Tag {
    let staging = store.stage(tag("base")).expect("a free tag");
    let memory = create(&staging.memory_path());
    let bytes: Vec<u8> = (0..u64::from(MEMORY_MIB) * MIB).map(|at| (at / PAGE) as u8).collect();
    memory.write_all_at(&bytes, 0).expect("the image has room");
    fs::write(staging.vmstate_path(), STATE).expect("the state has room");
    let base = Memory::Image { digest: Digest::of(&bytes) };
    staging.publish(&manifest("base", base)).expect("the base is whole");
    let mut parent = tag("base");
    for number in 1..=layers {
        parent = publish_layer(store, &parent, number);
    }
    parent
}

fn publish_layer(store: &Store, parent: &Tag, number: u64) -> Tag {
    let name = format!("layer-{number}");
    let staging = store.stage(tag(&name)).expect("a free tag");
    let extents: Vec<Extent> = extents(number).collect();
    let bytes = vec![number as u8; total_bytes(&extents) as usize];
    fs::write(staging.layer_path(), &bytes).expect("the layer has room");
    fs::write(staging.vmstate_path(), STATE).expect("the state has room");
    let identity = store.snapshot(parent).expect("it was published").manifest.identity;
    let parent = Parent { tag: parent.to_string(), identity };
    let memory = Memory::Layer { parent, extents, digest: Digest::of(&bytes) };
    staging.publish(&manifest(&name, memory)).expect("the layer is whole");
    tag(&name)
}

/// Every other page, from the page `first` on.
fn extents(first: u64) -> impl Iterator<Item = Extent> {
    (0..DIRTY_PAGES).map(move |page| Extent { start: (first + 2 * page) * PAGE, bytes: PAGE })
}

/// A sparse file of the guest's size with those pages.
fn diff(folder: &Path, first: u64) -> File {
    let file = create(&folder.join("diff"));
    file.set_len(u64::from(MEMORY_MIB) * MIB).expect("a sparse file has room");
    for extent in extents(first) {
        file.write_all_at(&[7; PAGE as usize], extent.start).expect("the page has room");
    }
    file
}

fn create(path: &Path) -> File {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true);
    options.open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn tag(name: &str) -> Tag {
    name.parse().expect("a plain name")
}

/// A manifest with the identity that is right for it.
fn manifest(tag: &str, memory: Memory) -> Manifest {
    let vmstate = Digest::of(STATE);
    Manifest {
        schema: SCHEMA.to_owned(),
        tag: tag.to_owned(),
        created_at_unix: 1,
        created_at_unix_ms: None,
        branched_from: None,
        mode: BranchMode::Diff,
        data_path: DataPath::Stage,
        durable: false,
        mem_mib: MEMORY_MIB,
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
