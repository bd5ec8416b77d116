//! Layers: what lies on what, what may be deleted, what is refused.

use std::fs;

use forkd::api::{BranchMode, BranchRequest, DataPath, SnapshotDetail, SnapshotStatus};
use forkd::http_client::CallError;
use guest::FIRST_PAGE;
use guest::model::Memory;
use hyper::Method;
use testkit::{Outcome, Test};

use crate::host::{Host, NEEDS, Result};

pub const TESTS: &[Test] = &[
    Test {
        name: "layers::a_parent_is_kept_flattened_or_deleted_with_its_layers",
        needs: NEEDS,
        run: deletion,
    },
    Test { name: "layers::compacting_keeps_the_layers_above_valid", needs: NEEDS, run: compaction },
    Test { name: "layers::a_flipped_bit_is_refused_with_file_and_digest", needs: NEEDS, run: damage },
    Test {
        name: "layers::without_staging_memory_the_branch_goes_to_disk_and_says_so",
        needs: NEEDS,
        run: no_memory,
    },
    Test { name: "layers::images_stay_within_their_budget", needs: NEEDS, run: budget },
    Test { name: "layers::without_wait_the_answer_comes_while_it_is_written", needs: NEEDS, run: no_wait },
    Test { name: "layers::a_diff_on_a_deleted_parent_is_full", needs: NEEDS, run: deleted_parent },
    Test { name: "layers::damage_found_at_a_fork_marks_all_that_lie_on_it", needs: NEEDS, run: marked },
    Test { name: "layers::a_flip_in_any_file_is_refused_by_its_name", needs: NEEDS, run: flips },
    Test { name: "layers::an_image_made_ahead_is_the_one_that_is_forked", needs: NEEDS, run: ahead },
    Test { name: "layers::a_durable_layer_is_not_put_on_one_that_is_not", needs: NEEDS, run: durability },
];

fn stage(tag: &str) -> BranchRequest {
    BranchRequest {
        tag: Some(tag.into()),
        mode: Some(BranchMode::Diff),
        data_path: Some(DataPath::Stage),
        ..BranchRequest::default()
    }
}

/// A source with `n` layers b1, b2, ... on `base`; each changes 8 pages of its own.
fn lineage(host: &Host, n: u64) -> Result<(String, Vec<Memory>)> {
    host.boot("base")?;
    let source = host.fork("base")?.id;
    let mut memory = Memory::default();
    let mut at_pause = Vec::new();
    for k in 1..=n {
        host.guest(&source, &format!("dirty {} 8 {k}", FIRST_PAGE + 4 * k))?;
        memory.dirty(FIRST_PAGE + 4 * k, 8, k);
        host.branch(&source, &stage(&format!("b{k}")))?;
        at_pause.push(memory.clone());
    }
    Ok((source, at_pause))
}

fn require_memory(host: &Host, tag: &str, expected: &Memory) -> Result<()> {
    let child = host.fork(tag)?.id;
    let sum = host.guest(&child, &format!("sum {FIRST_PAGE} 64"))?;
    assert_eq!(sum, format!("{:016x}", expected.sum(FIRST_PAGE, 64)), "{tag}");
    host.end(&child)
}

fn delete(host: &Host, path: &str) -> std::result::Result<(), CallError> {
    host.call(Method::DELETE, &format!("/v1/snapshots/{path}"), None::<&()>)
}

fn detail(host: &Host, tag: &str) -> Result<SnapshotDetail> {
    Ok(host.call(Method::GET, &format!("/v1/snapshots/{tag}"), None::<&()>)?)
}

fn tags(host: &Host) -> Result<Vec<String>> {
    let mut tags: Vec<String> = host.snapshots()?.into_iter().map(|snapshot| snapshot.tag).collect();
    tags.sort();
    Ok(tags)
}

fn deletion() -> Outcome {
    let host = Host::start()?;
    let (_, memory) = lineage(&host, 4)?;
    match delete(&host, "b2") {
        Err(CallError::Refused { status, message }) => {
            assert_eq!(status, 409);
            assert!(message.contains("is the parent of b3"), "{message}");
        }
        other => return Err(format!("{other:?}").into()),
    }
    delete(&host, "b2?flatten=true")?;
    assert_eq!(tags(&host)?, ["b1", "b3", "b4", "base"]);
    require_memory(&host, "b3", &memory[2])?;
    require_memory(&host, "b4", &memory[3])?;
    delete(&host, "base?cascade=true")?;
    assert_eq!(tags(&host)?, ["b3", "b4"]);
    require_memory(&host, "b4", &memory[3])?;
    Ok(())
}

