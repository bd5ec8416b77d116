//! Recordings of a program that writes to a file system of its own, reported on as they end, and again from their
//! files.

use std::fs::{self, File};
use std::io::Write;
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use probes::target::Target;
use probes::{io as requests, wbt as throttling};
use reports::io::Io;
use reports::wbt::Wbt;
use tempfile::TempDir;
use testkit::{LoopExt4, Outcome};

use crate::equal::{file, options};
use crate::files::{assert_refused, probe, recording, report};
use crate::subject::{Subject, command, say};

const FOLDER: &str = "FORKD_TEST_FOLDER";
const PAGE: usize = 4096;
/// Pages of the file; every other one is written, so that no two requests are one.
const PAGES: usize = 8192;

/// Writes every other page of a file whose blocks are there, and syncs, on command.
pub fn play() {
    let folder = std::env::var_os(FOLDER).unwrap();
    let path = Path::new(&folder).join("scattered");
    say("ready");
    loop {
        command();
        let file = File::options().write(true).open(&path).unwrap();
        for page in (0..PAGES).step_by(2) {
            file.write_all_at(&[9; PAGE], (page * PAGE) as u64).unwrap();
        }
        file.sync_all().unwrap();
        say("synced");
    }
}

/// The file system, and the program.
struct Stage {
    subject: Subject,
    disk: LoopExt4,
    _folder: TempDir,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let disk = LoopExt4::mount(folder.path(), 128, "").unwrap();
        let mut file = File::create(disk.path().join("scattered")).unwrap();
        file.write_all(&vec![1; PAGES * PAGE]).unwrap();
        file.sync_all().unwrap();
        let subject = Subject::start_with("writes", &[(FOLDER, disk.path().as_os_str())]);
        Self { subject, disk, _folder: folder }
    }

    fn targets(&self) -> Vec<Target> {
        vec![Target::find(self.subject.pid(), false).unwrap()]
    }

    fn write(&mut self) {
        self.subject.go();
        self.subject.answer();
    }

    fn device(&self) -> String {
        let device = fs::metadata(self.disk.path()).unwrap().st_dev();
        format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device))
    }
}

pub fn io() -> Outcome {
    let mut stage = Stage::new();
    let (keep, read) = file()?;
    let session = requests::Session::attach(stage.targets(), &options(keep))?;
    stage.write();
    let live = session.finish(&[])?;
    let (pid, device) = (stage.subject.pid(), stage.device());
    let flow = live.flows.iter().find(|flow| flow.pid == pid && flow.device == device).ok_or("no flow")?;
    assert!(flow.dirtied_bytes >= (PAGES / 2 * PAGE) as u64, "{flow:#?}");
    assert!(live.syncs.iter().any(|sync| sync.pid == pid), "{live:#?}");
    assert_eq!(requests::replay(read, false, &[])?, live);
    Ok(())
}

pub fn wbt() -> Outcome {
    let mut stage = Stage::new();
    let (keep, read) = file()?;
    let session = throttling::Session::attach(stage.targets(), &options(keep))?;
    stage.write();
    let live = session.finish(&[])?;
    let (pid, device) = (stage.subject.pid(), stage.device());
    assert!(live.waits.iter().any(|waits| waits.pid == pid && !waits.stacks.is_empty()), "{live:#?}");
    assert!(live.writers.iter().any(|flow| flow.pid == pid && flow.dirtied_bytes > 0), "{live:#?}");
    let state = live.devices.iter().find(|state| state.device == device).ok_or("no device")?;
    assert!(state.target_ns.is_some(), "{state:#?}");
    assert_eq!(throttling::replay(read, false, &[])?, live);
    Ok(())
}

/// The device is gone when the reports are made: they are another machine's.
pub fn reports_elsewhere() -> Outcome {
    let mut stage = Stage::new();
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("recording");
    let pid = stage.subject.pid();
    let mut recorder = probe(&["record", "--duration", "3s", "--pid", &pid.to_string(), "-o"]);
    let mut recorder = recorder.arg(&path).spawn()?;
    // The program writes for as long as somebody may be recording, however long that takes to begin.
    let status = loop {
        if let Some(status) = recorder.try_wait()? {
            break status;
        }
        stage.write();
    };
    assert!(status.success());
    let device = stage.device();
    drop(stage);
    let io = report(&path, &["--as", "io", "--format", "json"])?;
    let io: Io = serde_json::from_slice(&io.stdout)?;
    assert!(io.syncs.iter().any(|sync| sync.pid == pid), "{io:#?}");
    let known = io.devices.iter().find(|known| known.device == device).ok_or("no device")?;
    assert!(known.name.starts_with("loop") && known.backing_file.is_some(), "{known:#?}");
    let wbt = report(&path, &["--as", "wbt", "--format", "json"])?;
    let wbt: Wbt = serde_json::from_slice(&wbt.stdout)?;
    let stacks = wbt.waits.iter().filter(|waits| waits.pid == pid).flat_map(|waits| &waits.stacks);
    let kernel: Vec<_> = stacks.flat_map(|stack| &stack.kernel).collect();
    assert!(kernel.iter().any(|frame| *frame == "wbt_wait"), "{wbt:#?}");
    for (kind, format) in [("io", "svg"), ("io", "table"), ("wbt", "svg"), ("wbt", "folded")] {
        let output = report(&path, &["--as", kind, "--format", format])?;
        assert!(output.status.success() && output.stdout.len() > 100, "{kind} {format}: {output:?}");
    }
    Ok(())
}

pub fn left_out() -> Outcome {
    let (_folder, path) = recording("pipes", &["--devices", "none"])?;
    assert!(report(&path, &["--as", "offcpu"])?.status.success());
    let words = "was recorded with --devices none, and this report needs --devices io";
    assert_refused(&report(&path, &["--as", "io"])?, 2, words);
    let (_folder, path) = recording("pipes", &["--devices", "io"])?;
    assert!(report(&path, &["--as", "io"])?.status.success());
    assert_refused(&report(&path, &["--as", "wbt"])?, 2, "this report needs --devices wbt");
    Ok(())
}
