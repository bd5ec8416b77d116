//! The tools that are compared, each started, watched from outside, and stopped in the same way.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reports::offcpu::OffCpu;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use crate::Error;
use crate::host::tools;

/// How long a tool may take to attach, and to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a starting tool is looked at.
const LOOK: Duration = Duration::from_millis(1);

/// Which tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `forkd-probe offcpu`.
    Probe,
    /// libbpf-tools' `offcputime`.
    Offcputime,
    /// A bpftrace script that does the same.
    Bpftrace,
}

/// A tool that was found.
#[derive(Clone, Debug)]
pub struct Tool {
    /// Which.
    pub kind: Kind,
    program: PathBuf,
}

/// One that runs; dropping it ends it.
#[derive(Debug)]
pub struct Running {
    kind: Kind,
    child: Child,
    output: File,
    /// From its start until it was attached.
    pub attached_after: Duration,
}

/// What a tool's BPF programs have cost, as the kernel counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Runs of the program that ran most often.
    pub runs: u64,
    /// Summed time of all programs.
    pub all_ns: u64,
}

/// What a tool left.
#[derive(Debug)]
pub struct Left {
    /// Its report.
    pub output: String,
    /// The most memory that it had resident before it was told to end.
    pub peak_kib: u64,
}

impl Kind {
    /// As tables name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Probe => "forkd-probe",
            Self::Offcputime => "offcputime",
            Self::Bpftrace => "bpftrace",
        }
    }
}

impl Tool {
    /// Ours, and the peers that are there; of each that is not, how to get it.
    pub fn find_all(probe: Option<&Path>) -> Result<(Vec<Self>, Vec<String>), Error> {
        let build = "build it (cargo build --release -p probes), or name it with --probe";
        let ours = Self { kind: Kind::Probe, program: tools::find("forkd-probe", probe, build)? };
        let (mut found, mut skipped) = (vec![ours], Vec::new());
        for (kind, package) in [(Kind::Offcputime, "libbpf-tools"), (Kind::Bpftrace, "bpftrace")] {
            match tools::find(kind.name(), None, &format!("apt-get install {package}")) {
                Ok(program) => found.push(Self { kind, program }),
                Err(error) => skipped.push(format!("{} is left out: {error}", kind.name())),
            }
        }
        Ok((found, skipped))
    }

    /// Starts it on the process `pid`, and waits until it is attached.
    pub async fn start(&self, pid: u32) -> Result<Running, Error> {
        let output = tempfile::tempfile().map_err(Error::file("create", Path::new("a temporary file")))?;
        let stdout = output.try_clone().map_err(Error::file("open", Path::new("a temporary file")))?;
        let begun = Instant::now();
        let child = self
            .command(pid)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::null())
            .spawn()
            .map_err(Error::file("run", &self.program))?;
        let mut running = Running { kind: self.kind, child, output, attached_after: Duration::ZERO };
        while !running.is_attached() {
            let has_ended = running.child.try_wait().is_ok_and(|status| status.is_some());
            if has_ended || begun.elapsed() > PATIENCE {
                return Err(Error::Tool {
                    program: self.kind.name().to_owned(),
                    reason: "it did not attach; run it by hand to see why".to_owned(),
                });
            }
            sleep(LOOK).await;
        }
        running.attached_after = begun.elapsed();
        Ok(running)
    }

    fn command(&self, pid: u32) -> Command {
        let (mut command, pid) = (Command::new(&self.program), pid.to_string());
        match self.kind {
            Kind::Probe => command
                .args(["offcpu", "--stats", "--duration", "600s", "--format", "json", "--pid"])
                .arg(pid),
            Kind::Offcputime => command.arg("-p").arg(pid),
            Kind::Bpftrace => command.arg("-e").arg(script(&pid)),
        };
        command
    }
}

