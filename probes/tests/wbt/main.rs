//! Recordings of a program that writeback throttling holds back on a file system of its own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

#[path = "../offcpu/subject.rs"]
#[expect(dead_code, reason = "the other binary plays the other roles")]
mod subject;

use std::fs::{self, File};
use std::io::Write;
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use probes::host::AttachKind;
use probes::recording::Options;
use probes::target::Target;
use probes::wbt::{Session, Way};
use reports::wbt::Wbt;
use testkit::{Finder, LoopExt4, Need, Outcome, Test};

use subject::{Subject, command, say};

const THROTTLED: &[Need] = &[Need::Root, Need::Btf, Need::LoopExt4, Need::WritebackThrottling];
const BY_FENTRY: &[Need] = &[
    Need::Root,
    Need::Btf,
    Need::LoopExt4,
    Need::WritebackThrottling,
    Need::Other(Finder(|| refusal(AttachKind::Fentry))),
];
const BY_KPROBE: &[Need] = &[
    Need::Root,
    Need::Btf,
    Need::LoopExt4,
    Need::WritebackThrottling,
    Need::Other(Finder(|| refusal(AttachKind::Kprobe))),
];
const FOLDER: &str = "FORKD_TEST_FOLDER";
const PAGE: usize = 4096;
/// Pages of the file; every other one is written, so that no two requests are one.
const PAGES: usize = 8192;

fn main() -> ExitCode {
    if let Some(role) = subject::role() {
        play(&role, Path::new(&std::env::var_os(FOLDER).unwrap()));
        return ExitCode::SUCCESS;
    }
    let throttled = |name, run| Test { name, needs: THROTTLED, run };
    testkit::run(vec![
        throttled("wbt::a_writer_is_held_back_for_part_of_its_own_sync_and_its_stack_says_where", || {
            held_back(None, "")
        }),
        Test {
            name: "by_rung::wbt_waits::fentry",
            needs: BY_FENTRY,
            run: || held_back(Some(Way::Fentry), "fentry/wbt_wait"),
        },
        Test {
            name: "by_rung::wbt_waits::kprobe",
            needs: BY_KPROBE,
            run: || held_back(Some(Way::Kprobe), "kprobe/wbt_wait"),
        },
        throttled("by_rung::wbt_waits::stacks", || held_back(Some(Way::Stacks), "the stacks")),
        throttled("wbt::the_dirty_pages_are_the_writers_and_the_device_has_a_target", dirty_pages),
    ])
}

/// Why this kernel has no such hook: found without the programs that are tested here.
fn refusal(kind: AttachKind) -> Option<String> {
    kind.try_on_this_host().err().map(|refusal| format!("needs {kind}: {refusal}"))
}

fn play(role: &str, folder: &Path) {
    assert_eq!(role, "scatters");
    say("ready");
    loop {
        command();
        say(&scatter(&folder.join("scattered")));
    }
}

/// Writes every other page of a file whose blocks are there, and syncs; tells the nanoseconds that the sync took.
fn scatter(path: &Path) -> String {
    let file = File::options().write(true).open(path).unwrap();
    for page in (0..PAGES).step_by(2) {
        file.write_all_at(&[9; PAGE], (page * PAGE) as u64).unwrap();
    }
    let begun = Instant::now();
    file.sync_all().unwrap();
    begun.elapsed().as_nanos().to_string()
}

struct Recorded {
    report: Wbt,
    own_ns: u64,
    pid: u32,
    device: String,
}

fn record(way: Option<Way>) -> Recorded {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let disk = LoopExt4::mount(folder.path(), 128, "").unwrap();
    let mut file = File::create(disk.path().join("scattered")).unwrap();
    file.write_all(&vec![1; PAGES * PAGE]).unwrap();
    file.sync_all().unwrap();
    let mut subject = Subject::start_with("scatters", &[(FOLDER, disk.path().as_os_str())]);
    let targets = vec![Target::find(subject.pid(), false).unwrap()];
    let session = Session::attach_by(targets, &Options::default(), way).unwrap();
    subject.go();
    let own_ns = subject.answer().parse().unwrap();
    let report = session.finish(&[]).unwrap();
    let device = fs::metadata(disk.path()).unwrap().st_dev();
    let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    Recorded { report, own_ns, pid: subject.pid(), device }
}

fn held_back(way: Option<Way>, rung: &str) -> Outcome {
    let Recorded { report, own_ns, pid, device } = record(way);
    let waits: Vec<_> = report.waits.iter().filter(|waits| waits.device.as_ref() == Some(&device)).collect();
    let [waits] = waits[..] else { panic!("one thread waits for {device}: {:#?}", report.waits) };
    assert_eq!((waits.pid, waits.tid), (pid, pid));
    assert!(waits.times.histogram.count() >= 1, "{waits:#?}");
    assert!(waits.times.ns > 0 && waits.times.ns <= own_ns, "{} of {own_ns}", waits.times.ns);
    assert!(waits.run_queue_ns <= waits.times.ns && waits.times.max_ns <= waits.times.ns, "{waits:#?}");
    let stack = waits.stacks.first().ok_or("no stack")?;
    for function in ["rq_qos_wait", "wbt_wait"] {
        assert!(stack.kernel.iter().any(|frame| frame == function), "no {function}: {stack:#?}");
    }
    assert!(stack.kernel.iter().any(|frame| frame.contains("ext4_sync_file")), "{stack:#?}");
    assert!(!stack.user.is_empty(), "{stack:#?}");
    assert!(!report.rung.is_empty() && report.rung.starts_with(rung), "{}", report.rung);
    Ok(())
}

fn dirty_pages() -> Outcome {
    let Recorded { report, pid, device, .. } = record(None);
    let state = report.devices.iter().find(|state| state.device == device).ok_or("no device")?;
    assert!(state.name.starts_with("loop") && state.target_ns.is_some_and(|ns| ns > 0), "{state:#?}");
    let writer = report.writers.iter().find(|writer| writer.pid == pid && writer.device == device);
    let writer = writer.ok_or("no writer")?;
    let written = (PAGES / 2 * PAGE) as u64;
    // Dirty are whole folios, of which a file system may write a part, and then again when another part is dirtied.
    assert!(writer.dirtied_bytes >= written, "{writer:#?}");
    // No page more than once. Most of them: on a busy host the kernel may begin to write back before the sync does.
    let charged = writer.classes.iter().map(|class| class.bytes).sum::<u64>();
    assert!(charged <= written && charged >= written / 10 * 9, "{charged} of {written}: {writer:#?}");
    Ok(())
}