fn compaction() -> Outcome {
    let host = Host::start()?;
    let (_, memory) = lineage(&host, 3)?;
    let compacted: SnapshotDetail = host.call(Method::POST, "/v1/snapshots/b2/compact", None::<&()>)?;
    assert_eq!((compacted.depth, compacted.parent, compacted.dependents), (0, None, vec!["b3".to_owned()]));
    assert_eq!(detail(&host, "b3")?.depth, 1);
    require_memory(&host, "b2", &memory[1])?;
    require_memory(&host, "b3", &memory[2])?;
    delete(&host, "b1")?;
    require_memory(&host, "b3", &memory[2])?;
    Ok(())
}

fn damage() -> Outcome {
    let host = Host::start()?;
    lineage(&host, 2)?;
    let path = host.root().join("b1/layer.bin");
    let mut bytes = fs::read(&path)?;
    bytes[100] ^= 1;
    fs::write(&path, bytes)?;
    match host.fork("b2") {
        Err(error) => {
            let message = error.to_string();
            assert!(
                message.contains("layer.bin has the digest") && message.contains("'b1' is damaged"),
                "{message}"
            );
        }
        Ok(_) => return Err("a child was forked from a damaged layer".into()),
    }
    let vmstate = host.root().join("base/vmstate.bin");
    let mut bytes = fs::read(&vmstate)?;
    bytes[100] ^= 1;
    fs::write(&vmstate, bytes)?;
    let refused =
        host.fork("base").map(|child| child.id).expect_err("a damaged snapshot is refused").to_string();
    assert!(refused.contains("vmstate.bin has the digest"), "{refused}");
    fs::remove_dir_all(host.root().join("b1"))?;
    let detail = detail(&host, "b2")?;
    assert!(
        !detail.bootable && detail.not_bootable_because.is_some_and(|reason| reason.contains("'b1' is gone"))
    );
    Ok(())
}

fn marked() -> Outcome {
    let host = Host::start()?;
    lineage(&host, 3)?;
    let path = host.root().join("b2/layer.bin");
    let whole = fs::read(&path)?;
    let mut bytes = whole.clone();
    bytes[100] ^= 1;
    fs::write(&path, bytes)?;
    // Nothing has read the file yet.
    assert!(detail(&host, "b3")?.bootable);
    assert!(host.fork("b3").is_err());
    for tag in ["b2", "b3"] {
        let SnapshotDetail { bootable, not_bootable_because, .. } = detail(&host, tag)?;
        let reason = not_bootable_because.unwrap_or_default();
        assert!(!bootable && reason.contains("b2/layer.bin has the digest"), "{tag}: {reason}");
    }
    assert!(detail(&host, "b1")?.bootable);
    host.require_running(&host.fork("b1")?.id)?;
    // Put right, it is another file, and what was found wrong no longer holds.
    fs::write(&path, whole)?;
    assert!(detail(&host, "b3")?.bootable);
    host.require_running(&host.fork("b3")?.id)?;
    Ok(())
}

fn flips() -> Outcome {
    let host = Host::start()?;
    lineage(&host, 1)?;
    for file in
        ["b1/manifest.json", "b1/vmstate.bin", "b1/layer.bin", "base/manifest.json", "base/memory.bin"]
    {
        let path = host.root().join(file);
        let whole = fs::read(&path)?;
        let mut bytes = whole.clone();
        let last = bytes.len() - 10;
        bytes[last] ^= 1;
        fs::write(&path, bytes)?;
        let refused = host.fork("b1").map(|child| child.id).expect_err(file).to_string();
        let name = file.split('/').nth(1).unwrap_or_default();
        assert!(refused.contains(name), "{file}: {refused}");
        fs::write(&path, whole)?;
    }
    host.require_running(&host.fork("b1")?.id)?;
    Ok(())
}

