//! The command line: the real binary against a real daemon, or against none.

mod console;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use forkd::api::{Branch, BranchRecord, Sandbox, SandboxState, Snapshot, SnapshotDetail};
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use serde_json::Value;
use testkit::{Outcome, Test};

use crate::host::{Host, MEM_MIB, NEEDS, Result};

pub const TESTS: &[Test] = &[
    Test { name: "cli::images_are_listed_as_table_tree_and_json", needs: NEEDS, run: images },
    Test { name: "cli::rmi_asks_the_daemon_and_goes_on_after_a_failure", needs: NEEDS, run: rmi_daemon },
    Test { name: "cli::rmi_deletes_from_disk_what_the_daemon_does_not_know", needs: NEEDS, run: rmi_disk },
    Test { name: "cli::rmi_deletes_from_disk_where_no_daemon_answers", needs: NEEDS, run: rmi_unreachable },
    Test { name: "cli::a_root_that_a_daemon_has_is_left_alone", needs: NEEDS, run: root_in_use },
    Test { name: "cli::links_in_a_root_are_not_followed", needs: &[], run: links },
    Test { name: "cli::a_sandbox_is_forked_branched_compacted_and_ended", needs: NEEDS, run: sandboxes },
    Test { name: "cli::fork_takes_limits_and_guests_are_paused_and_resumed", needs: NEEDS, run: confined },
    Test { name: "cli::a_snapshot_with_a_drive_is_booted", needs: NEEDS, run: rootfs_mode },
    Test { name: "cli::rmi_says_what_went_with_what", needs: NEEDS, run: rmi_cascade },
    Test { name: "cli::exit_codes_tell_failures_apart", needs: NEEDS, run: exit_codes },
    Test { name: "cli::completions_and_manual_pages_are_printed", needs: &[], run: pages },
    Test { name: "cli::history_lists_branches_and_shows_one", needs: NEEDS, run: history },
    Test { name: "cli::console_joins_pipes", needs: NEEDS, run: console::pipes },
    Test {
        name: "cli::console_on_a_terminal_passes_keys_and_gives_the_terminal_back",
        needs: NEEDS,
        run: console::terminal,
    },
];

/// How a command ended, and what it said.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    /// Its standard output, where it did what it was asked to.
    fn done(self) -> Result<String> {
        if self.code == Some(0) { Ok(self.out) } else { Err(format!("{self:?}").into()) }
    }

    /// The JSON document that it printed.
    fn json<T: DeserializeOwned>(self) -> Result<T> {
        Ok(serde_json::from_str(&self.done()?)?)
    }

    /// Fails unless it ended with `code` and these words in its last line on standard error.
    fn require(self, code: i32, words: &str) -> Result<Self> {
        let last = self.err.lines().last().unwrap_or_default();
        if self.code == Some(code) && last.starts_with("forkd: ") && last.contains(words) {
            return Ok(self);
        }
        Err(format!("expected {code} and '{words}': {self:?}").into())
    }
}

/// A `forkd` command whose environment names no daemon.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forkd"));
    command.args(arguments).env_remove("FORKD_URL").env_remove("FORKD_SOCKET").stdin(Stdio::null());
    command
}

fn run(mut command: Command) -> Result<Ran> {
    let output = command.output()?;
    let text = |bytes| String::from_utf8(bytes);
    Ok(Ran { code: output.status.code(), out: text(output.stdout)?, err: text(output.stderr)? })
}

/// Runs `forkd` against the daemon of `host`.
fn forkd(host: &Host, arguments: &[&str]) -> Result<Ran> {
    let mut command = command(arguments);
    command.env("FORKD_SOCKET", host.socket());
    run(command)
}

/// Runs `forkd` where no daemon is, on the snapshots in `root`.
fn without_daemon(root: &Path, arguments: &[&str]) -> Result<Ran> {
    let mut command = command(arguments);
    command.args(["--socket", "/nonexistent/sock", "--snapshot-root"]).arg(root);
    run(command)
}

