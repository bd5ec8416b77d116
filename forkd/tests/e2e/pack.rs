//! Packs: a tag with all that it lies on, from one snapshot root to another.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use forkd::api::{BranchMode, BranchRequest};
use guest::FIRST_PAGE;
use guest::model::Memory;
use testkit::{Outcome, Test};

use crate::host::{Host, NEEDS, Result};
use crate::sandboxes::{boot_with_drive, drive_of, pattern};

pub const TESTS: &[Test] = &[
    Test { name: "pack::a_child_on_another_root_holds_every_byte", needs: NEEDS, run: carried },
    Test { name: "pack::a_pipe_from_one_daemon_to_another_needs_no_file", needs: NEEDS, run: piped },
    Test {
        name: "pack::without_a_daemon_the_disk_is_used_and_a_taken_root_refused",
        needs: NEEDS,
        run: offline,
    },
    Test { name: "pack::a_broken_pack_is_400_and_leaves_nothing", needs: NEEDS, run: broken },
    Test { name: "pack::another_snapshot_under_the_tag_is_409_and_stays", needs: NEEDS, run: conflict },
    Test { name: "pack::a_damaged_layer_is_409_and_no_file_is_left", needs: NEEDS, run: damaged },
    Test { name: "pack::a_drive_goes_with_its_snapshot_byte_for_byte", needs: NEEDS, run: driven },
];

/// `base`, and the layers `b1` and `b2` on it; the guest's memory at `b2`.
fn two_layers(host: &Host) -> Result<Memory> {
    host.boot("base")?;
    let source = host.fork("base")?.id;
    let mut memory = Memory::default();
    for k in 1..=2 {
        host.guest(&source, &format!("dirty {} 8 {k}", FIRST_PAGE + 4 * k))?;
        memory.dirty(FIRST_PAGE + 4 * k, 8, k);
        let request = BranchRequest {
            tag: Some(format!("b{k}")),
            mode: Some(BranchMode::Diff),
            ..BranchRequest::default()
        };
        host.branch(&source, &request)?;
    }
    Ok(memory)
}

fn require_memory(host: &Host, tag: &str, expected: &Memory) -> Result<()> {
    let child = host.fork(tag)?.id;
    let sum = host.guest(&child, &format!("sum {FIRST_PAGE} 64"))?;
    assert_eq!(sum, format!("{:016x}", expected.sum(FIRST_PAGE, 64)), "{tag}");
    host.end(&child)
}

fn forkd(socket: &Path, root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forkd"));
    command.args(arguments).arg("--socket").arg(socket).arg("--snapshot-root").arg(root);
    command.stdin(Stdio::null());
    command
}

/// Runs a command against the daemon of `host`.
fn run(host: &Host, arguments: &[&str]) -> Result<Output> {
    Ok(forkd(&host.socket(), Path::new("/nowhere"), arguments).output()?)
}

fn require_done(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    format!("{}{said}", String::from_utf8_lossy(&output.stdout))
}

fn require_refused(output: &Output, reason: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(said.contains(reason) && said.trim_end().lines().count() == 1, "{said}");
}

/// Every file of every snapshot below a root.
fn files(root: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(root)? {
        let dir = entry?.path();
        if dir.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.')) {
            for file in fs::read_dir(&dir)? {
                let path = file?.path();
                files.insert(path.strip_prefix(root)?.to_owned(), fs::read(&path)?);
            }
        }
    }
    Ok(files)
}

fn require_nothing_kept(host: &Host) -> Result<()> {
    assert!(files(host.root())?.is_empty());
    assert_eq!(fs::read_dir(host.root().join(".staging"))?.count(), 0);
    Ok(())
}

/// Packs `b2` of a host into a file beside its socket.
fn packed(host: &Host, zstd: bool) -> Result<PathBuf> {
    let file = host.dir.path().join(if zstd { "b2.zst.pack" } else { "b2.pack" });
    let mut arguments = vec!["pack", "b2", "-o", file.to_str().ok_or("a path")?];
    arguments.extend(zstd.then_some("--zstd"));
    let said = require_done(&run(host, &arguments)?);
    assert!(said.contains("packed 'b2'") && said.contains("through the daemon at unix:"), "{said}");
    Ok(file)
}

