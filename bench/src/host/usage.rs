//! What the host did while a sweep was measured: time the hypervisor took, and what processes took that have no
//! part in the sweep.

use std::collections::HashSet;
use std::fs;
use std::time::Instant;

use crate::judge::Host;

/// Flag of kernel threads in `/proc/PID/stat` (PF_KTHREAD of include/linux/sched.h).
const KERNEL_THREAD: u64 = 0x0020_0000;
const MIB: f64 = (1 << 20) as f64;

/// Counters of the host at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    at: Instant,
    processors: Processors,
    foreign: Foreign,
}

/// Ticks of all processors since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Processors {
    all: u64,
    stolen: u64,
}

/// Sums over processes that have no part in the sweep. Kernel threads are left out: they work for whoever writes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Foreign {
    ticks: u64,
    written_bytes: u64,
}

/// One process, as `/proc/PID/stat` tells.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Process {
    pid: u32,
    parent: u32,
    kernel_thread: bool,
    /// Its own time and that of its children that it has waited for.
    ticks: u64,
}

impl Usage {
    /// The counters now. This process and all that descend from `daemon` have part in the sweep.
    pub fn now(daemon: Option<u32>) -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let processors = Processors::parse(&stat).unwrap_or_default();
        let processes = processes();
        let own = own(&processes, daemon);
        let others = processes.iter().filter(|process| !process.kernel_thread && !own.contains(&process.pid));
        let mut foreign = Foreign::default();
        for process in others {
            foreign.ticks += process.ticks;
            foreign.written_bytes += written_bytes(process.pid);
        }
        Self { at: Instant::now(), processors, foreign }
    }

    /// What the host did since `self`, with `dirty_mib` of memory to be written back at the begin and `free_mib` of
    /// space at the end.
    pub fn until(&self, end: &Self, dirty_mib: f64, free_mib: f64) -> Host {
        let all = end.processors.all.saturating_sub(self.processors.all).max(1) as f64;
        let stolen = end.processors.stolen.saturating_sub(self.processors.stolen) as f64;
        // The time of a process that nobody waited for goes with it.
        let ticks = end.foreign.ticks.saturating_sub(self.foreign.ticks) as f64;
        let written = end.foreign.written_bytes.saturating_sub(self.foreign.written_bytes) as f64;
        let seconds = end.at.duration_since(self.at).as_secs_f64().max(1e-3);
        Host {
            steal_share: Some(stolen / all),
            foreign_cpu_share: Some((ticks / all).min(1.0)),
            foreign_written_mib_s: Some(written / MIB / seconds),
            dirty_mib: Some(dirty_mib),
            free_mib: Some(free_mib),
            space_was_low: false,
        }
    }
}

impl Processors {
    /// The first line of /proc/stat: user nice system idle iowait irq softirq steal; guest time is in user.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|ticks| ticks.parse().ok()).collect();
        Some(Self { all: ticks.iter().sum(), stolen: *ticks.get(7)? })
    }
}

impl Process {
    /// Fields by their numbers in proc(5); the name, which may hold anything, ends with the last bracket.
    fn parse(stat: &str) -> Option<Self> {
        let pid = stat.split(' ').next()?.parse().ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            pid,
            parent: u32::try_from(field(4)?).ok()?,
            kernel_thread: field(9)? & KERNEL_THREAD != 0,
            ticks: (14..=17).map(field).sum::<Option<u64>>()?,
        })
    }
}

fn processes() -> Vec<Process> {
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = folders.filter_map(|folder| folder.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Process::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).collect()
}

fn own(processes: &[Process], daemon: Option<u32>) -> HashSet<u32> {
    let mut own: HashSet<u32> = daemon.into_iter().collect();
    loop {
        let children = processes.iter().filter(|process| own.contains(&process.parent));
        let found: Vec<u32> = children.map(|child| child.pid).filter(|pid| !own.contains(pid)).collect();
        if found.is_empty() {
            own.insert(std::process::id());
            return own;
        }
        own.extend(found);
    }
}

/// What a process and the children that it has waited for wrote to file systems with a disk.
fn written_bytes(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{Process, Processors, Usage, own};

    #[test]
    fn the_lines_of_proc_are_read() {
        let stat = "cpu  10 1 20 300 5 0 4 7 3 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(Processors::parse(stat), Some(Processors { all: 347, stolen: 7 }));
        let line = "42 (a) b (c) S 7 42 42 0 -1 2097216 1 2 3 4 100 20 3 4 20 0 1 0 9 9 9";
        let expected = Process { pid: 42, parent: 7, kernel_thread: true, ticks: 127 };
        assert_eq!(Process::parse(line), Some(expected));
        assert_eq!(Process::parse("42 (cut"), None);
    }

    #[test]
    fn what_descends_from_the_daemon_has_part_in_the_sweep() {
        let process = |pid, parent| Process { pid, parent, kernel_thread: false, ticks: 0 };
        let processes = [process(12, 11), process(11, 10), process(10, 1), process(20, 1)];
        let mut own: Vec<u32> = own(&processes, Some(10)).into_iter().collect();
        own.retain(|pid| *pid != std::process::id());
        own.sort_unstable();
        assert_eq!(own, [10, 11, 12]);
    }

    #[test]
    fn shares_are_shares_of_what_passed() {
        let begin = Usage::now(None);
        let end = Usage::now(None);
        let host = begin.until(&end, 3.0, 4.0);
        assert!(host.foreign_cpu_share.is_some_and(|share| (0.0..=1.0).contains(&share)), "{host:?}");
        assert_eq!((host.dirty_mib, host.free_mib), (Some(3.0), Some(4.0)));
    }
}