/// `base`, the layer `one` on it, and the layer `two` on that, all of them older than the sandbox returned.
fn lineage(host: &Host) -> Result<String> {
    forkd(host, &["snapshot", "base", "--mem-mib", &MEM_MIB.to_string()])?.done()?;
    let source = forkd(host, &["fork", "base"])?.done()?.trim().to_owned();
    for tag in ["one", "two"] {
        host.guest(&source, "dirty 1024 16 7")?;
        forkd(host, &["branch", &source, "--tag", tag, "--diff"])?.done()?;
    }
    Ok(source)
}

fn images() -> Outcome {
    let host = Host::start()?;
    lineage(&host)?;
    let shown = forkd(&host, &["images"])?.done()?;
    let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["TAG", "SIZE", "MEMORY", "CREATED", "ROOTFS"]);
    assert_eq!(lines[4][..2], ["3", "snapshots"], "{shown}");
    assert!(!shown.contains('\x1b'), "{shown:?}");
    let coloured = forkd(&host, &["images", "--color", "always"])?.done()?;
    assert!(coloured.contains("\x1b[1mTAG"), "{coloured:?}");

    let listed: Vec<Snapshot> = forkd(&host, &["images", "--json"])?.json()?;
    let parent = |tag: &str| listed.iter().find(|one| one.tag == tag).and_then(|one| one.parent.clone());
    assert_eq!(["base", "one", "two"].map(parent), [None, Some("base".into()), Some("one".into())]);
    let tree = forkd(&host, &["images", "--tree"])?.done()?;
    for drawn in ["\nbase ", "\n└ one ", "\n  └ two "] {
        assert!(tree.contains(drawn), "{tree}");
    }

    fs::write(host.root().join("one/layer.bin"), b"short")?;
    let shown = forkd(&host, &["images"])?.done()?;
    for line in ["! one cannot be booted: layer.bin has 5 bytes", "! two cannot be booted: "] {
        assert!(shown.contains(line), "{shown}");
    }
    let from_disk = without_daemon(host.root(), &["images", "--json"])?;
    assert!(from_disk.err.starts_with("forkd: no daemon answers at unix:/nonexistent/sock"), "{from_disk:?}");
    let from_disk: Value = from_disk.json()?;
    assert_eq!(from_disk, forkd(&host, &["images", "--json"])?.json::<Value>()?);
    Ok(())
}

fn rmi_daemon() -> Outcome {
    let host = Host::start()?;
    lineage(&host)?;
    let refused = forkd(&host, &["rmi", "base"])?.require(6, "snapshot 'base' is the parent of one")?;
    assert_eq!(refused.err.lines().count(), 1, "{refused:?}");
    // On disk, only in a root that is named: the default one is not this daemon's.
    forkd(&host, &["rmi", "absent"])?.require(5, "--snapshot-root names a directory to delete from")?;
    // What the daemon does not know is looked for on disk: in a root of the test's own, there or not.
    let own = host.dir.path().join("elsewhere").display().to_string();
    let partly = forkd(&host, &["rmi", "base", "two", "absent", "--snapshot-root", &own])?
        .require(1, "2 failed: base, absent")?;
    assert_eq!(partly.err.lines().count(), 3, "{partly:?}");
    assert_eq!(partly.out, "two (daemon)\n");
    fs::create_dir(&own)?;
    let json = forkd(&host, &["rmi", "--json", "--flatten", "absent", "base", "--snapshot-root", &own])?;
    assert_eq!(json.code, Some(5), "{json:?}");
    let removals: Value = serde_json::from_str(&json.out)?;
    assert_eq!((&removals[1]["tag"], &removals[1]["by"]), (&"base".into(), &"daemon".into()));
    assert!(
        removals[0]["error"].as_str().is_some_and(|error| error.contains("no snapshot has")),
        "{removals}"
    );
    assert_eq!(forkd(&host, &["images", "-q"])?.done()?, "one\n");
    Ok(())
}

/// A daemon's snapshots, without the daemon.
fn root_without_daemon() -> Result<Host> {
    let host = Host::start()?;
    let source = lineage(&host)?;
    host.end(&source)?;
    let pid = Pid::from_raw(host.daemon_pid() as i32).ok_or("no pid")?;
    kill_process(pid, Signal::KILL)?;
    // Its lock goes with its last thread, and the first one may be a zombie before the others have ended.
    let proc = Path::new("/proc").join(host.daemon_pid().to_string());
    while !fs::read_to_string(proc.join("stat"))?.contains(") Z ")
        || fs::read_dir(proc.join("task"))?.count() > 1
    {
        std::thread::yield_now();
    }
    Ok(host)
}

