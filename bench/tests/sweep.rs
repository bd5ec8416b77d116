//! `forkd-bench sweep` on real microVMs, from the command line to the files.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use bench::host::mountinfo;
use bench::work::Work;
use reports::offcpu::OffCpu;
use reports::run::Run;
use reports::sweep::{Sweep, read};
use rustix::process::{Pid, Signal, kill_process};
use testkit::{Need, Outcome, Test, run};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    const VM: &[Need] = &[Need::Root, Need::Kvm, Need::Firecracker, Need::LoopExt4];
    const ROOTS: &[Need] =
        &[Need::Root, Need::Kvm, Need::Firecracker, Need::LoopExt4, Need::LoopXfs, Need::LoopBtrfs];
    const THROTTLE: &[Need] = &[Need::Root, Need::Kvm, Need::Firecracker, Need::LoopExt4, Need::DiskThrottle];
    const PROBE: &[Need] = &[Need::Root, Need::Kvm, Need::Firecracker, Need::LoopExt4, Need::Btf];
    let test = |name, needs, run| Test { name, needs, run };
    run(vec![
        test("sweep::every_branch_of_every_cell_is_a_row", VM, every_branch_of_every_cell_is_a_row),
        test("sweep::sigint_leaves_whole_files_and_nothing_else", VM, sigint_leaves_whole_files),
        test("sweep::sigkill_leaves_nothing_after_the_next_start", VM, sigkill_leaves_nothing),
        test("sweep::a_running_daemon_is_left_as_it_was", VM, a_running_daemon_is_left_as_it_was),
        test("sweep::the_slowest_cell_is_run_again_under_the_probe", PROBE, the_slowest_cell_is_probed),
        test("sweep::every_root_is_made_and_taken_away", ROOTS, every_root_is_made_and_taken_away),
        test("sweep::what_was_cut_off_is_gone_on_with", VM, what_was_cut_off_is_gone_on_with),
        test("sweep::a_throttled_disk_is_as_slow_as_asked", THROTTLE, a_throttled_disk_is_as_slow_as_asked),
        test("sweep::a_neighbour_works_beside_and_goes", VM, a_neighbour_works_beside_and_goes),
        test("sweep::a_missing_firecracker_is_exit_3", &[Need::Root, Need::Kvm], missing_firecracker),
        test("sweep::a_daemon_that_is_not_there_is_exit_1", &[], a_daemon_that_is_not_there),
        test("sweep::a_result_is_not_overwritten", VM, a_result_is_not_overwritten),
    ])
}

/// Folders of one test, and how it calls the program.
struct Bench {
    _folder: tempfile::TempDir,
    work: PathBuf,
    out: PathBuf,
}

impl Bench {
    fn new() -> Result<Self> {
        // On the disk: /tmp may be a tmpfs, which has no room for guests.
        let folder = tempfile::Builder::new().prefix("forkd-bench-test-").tempdir_in("/var/tmp")?;
        let path = folder.path().canonicalize()?;
        Ok(Self { _folder: folder, work: path.join("work"), out: path.join("out") })
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forkd-bench"));
        command.args(["sweep", "--mem-mib", "64", "--dirty-pages", "256"]);
        command.arg("--work-dir").arg(&self.work).arg("--out").arg(&self.out);
        command.args(arguments.split_whitespace());
        command
    }

    fn sweep(&self) -> Result<Sweep> {
        Ok(read("sweep.csv", fs::File::open(self.out.join("sweep.csv"))?)?)
    }

    fn run_json(&self) -> Result<Run> {
        Ok(serde_json::from_slice(&fs::read(self.out.join("run.json"))?)?)
    }

    fn assert_nothing_left(&self) -> Outcome {
        let mounts = mountinfo::below(&self.work)?;
        assert!(mounts.is_empty(), "{mounts:?}");
        let processes = processes_that_name(&self.work);
        assert!(processes.is_empty(), "{processes:?}");
        Ok(())
    }
}

/// The daemon that the program finds beside itself.
fn forkd() -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_forkd-bench")).with_file_name("forkd");
    match path.is_file() {
        true => Ok(path),
        false => Err(format!("{} is missing: cargo build -p forkd", path.display()).into()),
    }
}

fn expect_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Command lines that mention `folder`: the daemon and its microVMs do.
fn processes_that_name(folder: &Path) -> Vec<String> {
    let name = folder.to_string_lossy().into_owned();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(&name))
        .collect()
}

/// Starts a long sweep, and waits for its second BRANCH.
fn start_and_wait(bench: &Bench) -> Result<Child> {
    start_at(bench, "naive@ext4-loop")
}

