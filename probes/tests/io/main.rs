//! Recordings of programs that write through a file system of their own on a loop device, checked against the
//! programs' own clocks and counts.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

#[path = "../offcpu/subject.rs"]
#[expect(dead_code, reason = "the other binary plays the other roles")]
mod subject;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use probes::io::Session;
use probes::recording::Options;
use probes::target::Target;
use reports::io::{Class, Flow, Io};
use testkit::{LoopExt4, Need, Outcome, Test};

use subject::{Subject, command, say};

const DISK: &[Need] = &[Need::Root, Need::Btf, Need::LoopExt4];
const FOLDER: &str = "FORKD_TEST_FOLDER";
const MIB: usize = 1 << 20;
const SYNCS: u64 = 4;
const WRITTEN_MIB: usize = 16;

fn main() -> ExitCode {
    if let Some(role) = subject::role() {
        play(&role, Path::new(&std::env::var_os(FOLDER).unwrap()));
        return ExitCode::SUCCESS;
    }
    let disk = |name, run| Test { name, needs: DISK, run };
    testkit::run(vec![
        disk("io::syncs_last_as_long_as_by_the_programs_own_clock", own_clock),
        disk("io::bytes_written_are_bytes_completed_on_the_device", own_bytes),
        disk("io::writeback_is_charged_to_the_process_that_dirtied_the_pages", dirtier),
        disk("io::direct_writes_are_the_writers_own_one_by_one", direct),
        disk("io::a_loop_devices_requests_are_on_the_disk_below_again", below),
        disk("io::command_without_a_process_is_about_the_whole_machine", machine),
        disk("io::statistics_of_its_programs_come_with_the_report", statistics),
        Test { name: "io::way_of_seeing_switches_is_refused", needs: &[], run: no_rung },
    ])
}

/// Plays a role in a folder of the file system.
fn play(role: &str, folder: &Path) {
    match role {
        "syncs" => on_command(|| syncs(folder)),
        "dirties" => on_command(|| {
            let mut file = File::create(folder.join("dirtied")).unwrap();
            file.write_all(&vec![7; WRITTEN_MIB * MIB]).unwrap();
            "dirtied".to_owned()
        }),
        "direct" => on_command(|| direct_writes(folder)),
        unknown => panic!("no role {unknown}"),
    }
}

fn on_command(act: impl Fn() -> String) {
    say("ready");
    loop {
        command();
        say(&act());
    }
}

/// Writes and syncs; tells the nanoseconds that the syncs took.
fn syncs(folder: &Path) -> String {
    let mut file = File::create(folder.join("synced")).unwrap();
    let block = vec![7; WRITTEN_MIB * MIB / SYNCS as usize];
    let mut synced_ns = 0;
    for _ in 0..SYNCS {
        file.write_all(&block).unwrap();
        let begun = Instant::now();
        file.sync_all().unwrap();
        synced_ns += begun.elapsed().as_nanos();
    }
    synced_ns.to_string()
}

const DIRECT_WRITES: usize = 32;
const DIRECT_BYTES: usize = 64 << 10;

/// Writes past the page cache, into blocks that are there already, one after the other.
fn direct_writes(folder: &Path) -> String {
    let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let path = folder.join("direct");
    let file = OpenOptions::new().write(true).custom_flags(direct).open(path).unwrap();
    // Aligned as direct I/O must be.
    let block = vec![0u8; 2 * DIRECT_BYTES];
    let begin = block.as_ptr().align_offset(4096);
    for index in 0..DIRECT_WRITES {
        let at = (index * DIRECT_BYTES) as u64;
        file.write_all_at(&block[begin..begin + DIRECT_BYTES], at).unwrap();
    }
    "written".to_owned()
}

/// A file system on a loop device, and a program that writes there.
struct Stage {
    subject: Subject,
    disk: LoopExt4,
    _folder: tempfile::TempDir,
}

impl Stage {
    fn new(role: &str) -> Self {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let disk = LoopExt4::mount(folder.path(), 128, "").unwrap();
        // Whole and on disk before anything is measured.
        let prepared = File::create(disk.path().join("direct")).unwrap();
        (&prepared).write_all(&vec![1; DIRECT_WRITES * DIRECT_BYTES]).unwrap();
        prepared.sync_all().unwrap();
        let subject = Subject::start_with(role, &[(FOLDER, disk.path().as_os_str())]);
        Self { subject, disk, _folder: folder }
    }