fn rmi_unreachable() -> Outcome {
    let host = root_without_daemon()?;
    let root = host.root();
    without_daemon(root, &["rmi", "base"])?.require(6, "is the parent of one")?;
    assert!(root.join("base").exists());
    let removed = without_daemon(root, &["rmi", "base", "--flatten"])?.done()?;
    assert_eq!(removed, "base (disk (daemon unreachable))\n");
    let listed: Vec<Snapshot> = without_daemon(root, &["images", "--json"])?.json()?;
    assert!(listed.iter().all(|one| one.not_bootable_because.is_none()), "{listed:?}");
    without_daemon(root, &["rmi", "one", "--cascade"])?.done()?;
    assert_eq!(without_daemon(root, &["images", "-q"])?.done()?, "");
    without_daemon(root, &["rmi", "one"])?.require(5, "no snapshot has the tag 'one', neither at")?;
    without_daemon(Path::new("/nonexistent/root"), &["rmi", "one"])?.require(4, "forkd serve")?;
    run(command(&["--socket", "/nonexistent/sock", "rmi", "one"]))?
        .require(4, "only with --snapshot-root, since unix:/nonexistent/sock is not the default socket")?;
    without_daemon(Path::new("/nonexistent/root"), &["images"])?.require(4, "forkd serve")?;
    assert!(!Path::new("/nonexistent/root").exists());
    Ok(())
}

fn rmi_disk() -> Outcome {
    let gone = root_without_daemon()?;
    let host = Host::start()?;
    host.boot("base")?;
    let root = gone.root().display().to_string();
    let removed = forkd(&host, &["rmi", "two", "base", "--snapshot-root", &root])?.done()?;
    // The daemon knows a `base` of its own: that one goes.
    assert_eq!(removed, "two (disk)\nbase (daemon)\n");
    assert_eq!((host.snapshots()?.len(), gone.root().join("base").exists()), (0, true));
    Ok(())
}

fn root_in_use() -> Outcome {
    let host = Host::start()?;
    lineage(&host)?;
    let words = "is in use by another forkd than the one asked";
    without_daemon(host.root(), &["rmi", "two"])?.require(6, words)?;
    assert_eq!(host.snapshots()?.len(), 3);
    Ok(())
}

fn links() -> Outcome {
    let dir = tempfile::tempdir()?;
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    fs::create_dir(&root)?;
    fs::create_dir(&outside)?;
    fs::write(outside.join("kept"), b"kept")?;
    symlink(&outside, root.join("link"))?;
    without_daemon(&root, &["rmi", "link"])?.done()?;
    assert!(root.join("link").symlink_metadata().is_err());
    symlink(outside.join("kept"), root.join("tag"))?;
    for own in [".images", ".staging", ".drives", ".lock"] {
        // Gone, or a directory that holds nothing.
        let _ = fs::remove_dir_all(root.join(own));
        let _ = fs::remove_file(root.join(own));
        symlink(outside.join("kept"), root.join(own))?;
        without_daemon(&root, &["rmi", "tag"])?.require(6, "is a symbolic link")?;
        fs::remove_file(root.join(own))?;
    }
    assert_eq!(fs::read(outside.join("kept"))?, b"kept");
    Ok(())
}

