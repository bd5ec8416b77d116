//! `forkd-bench probe-cost`, and what it leaves on the host.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use testkit::{Finder, Need, Outcome, Test, run};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    const HOST: &[Need] = &[Need::Root, Need::Other(Finder(missing_statistics))];
    run(vec![Test {
        name: "probe_cost::a_signal_puts_the_host_back_and_leaves_no_process",
        needs: HOST,
        run: signalled,
    }])
}

fn missing_statistics() -> Option<String> {
    let is_there = Path::new(STATISTICS).exists();
    (!is_there).then(|| format!("needs the kernel's statistics of BPF programs ({STATISTICS})"))
}

/// What a run changes: whether BPF programs are timed, and whether tracefs is mounted.
fn host() -> Result<(String, bool)> {
    let tracefs = Path::new("/sys/kernel/tracing/events").exists();
    Ok((fs::read_to_string(STATISTICS)?.trim().to_owned(), tracefs))
}

/// Off for the test, and as they were after it.
struct StatisticsOff(String);

impl StatisticsOff {
    fn new() -> Result<Self> {
        let before = fs::read_to_string(STATISTICS)?;
        fs::write(STATISTICS, "0")?;
        Ok(Self(before))
    }
}

impl Drop for StatisticsOff {
    fn drop(&mut self) {
        let _ = fs::write(STATISTICS, &self.0);
    }
}

fn signalled() -> Outcome {
    let _off = StatisticsOff::new()?;
    let before = host()?;
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let folder = tempfile::tempdir()?;
        let mut measuring = Measuring::start(folder.path())?;
        let children = measuring.until_it_measures()?;
        assert_eq!(host()?.0, "1", "programs are timed meanwhile");
        kill_process(Pid::from_child(&measuring.0), signal)?;
        assert_eq!(measuring.until_it_ends()?, Some(130), "{signal:?}");
        assert_eq!(host()?, before, "{signal:?}");
        for child in children {
            assert!(!Path::new(&format!("/proc/{child}")).exists(), "{signal:?} left process {child}");
        }
    }
    Ok(())
}

/// A run; dropping it ends it, and what it has started.
struct Measuring(Child);

impl Measuring {
    /// With a tool that never attaches: it is waited for when the signal comes.
    fn start(folder: &Path) -> Result<Self> {
        let probe = folder.join("forkd-probe");
        fs::write(&probe, "#!/bin/sh\nexec sleep 600\n")?;
        fs::set_permissions(&probe, fs::Permissions::from_mode(0o755))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_forkd-bench"));
        command.args(["probe-cost", "--rounds", "1", "--window-ms", "60000", "--probe"]).arg(probe);
        command.arg("--out").arg(folder.join("out"));
        Ok(Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
    }

    /// Waits until both the watched process and the tool run, and gives their ids.
    fn until_it_measures(&mut self) -> Result<Vec<u32>> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let children = children(self.0.id());
            if children.len() >= 2 {
                return Ok(children);
            }
            if let Some(status) = self.0.try_wait()? {
                return Err(format!("it ended before it measured: {status}").into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err("it does not begin to measure".into())
    }

    fn until_it_ends(&mut self) -> Result<Option<i32>> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status.code());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err("it does not end".into())
    }
}

impl Drop for Measuring {
    fn drop(&mut self) {
        for child in children(self.0.id()) {
            let pid = i32::try_from(child).ok().and_then(Pid::from_raw);
            let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn children(pid: u32) -> Vec<u32> {
    let parent = |stat: &str| stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|child| {
        let stat = fs::read_to_string(format!("/proc/{child}/stat"));
        stat.is_ok_and(|stat| parent(&stat) == Some(pid))
    })
    .collect()
}