    fn attach(&self) -> Session {
        let targets = vec![Target::find(self.subject.pid(), false).unwrap()];
        Session::attach(targets, &Options::default()).unwrap()
    }

    fn device(&self) -> String {
        let device = fs::metadata(self.disk.path()).unwrap().st_dev();
        format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.disk.path().join(name)
    }
}

fn assert_sound(report: &Io) {
    for cause in ["ring_full", "undecodable", "unaccounted", "dirtier_uncounted"] {
        assert_eq!(report.loss[cause], 0, "{cause}: {:?}", report.loss);
    }
}

/// What the subject is charged with on its device.
fn flow<'a>(report: &'a Io, stage: &Stage) -> &'a Flow {
    let (pid, device) = (stage.subject.pid(), stage.device());
    let flow = report.flows.iter().find(|flow| flow.pid == pid && flow.device == device);
    flow.unwrap_or_else(|| panic!("nothing of {pid} on {device}: {report:#?}"))
}

fn class<'a>(flow: &'a Flow, name: &str) -> &'a Class {
    let class = flow.classes.iter().find(|class| class.class == name);
    class.unwrap_or_else(|| panic!("no {name}: {flow:#?}"))
}

/// Bytes of data that were written, whoever waited for them.
fn written_bytes(flow: &Flow) -> u64 {
    let writes = flow.classes.iter().filter(|class| class.class.ends_with("write"));
    writes.map(|class| class.bytes).sum()
}

fn own_clock() -> Outcome {
    let mut stage = Stage::new("syncs");
    let session = stage.attach();
    stage.subject.go();
    let own_ns: u64 = stage.subject.answer().parse()?;
    let report = session.finish(&[])?;
    assert_sound(&report);
    let inode = fs::metadata(stage.file("synced"))?.st_ino();
    let sync = report.syncs.first().ok_or("no sync")?;
    assert_eq!((sync.inode, sync.device.clone()), (inode, stage.device()), "{sync:#?}");
    assert_eq!((sync.times.histogram.count(), sync.data_only, sync.in_flight_at_end), (SYNCS, 0, 0));
    // The tracepoints lie inside the system call, a scheduler's delay at most from its ends; other programs may make
    // that delay long.
    let ns = sync.times.ns;
    assert!(ns <= own_ns && ns > own_ns / 4, "{ns} of {own_ns}");
    let journal = report.journals.iter().find(|journal| journal.device == stage.device());
    let journal = journal.ok_or("no commit, though the file grew")?;
    let phases_ns = journal.locking.ns + journal.flushing.ns + journal.logging.ns;
    assert!(phases_ns <= journal.total.ns && journal.total.max_ns <= report.window_ns, "{journal:#?}");
    Ok(())
}

fn own_bytes() -> Outcome {
    let mut stage = Stage::new("syncs");
    let session = stage.attach();
    stage.subject.go();
    stage.subject.answer();
    let report = session.finish(&[])?;
    assert_sound(&report);
    let flow = flow(&report, &stage);
    // A folio that is written back while it grows becomes dirty once more, as a whole.
    assert!(flow.dirtied_bytes >= (WRITTEN_MIB * MIB) as u64, "{flow:#?}");
    assert_eq!(written_bytes(flow), (WRITTEN_MIB * MIB) as u64, "{flow:#?}");
    for class in &flow.classes {
        assert_eq!(class.total.count(), class.requests, "{class:#?}");
        assert_eq!((class.errors.len(), class.in_flight_at_end), (0, 0), "{class:#?}");
    }
    let allocated = report.allocations.iter().find(|one| one.pid == stage.subject.pid());
    assert!(allocated.is_some_and(|one| one.blocks >= 1 && one.failed == 0), "{:#?}", report.allocations);
    Ok(())
}