fn sandboxes() -> Outcome {
    let host = Host::start()?;
    let source = lineage(&host)?;
    let branched = forkd(&host, &["branch", &source[..8], "--tag", "three", "--diff"])?.done()?;
    assert!(branched.starts_with("three: paused "), "{branched}");
    for words in ["(diff, stage)", "\n  pause ", "\n  create ", "\n  resume ", "█"] {
        assert!(branched.contains(words), "{branched}");
    }
    let taken: Branch =
        forkd(&host, &["snapshot", "four", "--from-sandbox", &source, "--diff", "--json"])?.json()?;
    assert_eq!((taken.tag.as_str(), &taken.branched_from), ("four", &source));
    let compacted: SnapshotDetail = forkd(&host, &["compact", "two", "--json"])?.json()?;
    assert_eq!((compacted.parent, compacted.dependents), (None, vec!["three".to_owned()]));
    assert!(forkd(&host, &["compact", "two"])?.done()?.starts_with("two is an image of "));

    let forked = forkd(&host, &["fork", "four", "-n", "2"])?.done()?;
    let forked: Vec<&str> = forked.lines().collect();
    assert_eq!(forked.len(), 2);
    let listed: Vec<Sandbox> = forkd(&host, &["ls", "--json"])?.json()?;
    assert!(listed.iter().any(|sandbox| sandbox.id == forked[0] && sandbox.snapshot_tag == "four"));
    let shown = forkd(&host, &["ls"])?.done()?;
    assert!(shown.lines().any(|line| line.starts_with(&source) && line.contains(" running ")), "{shown}");
    let ended =
        forkd(&host, &["kill", forked[0], "sb-none"])?.require(5, "no sandbox has the id 'sb-none'")?;
    assert_eq!(ended.out.trim(), forked[0]);
    assert_eq!(forkd(&host, &["kill", "--all"])?.done()?.lines().count(), 2);
    assert_eq!(forkd(&host, &["ls", "-q"])?.done()?, "");
    Ok(())
}

fn confined() -> Outcome {
    let host = Host::start()?;
    host.boot("base")?;
    let limited = ["fork", "base", "--memory-limit-mib", "96", "--cpu-quota", "0.5", "--json"];
    let forked: Vec<Sandbox> = forkd(&host, &limited)?.json()?;
    assert_eq!((forked[0].memory_limit_mib, forked[0].cpu_quota), (Some(96), Some(0.5)));
    let id = &forked[0].id;
    forkd(&host, &["fork", "base", "--netns", "forkd-no-such"])?.require(6, "namespace 'forkd-no-such'")?;
    forkd(&host, &["fork", "base", "--cpu-quota", "0"])?.require(2, "'cpu_quota' must be")?;

    assert_eq!(forkd(&host, &["pause", &id[..9]])?.done()?, format!("{id}\n"));
    let shown = forkd(&host, &["ls"])?.done()?;
    assert!(shown.lines().any(|line| line.starts_with(id) && line.contains(" paused ")), "{shown}");
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    let listed: Vec<Sandbox> = forkd(&host, &["ls", "--json"])?.json()?;
    assert_eq!((listed[0].state, listed[0].memory_limit_mib), (SandboxState::Paused, Some(96)));
    let partly = forkd(&host, &["resume", "sb-none", id])?.require(5, "no sandbox has the id 'sb-none'")?;
    assert_eq!(partly.out, format!("{id}\n"));
    host.require_running(id)?;
    let paused = forkd(&host, &["pause", id, "absent", "--json"])?;
    assert_eq!(paused.code, Some(5), "{paused:?}");
    let paused: Value = serde_json::from_str(&paused.out)?;
    assert_eq!((&paused[0]["state"], &paused[1]["id"]), (&"paused".into(), &"absent".into()));
    assert!(paused[1]["error"].is_string() && paused[1].get("state").is_none(), "{paused}");
    Ok(())
}

fn rootfs_mode() -> Outcome {
    let host = Host::start()?;
    let (kernel, image) = (host.dir.path().join("guest.elf"), host.dir.path().join("rootfs.img"));
    fs::write(&kernel, guest::IMAGE)?;
    fs::write(&image, vec![5; 1 << 20])?;
    let (kernel, image) = (kernel.display().to_string(), image.display().to_string());
    let boot =
        ["--kernel", &kernel, "--rootfs", &image, "--mem-mib", "32", "--boot-wait-ms", "300", "--json"];
    for (tag, mode, drive_bytes) in [("own", "per-sandbox", Some(1 << 20)), ("shared", "read-only", None)] {
        let arguments = [&["snapshot", tag, "--rootfs-mode", mode][..], &boot].concat();
        let snapshot: Snapshot = forkd(&host, &arguments)?.json()?;
        assert_eq!((snapshot.drive_bytes, snapshot.rootfs.is_none()), (drive_bytes, drive_bytes.is_some()));
    }
    for wrong in
        [&["snapshot", "x", "--rootfs-mode", "per-sandbox"][..], &["snapshot", "x", "--rootfs-mode", "mine"]]
    {
        assert_eq!(forkd(&host, wrong)?.code, Some(2), "{wrong:?}");
    }
    Ok(())
}

