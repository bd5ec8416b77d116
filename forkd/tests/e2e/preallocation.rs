//! `fallocate` really keeps the blocks that it allocated before the pause, and says where it cannot.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use forkd::api::{BranchMode, BranchRequest, DataPath};
use forkd::branch::destination::Destination;
use forkd::snapshot::copy::Method;
use testkit::{LoopExt4, Need, Outcome, Test};

use crate::host::{Host, NEEDS_LOOP, Result};

pub const TESTS: &[Test] = &[
    Test {
        name: "preallocation::copy_and_merge_use_the_preallocated_blocks",
        needs: &[Need::Root, Need::LoopExt4],
        run: blocks_are_kept,
    },
    Test { name: "preallocation::where_it_cannot_be_had_the_branch_warns", needs: NEEDS_LOOP, run: warning },
];

const IMAGE_BYTES: u64 = 8 << 20;

/// The physical block of each logical block of a file, from the file system's extent map.
fn block_map(path: &Path) -> Result<BTreeMap<u64, u64>> {
    let filefrag = testkit::on_path("filefrag").ok_or("no filefrag (apt-get install e2fsprogs)")?;
    let output = Command::new(filefrag).args(["-v", "-s"]).arg(path).output()?;
    let text = String::from_utf8(output.stdout)?;
    let mut blocks = BTreeMap::new();
    // An extent's line: `   0:        0..    2047:      34816..     36863:   2048:   last,unwritten,eof`
    for line in text.lines() {
        let fields: Vec<&str> = line.split(':').map(str::trim).collect();
        let [number, logical, physical, ..] = fields.as_slice() else { continue };
        if number.parse::<u64>().is_err() {
            continue;
        }
        let first = |range: &str| range.split("..").next().and_then(|first| first.trim().parse::<u64>().ok());
        let last = |range: &str| range.split("..").nth(1).and_then(|last| last.trim().parse::<u64>().ok());
        let (Some(from), Some(to), Some(at)) = (first(logical), last(logical), first(physical)) else {
            return Err(format!("cannot read {line:?}").into());
        };
        blocks.extend((from..=to).map(|block| (block, at + block - from)));
    }
    Ok(blocks)
}

fn blocks_are_kept() -> Outcome {
    let dir = tempfile::tempdir()?;
    // Large enough for mkfs.ext4 to choose blocks of 4096 bytes.
    let ext4 = LoopExt4::mount(dir.path(), 1024, "")?;
    let path = ext4.path().join("memory.bin");
    let destination = Destination::create(&path, IMAGE_BYTES, DataPath::Fallocate)?;
    assert_eq!(destination.not_preallocated, None);
    File::open(&path)?.sync_all()?;
    let before = block_map(&path)?;
    assert_eq!(before.len() as u64, IMAGE_BYTES / 4096, "every block is allocated beforehand");

    let mut base = File::options().read(true).write(true).create_new(true).open(ext4.path().join("base"))?;
    base.write_all(&vec![7; IMAGE_BYTES as usize])?;
    let diff = File::options().read(true).write(true).create_new(true).open(ext4.path().join("diff"))?;
    diff.set_len(IMAGE_BYTES)?;
    diff.write_all_at(&[9; 4096 * 3], 4096 * 100)?;
    destination.overlay(Method::Kernel, &base)?;
    destination.overlay(Method::Kernel, &diff)?;
    File::open(&path)?.sync_all()?;
    assert!(block_map(&path)? == before, "the blocks are the ones that were allocated before");

    // The same without preallocation has no block before the copy: the map above tells the two apart.
    let sparse = ext4.path().join("sparse.bin");
    Destination::create(&sparse, IMAGE_BYTES, DataPath::Naive)?;
    assert_eq!(block_map(&sparse)?.len(), 0);
    Ok(())
}

fn warning() -> Outcome {
    let dir = tempfile::tempdir()?;
    // ext4 without extents has no unwritten blocks, so it refuses fallocate(2).
    let ext4 = LoopExt4::mount(dir.path(), 400, "^extents,^64bit")?;
    let host = Host::start_at(tempfile::tempdir()?, ext4.path().join("snapshots"))?;
    host.boot("base")?;
    let source = host.fork("base")?.id;
    let request = BranchRequest {
        tag: Some("b".into()),
        mode: Some(BranchMode::Diff),
        data_path: Some(DataPath::Fallocate),
        ..BranchRequest::default()
    };
    let branch = host.branch(&source, &request)?;
    assert_eq!(branch.warnings, ["the file system cannot preallocate: the destination is sparse"]);
    assert!(host.log().contains("WARN"), "{}", host.log());
    host.require_running(&host.fork("b")?.id)?;
    drop(host);
    Ok(())
}