/// Somebody else syncs the file system: kernel threads and that process make the requests.
fn dirtier() -> Outcome {
    let mut stage = Stage::new("dirties");
    let session = stage.attach();
    stage.subject.go();
    stage.subject.answer();
    let synced = Command::new("sync").arg("-f").arg(stage.disk.path()).status()?;
    assert!(synced.success());
    let report = session.finish(&[])?;
    assert_sound(&report);
    let flow = flow(&report, &stage);
    assert_eq!(written_bytes(flow), (WRITTEN_MIB * MIB) as u64, "{flow:#?}");
    for class in flow.classes.iter().filter(|class| class.class.ends_with("write")) {
        let by_others: u64 = class.submitted_by.values().sum();
        assert_eq!(by_others, class.requests, "the subject made none itself: {class:#?}");
    }
    Ok(())
}

fn direct() -> Outcome {
    let mut stage = Stage::new("direct");
    let session = stage.attach();
    stage.subject.go();
    stage.subject.answer();
    let report = session.finish(&[])?;
    assert_sound(&report);
    let flow = flow(&report, &stage);
    let writes = class(flow, "sync write");
    assert_eq!(
        (writes.requests, writes.bytes),
        (DIRECT_WRITES as u64, (DIRECT_WRITES * DIRECT_BYTES) as u64)
    );
    assert!(writes.submitted_by.is_empty(), "{writes:#?}");
    assert!(writes.device.ns > 0 && writes.device.ns <= report.window_ns, "one at a time: {writes:#?}");
    assert!(!report.slowest.is_empty());
    Ok(())
}

fn below() -> Outcome {
    let mut stage = Stage::new("syncs");
    let session = stage.attach();
    stage.subject.go();
    stage.subject.answer();
    let report = session.finish(&[])?;
    let id = stage.device();
    let device = report.devices.iter().find(|device| device.device == id).ok_or("no device")?;
    assert!(device.name.starts_with("loop"), "{device:#?}");
    assert!(device.backing_file.as_ref().is_some_and(|file| file.ends_with("ext4.img")), "{device:#?}");
    let below = device.backing_device.as_ref().ok_or("nothing below")?;
    assert_ne!(*below, id);
    Ok(())
}

fn machine() -> Outcome {
    let mut stage = Stage::new("syncs");
    let written = tempfile::NamedTempFile::new()?;
    let arguments = ["io", "--duration", "3s", "--format", "json", "-o"];
    let mut probe = Command::new(env!("CARGO_BIN_EXE_forkd-probe"));
    let mut probe = probe.args(arguments).arg(written.path()).spawn()?;
    // The program writes for as long as somebody may be recording, however long that takes to begin.
    let status = loop {
        if let Some(status) = probe.try_wait()? {
            break status;
        }
        stage.subject.go();
        stage.subject.answer();
    };
    assert!(status.success());
    let report: Io = serde_json::from_slice(&fs::read(written.path())?)?;
    assert!(report.processes.is_empty());
    assert!(report.syncs.iter().any(|sync| sync.pid == stage.subject.pid()), "{:#?}", report.syncs);
    assert!(flow(&report, &stage).classes.iter().any(|class| class.class == "sync write"));
    Ok(())
}

fn statistics() -> Outcome {
    let mut stage = Stage::new("syncs");
    let targets = vec![Target::find(stage.subject.pid(), false)?];
    let session = Session::attach(targets, &Options { stats: true, ..Options::default() })?;
    stage.subject.go();
    stage.subject.answer();
    let report = session.finish(&[])?;
    let cost = report.cost.as_ref().ok_or("no cost")?;
    let completed = cost.programs.iter().find(|program| program.name == "block_rq_complete");
    let completed = completed.ok_or("no program")?;
    let classes = &flow(&report, &stage).classes;
    let requests: u64 = classes.iter().map(|class| class.requests - class.in_flight_at_end).sum();
    assert!(requests > 0 && completed.runs >= requests && completed.run_ns > 0, "{requests}: {cost:#?}");
    let table = reports::io::render(&report, reports::Format::Table)?;
    assert!(String::from_utf8_lossy(&table).contains("\n  block_rq_complete"));
    Ok(())
}

fn no_rung() -> Outcome {
    let output =
        Command::new(env!("CARGO_BIN_EXE_forkd-probe")).args(["io", "--attach", "tp_btf"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.lines().count() == 1 && said.contains("io sees none") && said.contains("tp_btf and"),
        "{said}"
    );
    Ok(())
}