fn ahead() -> Outcome {
    let dir = tempfile::tempdir()?;
    let root = dir.path().join("snapshots");
    let host = Host::start_with(dir, root, &["--images-ahead", "always"])?;
    let (_, memory) = lineage(&host, 1)?;
    let images = || -> Result<Vec<(std::path::PathBuf, u64)>> {
        let mut images = Vec::new();
        for entry in fs::read_dir(host.root().join(".images"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "bin") {
                images.push((path.clone(), std::os::unix::fs::MetadataExt::ino(&fs::metadata(path)?)));
            }
        }
        Ok(images)
    };
    let begun = std::time::Instant::now();
    while images()?.is_empty() {
        assert!(begun.elapsed().as_secs() < 30, "no image is made ahead: {}", host.log());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let made = images()?;
    require_memory(&host, "b1", &memory[0])?;
    assert_eq!(images()?, made, "the fork made another image");
    // What somebody else has written to is not taken for it.
    let mut bytes = fs::read(&made[0].0)?;
    bytes[5 << 20] ^= 1;
    fs::write(&made[0].0, &bytes)?;
    require_memory(&host, "b1", &memory[0])?;
    assert!(fs::read(&made[0].0)? != bytes, "an image that was changed is still there");
    Ok(())
}

fn no_memory() -> Outcome {
    let dir = tempfile::tempdir()?;
    let root = dir.path().join("snapshots");
    let host = Host::start_with(dir, root, &["--staging-mib", "1"])?;
    host.boot("base")?;
    let source = host.fork("base")?.id;
    let mut memory = Memory::default();
    for (k, mode) in [(1, BranchMode::Diff), (2, BranchMode::Full), (3, BranchMode::Diff)] {
        host.guest(&source, &format!("dirty {FIRST_PAGE} 8 {k}"))?;
        memory.dirty(FIRST_PAGE, 8, k);
        let branch = host.branch(&source, &BranchRequest { mode: Some(mode), ..stage(&format!("b{k}")) })?;
        assert!(branch.fell_back_to_disk && branch.staged_bytes == 0, "{branch:?}");
        assert!(branch.warnings[0].contains("written to disk instead of memory"), "{:?}", branch.warnings);
        require_memory(&host, &format!("b{k}"), &memory)?;
    }
    Ok(())
}

fn budget() -> Outcome {
    let dir = tempfile::tempdir()?;
    let root = dir.path().join("snapshots");
    // Room for two images of the test guest, and not for three.
    let host = Host::start_with(dir, root, &["--images-mib", "80"])?;
    let (_, memory) = lineage(&host, 4)?;
    for k in [1, 2, 3, 4, 1] {
        require_memory(&host, &format!("b{k}"), &memory[k - 1])?;
        let images = fs::read_dir(host.root().join(".images"))?;
        let kept = images
            .filter(|entry| {
                entry.as_ref().is_ok_and(|entry| entry.path().extension().is_some_and(|end| end == "bin"))
            })
            .count();
        assert!(kept <= 2, "{kept} images");
    }
    Ok(())
}

fn no_wait() -> Outcome {
    let host = Host::start()?;
    let (source, _) = lineage(&host, 1)?;
    let branch = host.branch(&source, &BranchRequest { wait: Some(false), ..stage("later") })?;
    assert_eq!(branch.status, SnapshotStatus::Writing);
    assert!(branch.pause_ns > 0);
    let begun = std::time::Instant::now();
    while detail(&host, "later")?.status != SnapshotStatus::Ready {
        if begun.elapsed().as_secs() > 10 {
            return Err("it does not become ready".into());
        }
    }
    host.require_running(&host.fork("later")?.id)?;
    Ok(())
}

fn deleted_parent() -> Outcome {
    let host = Host::start()?;
    let (source, mut memory) = lineage(&host, 2)?;
    delete(&host, "b2")?;
    host.guest(&source, "dirty 1050 3 9")?;
    memory[1].dirty(1050, 3, 9);
    let branch = host.branch(&source, &stage("b3"))?;
    assert_eq!(branch.mode, BranchMode::Full);
    assert!(branch.warnings[0].contains("its parent 'b2' was deleted"), "{:?}", branch.warnings);
    require_memory(&host, "b3", &memory[1])?;
    Ok(())
}

fn durability() -> Outcome {
    let host = Host::start()?;
    let (source, memory) = lineage(&host, 1)?;
    let quick = host.branch(&source, &BranchRequest { durable: Some(false), ..stage("quick") })?;
    let quicker = host.branch(&source, &BranchRequest { durable: Some(false), ..stage("quicker") })?;
    let durable = host.branch(&source, &stage("durable"))?;
    assert_eq!(
        [quick.mode, quicker.mode, durable.mode],
        [BranchMode::Diff, BranchMode::Diff, BranchMode::Full]
    );
    assert!(durable.warnings[0].contains("is not durable, and this one is to be"), "{:?}", durable.warnings);
    require_memory(&host, "quicker", &memory[0])?;
    require_memory(&host, "durable", &memory[0])?;
    Ok(())
}