fn unpack(host: &Host, file: &Path, more: &[&str]) -> Result<Output> {
    run(host, &[&["unpack", file.to_str().ok_or("a path")?], more].concat())
}

fn carried() -> Outcome {
    let from = Host::start()?;
    let memory = two_layers(&from)?;
    for zstd in [false, true] {
        let file = packed(&from, zstd)?;
        let to = Host::start()?;
        let said = require_done(&unpack(&to, &file, &[])?);
        assert!(said.contains("added: base, b1, b2"), "{said}");
        assert!(files(from.root())? == files(to.root())?, "a file differs");
        require_memory(&to, "b2", &memory)?;
        let said = require_done(&unpack(&to, &file, &["--tag", "copy"])?);
        assert!(said.contains("added: copy") && said.contains("here already: base, b1"), "{said}");
        require_memory(&to, "copy", &memory)?;
    }
    let taken = run(&from, &["pack", "b2", "-o", from.dir.path().join("b2.pack").to_str().ok_or("a path")?])?;
    require_refused(&taken, "is there already");
    Ok(())
}

fn piped() -> Outcome {
    let (from, to) = (Host::start()?, Host::start()?);
    let memory = two_layers(&from)?;
    let nowhere = Path::new("/nowhere");
    let mut pack =
        forkd(&from.socket(), nowhere, &["pack", "b2", "-o", "-"]).stdout(Stdio::piped()).spawn()?;
    let stream = pack.stdout.take().ok_or("no pipe")?;
    let unpacked = forkd(&to.socket(), nowhere, &["unpack", "-"]).stdin(stream).output()?;
    require_done(&unpacked);
    assert!(pack.wait()?.success());
    require_memory(&to, "b2", &memory)?;
    Ok(())
}

fn offline() -> Outcome {
    let from = Host::start()?;
    let memory = two_layers(&from)?;
    let file = packed(&from, false)?;
    let dir = tempfile::Builder::new().prefix("forkd-e2e-").tempdir()?;
    let (socket, root) = (dir.path().join("sock"), dir.path().join("snapshots"));
    let said = require_done(&forkd(&socket, &root, &["unpack", file.to_str().ok_or("a path")?]).output()?);
    assert!(said.contains("on disk at") && said.contains("since no daemon answers"), "{said}");
    let again = dir.path().join("again.pack");
    require_done(&forkd(&socket, &root, &["pack", "b2", "-o", again.to_str().ok_or("a path")?]).output()?);
    assert!(fs::read(&file)? == fs::read(&again)?, "the same snapshot is packed differently");
    let to = Host::start_at(dir, root.clone())?;
    require_memory(&to, "b2", &memory)?;
    let elsewhere = forkd(Path::new("/nowhere/sock"), &root, &["pack", "b2", "-o", "-"]);
    let refused = { elsewhere }.stdout(File::create(to.dir.path().join("out"))?).output()?;
    require_refused(&refused, "is in use by another forkd");
    Ok(())
}

fn broken() -> Outcome {
    let from = Host::start()?;
    two_layers(&from)?;
    let pack = fs::read(packed(&from, false)?)?;
    let to = Host::start()?;
    let file = to.dir.path().join("broken.pack");
    let parts = [(3, "the header"), (700, "snapshot 1 of 3"), (pack.len() / 2, "snapshot 1 of 3")];
    for (at, part) in parts.into_iter().chain([(pack.len() - 5, "the end")]) {
        let mut bytes = pack.clone();
        bytes[at] ^= 1;
        fs::write(&file, bytes)?;
        require_refused(&unpack(&to, &file, &[])?, part);
        require_nothing_kept(&to)?;
    }
    for end in [0, 10, pack.len() / 3, pack.len() - 1] {
        fs::write(&file, &pack[..end])?;
        require_refused(&unpack(&to, &file, &[])?, "the pack ends here");
        require_nothing_kept(&to)?;
    }
    // A client that is killed in the middle of it.
    let (reader, writer) = std::io::pipe()?;
    let mut client = forkd(&to.socket(), Path::new("/nowhere"), &["unpack", "-"])
        .stdin(reader)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    std::io::Write::write_all(&mut &writer, &pack[..pack.len() / 2])?;
    client.kill()?;
    client.wait()?;
    let begun = std::time::Instant::now();
    while fs::read_dir(to.root().join(".staging"))?.count() > 0 {
        assert!(begun.elapsed().as_secs() < 20, "what was staged is left");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    require_nothing_kept(&to)?;
    Ok(())
}

fn conflict() -> Outcome {
    let from = Host::start()?;
    two_layers(&from)?;
    let file = packed(&from, false)?;
    let to = Host::start()?;
    to.boot("b1")?;
    let before = files(to.root())?;
    require_refused(&unpack(&to, &file, &[])?, "'b1' is here already and is another one");
    assert!(files(to.root())? == before);
    assert_eq!(fs::read_dir(to.root().join(".staging"))?.count(), 0);
    to.require_running(&to.fork("b1")?.id)?;
    Ok(())
}

fn damaged() -> Outcome {
    let host = Host::start()?;
    two_layers(&host)?;
    let layer = host.root().join("b1/layer.bin");
    let mut bytes = fs::read(&layer)?;
    bytes[9] ^= 1;
    fs::write(&layer, bytes)?;
    let file = host.dir.path().join("b2.pack");
    let refused = run(&host, &["pack", "b2", "-o", file.to_str().ok_or("a path")?])?;
    require_refused(&refused, "b1/layer.bin has the digest");
    let left = fs::read_dir(host.dir.path())?.filter(|entry| {
        entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().contains("pack"))
    });
    assert_eq!(left.count(), 0);
    Ok(())
}