fn rmi_cascade() -> Outcome {
    let host = Host::start()?;
    let source = lineage(&host)?;
    // Made within a second or two: the newest is first all the same.
    assert_eq!(forkd(&host, &["images", "-q"])?.done()?, "two\none\nbase\n");
    // What has the name on disk is another snapshot, and stays.
    let other = tempfile::tempdir()?;
    fs::create_dir(other.path().join("one"))?;
    let root = other.path().display().to_string();
    let removed =
        forkd(&host, &["rmi", "base", "one", "two", "--cascade", "--snapshot-root", &root])?.done()?;
    assert_eq!(removed, "base (daemon)\none (daemon, with base)\ntwo (daemon, with base)\n");
    assert!(other.path().join("one").exists());
    host.end(&source)?;
    lineage(&host)?;
    let removed: Value = forkd(&host, &["rmi", "two", "one", "base", "--cascade", "--json"])?.json()?;
    assert!(
        removed.as_array().is_some_and(|all| all.iter().all(|one| one.get("with").is_none())),
        "{removed}"
    );
    let gone = root_without_daemon()?;
    let removed = without_daemon(gone.root(), &["rmi", "one", "two", "absent", "--cascade"])?;
    let removed = removed.require(5, "no snapshot has the tag 'absent'")?;
    let by = "disk (daemon unreachable)";
    assert_eq!(removed.out, format!("one ({by})\ntwo ({by}, with one)\n"));
    Ok(())
}

fn exit_codes() -> Outcome {
    let host = Host::start()?;
    host.boot("base")?;
    forkd(&host, &["snapshot", "base"])?.require(6, "the tag 'base' is taken")?;
    forkd(&host, &["fork", "absent"])?.require(5, "'forkd images' lists")?;
    forkd(&host, &["compact", "absent"])?.require(5, "'forkd images' lists")?;
    forkd(&host, &["branch", "absent"])?.require(5, "'forkd ls' lists")?;
    forkd(&host, &["snapshot", "x", "--mem-mib", "3"])?.require(2, "'mem_mib' must be 16 to 65536")?;
    forkd(&host, &["ls", "--url", "https://x:1"])?.require(2, "http://HOST:PORT")?;
    let url = ["ls", "--url", "http://127.0.0.1:1"];
    forkd(&host, &url)?.require(4, "no answer from http://127.0.0.1:1")?;
    // Clap's own words for what it refuses itself.
    for wrong in
        [&["fork"][..], &["rmi", "../x"], &["branch", "x", "--diff", "--full"], &["snapshot", "x", "--diff"]]
    {
        assert_eq!(forkd(&host, wrong)?.code, Some(2), "{wrong:?}");
    }
    Ok(())
}

fn pages() -> Outcome {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(command(&["completions", shell]))?.done()?;
        assert!(script.contains("images") && script.contains("rmi"), "{shell}");
    }
    let page = run(command(&["man"]))?.done()?;
    assert!(page.contains(".SH \"EXIT STATUS\"") && page.contains("no daemon answers"), "{page}");
    let dir = tempfile::tempdir()?;
    run(command(&["man", "--dir", &dir.path().display().to_string()]))?.done()?;
    assert!(dir.path().join("forkd-images.1").exists() && dir.path().join("forkd.1").exists());
    Ok(())
}

fn history() -> Outcome {
    let host = Host::start()?;
    let source = lineage(&host)?;
    let records: Vec<BranchRecord> =
        forkd(&host, &["history", "--json", "--source", &source[..9]])?.json()?;
    let tags: Vec<&str> = records.iter().map(|record| record.branch.tag.as_str()).collect();
    assert_eq!(tags, ["two", "one"]);
    let shown = forkd(&host, &["history", "--limit", "1"])?.done()?;
    assert_eq!(shown.lines().count(), 2, "{shown}");
    assert!(shown.contains(&records[0].branch.id) && shown.contains(" stage "), "{shown}");
    let id = &records[1].branch.id;
    let one = forkd(&host, &["history", &id[id.len() - 8..]])?.done()?;
    assert!(one.starts_with("one: paused ") && one.contains("\n  create "), "{one}");
    forkd(&host, &["history", "absent"])?.require(5, "'forkd history' lists")?;
    Ok(())
}