/// Off-CPU time by kernel and user stack, as bpftrace's own collection does it.
fn script(pid: &str) -> String {
    format!(
        "tracepoint:sched:sched_switch {{ \
           if (pid == {pid}) {{ @left[tid] = nsecs; @kernel[tid] = kstack; @user[tid] = ustack; }} \
           $left = @left[args->next_pid]; \
           if ($left) {{ \
             @off[@kernel[args->next_pid], @user[args->next_pid]] = sum(nsecs - $left); \
             delete(@left[args->next_pid]); delete(@kernel[args->next_pid]); delete(@user[args->next_pid]); \
           }} \
         }}"
    )
}

impl Running {
    /// Ours has a thread that reads the events by then; of the others, a program has run.
    fn is_attached(&self) -> bool {
        let pid = self.child.id();
        match self.kind {
            Kind::Probe => {
                let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
                tasks.into_iter().any(|task| {
                    fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm == "forkd-drain\n")
                })
            }
            Kind::Offcputime | Kind::Bpftrace => self.cost().runs > 0,
        }
    }

    /// What its programs have cost so far.
    pub fn cost(&self) -> Cost {
        let infos = fs::read_dir(format!("/proc/{}/fdinfo", self.child.id())).into_iter().flatten().flatten();
        let mut cost = Cost::default();
        for info in infos {
            let text = fs::read_to_string(info.path()).unwrap_or_default();
            cost.runs = cost.runs.max(field(&text, "run_cnt:"));
            cost.all_ns += field(&text, "run_time_ns:");
        }
        cost
    }

    /// Has it report, and end.
    pub async fn stop(mut self) -> Result<Left, Error> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let peak_kib = field(&status, "VmHWM:");
        let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
        let begun = Instant::now();
        while self.child.try_wait().is_ok_and(|status| status.is_none()) {
            if begun.elapsed() > PATIENCE {
                return Err(Error::Tool {
                    program: self.kind.name().to_owned(),
                    reason: "it did not end when it was interrupted".to_owned(),
                });
            }
            sleep(Duration::from_millis(10)).await;
        }
        let mut output = String::new();
        let unreadable = Error::file("read", Path::new("a temporary file"));
        self.output.rewind().and_then(|()| self.output.read_to_string(&mut output)).map_err(unreadable)?;
        Ok(Left { output, peak_kib })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Left {
    /// The report of ours.
    pub fn report(&self) -> Result<OffCpu, Error> {
        serde_json::from_str(&self.output).map_err(|error| Error::Tool {
            program: Kind::Probe.name().to_owned(),
            reason: format!("its report cannot be read: {error}"),
        })
    }

    /// The summed off-CPU time of the threads of this name, in microseconds, from `offcputime`'s report: a line
    /// `- NAME (TID)`, and below it the time.
    pub fn offcputime_us(&self, comm: &str) -> u64 {
        let lines: Vec<&str> = self.output.lines().map(str::trim).collect();
        let is_comm = |line: &str| line.strip_prefix('-').is_some_and(|rest| rest.trim().starts_with(comm));
        let pairs = lines.windows(2).filter(|pair| is_comm(pair[0]));
        pairs.filter_map(|pair| pair[1].parse::<u64>().ok()).sum()
    }
}

/// The number behind the name of a line.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offcputimes_report_is_summed_by_name() {
        let output = "    schedule\n    -                worker (12)\n        40\n\n    -                other (13)\n        5\n\n    \
                      -                worker (14)\n        2\n";
        let left = Left { output: output.to_owned(), peak_kib: 0 };
        assert_eq!(left.offcputime_us("worker"), 42);
    }

    #[test]
    fn numbers_are_read_behind_their_names() {
        let text = "prog_id:\t821\nrun_time_ns:\t954195\nrun_cnt:\t2149\nVmHWM:\t   1200 kB\n";
        let read = ["run_cnt:", "run_time_ns:", "VmHWM:", "none:"].map(|name| field(text, name));
        assert_eq!(read, [2149, 954_195, 1200, 0]);
    }
}