/// `base`, booted with a drive, and the layer `b1` on it; the drive's contents and the guest's memory at `b1`.
fn layer_with_drive(host: &Host) -> Result<(Vec<u8>, Memory)> {
    let mut contents = pattern(3, 2 << 20);
    boot_with_drive(host, "base", &contents)?;
    let source = host.fork("base")?.id;
    host.guest(&source, &format!("dirty {FIRST_PAGE} 8 1"))?;
    let mut memory = Memory::default();
    memory.dirty(FIRST_PAGE, 8, 1);
    // As a guest would: this one has no driver.
    let written = pattern(11, 8192);
    File::options().write(true).open(drive_of(host, &source))?.write_all_at(&written, 65_536)?;
    contents[65_536..65_536 + written.len()].copy_from_slice(&written);
    let request =
        BranchRequest { tag: Some("b1".into()), mode: Some(BranchMode::Diff), ..BranchRequest::default() };
    host.branch(&source, &request)?;
    Ok((contents, memory))
}

fn driven() -> Outcome {
    let from = Host::start()?;
    let (contents, memory) = layer_with_drive(&from)?;
    let file = from.dir.path().join("b1.pack");
    let arguments = ["pack", "b1", "-o", file.to_str().ok_or("a path")?];
    require_done(&run(&from, &arguments)?);
    let to = Host::start()?;
    let pack = fs::read(&file)?;
    let broken = to.dir.path().join("broken.pack");
    // The last page of the pack's last drive lies before the ends of the part and of the pack.
    let mut bytes = pack.clone();
    let at = pack.len() - 1000;
    bytes[at] ^= 1;
    fs::write(&broken, bytes)?;
    require_refused(&unpack(&to, &broken, &[])?, "drive of snapshot 2 of 2");
    require_nothing_kept(&to)?;

    require_done(&unpack(&to, &file, &[])?);
    assert!(files(from.root())? == files(to.root())?, "a file differs");
    let child = to.fork("b1")?.id;
    assert!(fs::read(drive_of(&to, &child))? == contents, "another drive than at the pause");
    let sum = to.guest(&child, &format!("sum {FIRST_PAGE} 64"))?;
    assert_eq!(sum, format!("{:016x}", memory.sum(FIRST_PAGE, 64)));
    to.require_running(&child)?;
    // What the child writes is its own: the snapshot on this root is packed as it came.
    File::options().write(true).open(drive_of(&to, &child))?.write_all_at(&[0xff; 4096], 0)?;
    let again = to.dir.path().join("again.pack");
    require_done(&run(&to, &["pack", "b1", "-o", again.to_str().ok_or("a path")?])?);
    assert!(fs::read(&again)? == pack, "the same snapshot is packed differently");

    File::options().write(true).open(from.root().join("b1/drive.img"))?.write_all_at(b"x", 70_000)?;
    fs::remove_file(&file)?;
    require_refused(&run(&from, &arguments)?, "b1/drive.img has the digest");
    assert!(!file.exists());
    Ok(())
}