fn start_at(bench: &Bench, place: &str) -> Result<Child> {
    let arguments = &format!("--cell {place} --branches 40 --gap-ms 50");
    let mut child = bench.command(arguments).stderr(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let lines = BufReader::new(child.stderr.take().ok_or("no output")?).lines();
    let mut seen = String::new();
    for line in lines {
        let line = line?;
        if line.contains("BRANCH 2:") {
            return Ok(child);
        }
        seen += &(line + "\n");
    }
    Err(format!("it ended without a second BRANCH: {seen}").into())
}

fn every_branch_of_every_cell_is_a_row() -> Outcome {
    forkd()?;
    let bench = Bench::new()?;
    let output = bench.command("--root ext4-loop,tmpfs --branches 2 --gap-ms 0").output()?;
    expect_code(&output, 0);
    let sweep = bench.sweep()?;
    let mut rows: Vec<_> = sweep.samples.iter().map(|row| (row.cell.as_str(), row.branch_idx)).collect();
    rows.sort_unstable();
    let cells = ["fallocate@ext4-loop", "fallocate@tmpfs", "naive@ext4-loop", "naive@tmpfs"];
    assert_eq!(rows, cells.map(|cell| [(cell, 1), (cell, 2)]).concat());
    let run = bench.run_json()?;
    for row in &sweep.samples {
        assert_eq!(row.file_system, row.root.trim_end_matches("-loop"));
        // What the guest was told to dirty is in each diff, and not the whole guest.
        assert!((256 * 4096..16 << 20).contains(&row.diff_physical_bytes), "{row:?}");
        let stopped: u64 = row.phases_ns[1..4].iter().sum();
        assert!((stopped as f64 / 1e6 - row.pause_ms).abs() < 1.0, "{row:?}");
        let seen = &row.circumstances;
        assert_eq!((seen.run_id.as_str(), seen.mode.as_str()), (run.run_id.as_str(), "diff"));
        assert_eq!(seen.start_unix_ns / 1_000_000, row.start_unix_ms);
        assert!(seen.call_ns as f64 / 1e6 >= row.pause_ms, "{row:?}");
        assert_eq!(seen.disk_written_bytes.is_some(), row.root == "ext4-loop", "{row:?}");
    }
    assert!(sweep.samples.is_sorted_by_key(|row| (row.circumstances.order, row.circumstances.start_unix_ns)));
    let spent = run.spent.ok_or("no account of the time")?;
    let calls_ns: u64 = sweep.samples.iter().map(|row| row.circumstances.call_ns).sum();
    assert!(spent.branches_ns == calls_ns && calls_ns + spent.drain_ns < spent.wall_ns, "{spent:?}");
    assert!(!run.interrupted && run.error.is_none(), "{run:?}");
    assert_eq!(run.cells.iter().map(|cell| cell.samples).sum::<u64>(), 8);
    // In the order in which the cells took their turns.
    let on_disk = run.roots.iter().find(|root| root.root == "ext4-loop").ok_or("no root on a disk")?;
    assert!(on_disk.device.is_some() && run.versions.firecracker.is_some(), "{run:?}");
    assert!(fs::read(bench.out.join("sweep.png"))?.starts_with(b"\x89PNG"));
    assert!(String::from_utf8_lossy(&output.stdout).contains("pause_ms by BRANCH"));
    bench.assert_nothing_left()
}

fn sigint_leaves_whole_files() -> Outcome {
    forkd()?;
    let bench = Bench::new()?;
    let mut child = start_and_wait(&bench)?;
    kill_process(Pid::from_child(&child), Signal::INT)?;
    assert_eq!(child.wait()?.code(), Some(130));
    assert!((2..40).contains(&bench.sweep()?.samples.len()));
    assert!(bench.run_json()?.interrupted);
    assert!(bench.out.join("sweep.png").exists());
    bench.assert_nothing_left()
}

fn sigkill_leaves_nothing() -> Outcome {
    forkd()?;
    let bench = Bench::new()?;
    let mut child = start_and_wait(&bench)?;
    child.kill()?;
    child.wait()?;
    // The kernel tells the daemon, and the daemon ends its microVMs: also without a next start.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !processes_that_name(&bench.work).is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(processes_that_name(&bench.work).is_empty(), "{:?}", processes_that_name(&bench.work));
    Work::take(&bench.work)?;
    bench.assert_nothing_left()
}

fn a_running_daemon_is_left_as_it_was() -> Outcome {
    let bench = Bench::new()?;
    fs::create_dir_all(bench.work.join("snapshots"))?;
    let socket = bench.work.join("d.sock");
    let mut daemon = Command::new(forkd()?);
    daemon.arg("serve").arg("--socket").arg(&socket).arg("--run-dir").arg(bench.work.join("run"));
    daemon.arg("--data-dir").arg(bench.work.join("data"));
    daemon.arg("--snapshot-root").arg(bench.work.join("snapshots"));
    daemon.arg("--firecracker").arg(testkit::firecracker().ok_or("no firecracker")?);
    let mut daemon = daemon.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    while !socket.exists() {
        assert!(daemon.try_wait()?.is_none(), "the daemon ended at start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let url = format!("--url unix:{} --data-path naive --branches 2 --gap-ms 0", socket.display());
    let output = bench.command(&url).output();
    let left = fs::read_dir(bench.work.join("snapshots"))?.flatten().map(|entry| entry.file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with("bench-")).collect();
    kill_process(Pid::from_child(&daemon), Signal::TERM)?;
    daemon.wait()?;
    expect_code(&output?, 0);
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(bench.sweep()?.cells(), ["naive@daemon"]);
    bench.assert_nothing_left()
}

fn the_slowest_cell_is_probed() -> Outcome {
    forkd()?;
    let bench = Bench::new()?;
    // Both on a disk: whichever is the slower one, its pauses wait for it.
    let arguments = "--cell naive@ext4-loop,fallocate@ext4-loop --branches 2 --gap-ms 0 --offcpu-slowest";
    expect_code(&bench.command(arguments).output()?, 0);
    let report: OffCpu = serde_json::from_slice(&fs::read(bench.out.join("offcpu.json"))?)?;
    let probed = read("offcpu-sweep.csv", fs::File::open(bench.out.join("offcpu-sweep.csv"))?)?;
    assert_eq!(probed.samples.len(), 2);
    assert_eq!(bench.sweep()?.samples.len(), 4, "a probed BRANCH is no sample of the sweep");
    let paused_ms: f64 = probed.samples.iter().map(|sample| sample.pause_ms).sum();
    assert!((report.window_ns as f64 / 1e6 - paused_ms).abs() < 1e-3, "{report:?}");
    // The guest's memory is synced to a disk inside each pause, by Firecracker's main thread.
    let fsync = |frame: &String| frame.contains("fsync");
    let waits = report.stacks.iter().any(|stack| stack.tid == report.pid && stack.kernel.iter().any(fsync));
    assert!(waits, "{report:?}");
    assert_user_stacks_are_whole(&report);
    for name in ["offcpu.svg", "offcpu.txt", "offcpu.folded"] {
        assert!(fs::metadata(bench.out.join(name))?.len() > 0, "{name}");
    }
    bench.assert_nothing_left()
}

/// From where a thread began to the system call, through Firecracker's own function for it.
fn assert_user_stacks_are_whole(report: &OffCpu) {
    let user = report.stacks.iter().filter(|stack| !stack.user.is_empty());
    let (mut all_ns, mut whole_ns) = (0, 0);
    for stack in user.clone() {
        all_ns += stack.ns;
        whole_ns += if stack.user_truncated { 0 } else { stack.ns };
    }
    assert!(whole_ns * 100 >= all_ns * 99, "{whole_ns} of {all_ns} ns whole: {report:?}");
    let in_snapshot = |frame: &String| frame == "vmm::persist::create_snapshot";
    let snapshot = user.clone().find(|stack| stack.user.iter().any(in_snapshot)).expect("a snapshot's stack");
    assert_eq!(snapshot.user.last().map(String::as_str), Some("_start"), "{snapshot:?}");
    let vcpu = user.clone().find(|stack| stack.comm.starts_with("fc_vcpu")).expect("a stack of the vCPU");
    assert_eq!(vcpu.user.last().map(String::as_str), Some("start"), "{vcpu:?}");
}

fn every_root_is_made_and_taken_away() -> Outcome {
    forkd()?;
    let bench = Bench::new()?;
    let folder = bench.work.with_file_name("folder");
    fs::create_dir(&folder)?;
    let places = format!("naive@xfs-loop,stage@btrfs-loop,naive@folder:{}", folder.display());
    let output =
        bench.command(&format!("--cell {places} --branches 1 --gap-ms 0 --mode diff,full")).output()?;
    expect_code(&output, 0);
    let sweep = bench.sweep()?;
    assert_eq!(sweep.samples.len(), 3 * 2);
    for row in &sweep.samples {
        match row.root.as_str() {
            "xfs-loop" => assert_eq!(row.file_system, "xfs"),
            "btrfs-loop" => assert_eq!(row.file_system, "btrfs"),
            root => assert_eq!(root, "folder"),
        }
        // A full BRANCH writes all of the guest's memory, a diff what was dirtied.
        let is_full = row.diff_physical_bytes > 32 << 20;
        assert_eq!(row.circumstances.mode, if is_full { "full" } else { "diff" }, "{row:?}");
        assert!(row.cell.ends_with(&row.circumstances.mode), "{row:?}");
    }
    // A btrfs has a number of its own; the loop device is found all the same.
    let run = bench.run_json()?;
    let on_loop = run.roots.iter().filter(|root| root.root != "folder");
    assert!(
        on_loop
            .clone()
            .all(|root| root.device.as_ref().is_some_and(|device| device.name.starts_with("loop")))
    );
    assert_eq!(fs::read_dir(&folder)?.count(), 0);
    bench.assert_nothing_left()
}

fn what_was_cut_off_is_gone_on_with() -> Outcome {
    forkd()?;
    let bench = Bench::new()?;
    let mut child = start_at(&bench, "naive@tmpfs")?;
    kill_process(Pid::from_child(&child), Signal::INT)?;
    assert_eq!(child.wait()?.code(), Some(130));
    let (cut_off, first) = (bench.sweep()?, bench.run_json()?);
    let output = Command::new(env!("CARGO_BIN_EXE_forkd-bench"))
        .args(["sweep", "--resume"])
        .arg(&bench.out)
        .arg("--work-dir")
        .arg(&bench.work)
        .output()?;
    expect_code(&output, 0);
    let (sweep, run) = (bench.sweep()?, bench.run_json()?);
    assert!(sweep.samples.iter().map(|row| row.branch_idx).eq(1..=40));
    assert_eq!((&run.run_id, &run.plan), (&first.run_id, &first.plan));
    assert!(!run.interrupted && run.resumed_unix_ms.len() == 1, "{run:?}");
    let kept = read("sweep-cut-off.csv", fs::File::open(bench.out.join("sweep-cut-off.csv"))?)?;
    assert_eq!(kept, cut_off, "what was measured before the interruption is kept");
    bench.assert_nothing_left()
}

fn a_throttled_disk_is_as_slow_as_asked() -> Outcome {
    forkd()?;
    let bench = Bench::new()?;
    let output = bench.command("--cell naive@ext4-loop --branches 2 --gap-ms 0 --disk-bps 2M").output()?;
    expect_code(&output, 0);
    for row in bench.sweep()?.samples {
        assert_eq!(row.circumstances.disk_bps, Some(2_000_000));
        // 1 MiB is written and synced within the pause: half a second at that speed, less what the kernel lets through
        // at first.
        assert!(row.pause_ms > 250.0, "{row:?}");
    }
    let device = bench.run_json()?.roots.into_iter().find_map(|root| root.device).ok_or("no device")?;
    assert!(device.name.starts_with("loop"), "{device:?}");
    assert!(!bench.work.join("throttles").exists(), "the limit is still written down");
    bench.assert_nothing_left()
}

fn a_neighbour_works_beside_and_goes() -> Outcome {
    forkd()?;
    let bench = Bench::new()?;
    let arguments = "--cell stage@ext4-loop --branches 2 --gap-ms 300 --neighbour none,fsync";
    expect_code(&bench.command(arguments).output()?, 0);
    let sweep = bench.sweep()?;
    assert_eq!(sweep.samples.len(), 4);
    for row in sweep.samples.iter().filter(|row| row.circumstances.neighbour == "fsync") {
        assert!(row.circumstances.disk_written_bytes.is_some_and(|bytes| bytes > 0), "{row:?}");
    }
    assert!(bench.run_json()?.warnings.iter().all(|warning| !warning.contains("neighbour")));
    bench.assert_nothing_left()
}

fn missing_firecracker() -> Outcome {
    let bench = Bench::new()?;
    let output = bench.command("--firecracker /nonexistent --forkd /bin/true").output()?;
    expect_code(&output, 3);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        said.trim(),
        "forkd-bench: /nonexistent is not a file: name firecracker with --firecracker PATH"
    );
    Ok(())
}

fn a_daemon_that_is_not_there() -> Outcome {
    let bench = Bench::new()?;
    let output = bench.command("--url unix:/nonexistent").output()?;
    expect_code(&output, 1);
    assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1);
    assert!(bench.run_json()?.error.is_some_and(|error| error.contains("unix:/nonexistent")));
    assert!(!bench.out.join("sweep.csv").exists(), "a second try into the same folder must not be refused");
    Ok(())
}

fn a_result_is_not_overwritten() -> Outcome {
    forkd()?;
    let bench = Bench::new()?;
    fs::create_dir_all(&bench.out)?;
    fs::write(bench.out.join("sweep.csv"), "precious")?;
    expect_code(&bench.command("").output()?, 2);
    assert_eq!(fs::read(bench.out.join("sweep.csv"))?, b"precious");
    Ok(())
}
