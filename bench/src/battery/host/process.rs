//! Other processes: stopped for a while, kept on one CPU, or started as a neighbour.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, setpriority_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Error;

/// How the names of a neighbour's process and threads begin; the kernel keeps 15 characters.
pub const NEIGHBOUR: &str = "nb-";

/// A process that is stopped (SIGSTOP). Dropping it lets it go on.
#[derive(Debug)]
pub struct Stopped(Pid);

impl Stopped {
    /// Stops `pid`.
    pub fn stop(pid: u32) -> Result<Self, Error> {
        let pid = process(pid)?;
        signal(pid, Signal::STOP)?;
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = signal(self.0, Signal::CONT);
    }
}

/// A process whose threads are all kept on one CPU. Dropping it lets each use the CPUs that it could before.
#[derive(Debug)]
pub struct OnOneCpu(Vec<(Pid, CpuSet)>);

impl OnOneCpu {
    /// Keeps the threads that `pid` has on the CPU `cpu`, at the ordinary priority.
    pub fn keep(pid: u32, cpu: usize) -> Result<Self, Error> {
        let tasks = format!("/proc/{pid}/task");
        let tids = std::fs::read_dir(&tasks).map_err(Error::file("list", Path::new(&tasks)))?;
        let tids = tids.flatten().filter_map(|tid| tid.file_name().to_str()?.parse().ok());
        let mut kept = Self(Vec::new());
        let mut only = CpuSet::new();
        only.set(cpu);
        for tid in tids.filter_map(Pid::from_raw) {
            let before =
                sched_getaffinity(Some(tid)).map_err(|error| refused("read the CPUs of a thread", error))?;
            sched_setaffinity(Some(tid), &only)
                .map_err(|error| refused("keep a thread on one CPU", error))?;
            kept.0.push((tid, before));
            setpriority_process(Some(tid), 0).map_err(|error| refused("set a thread's priority", error))?;
        }
        Ok(kept)
    }
}

impl Drop for OnOneCpu {
    fn drop(&mut self) {
        for (tid, before) in &self.0 {
            // A thread that has ended has no CPUs.
            let _ = sched_setaffinity(Some(*tid), before);
        }
    }
}

/// A process of the battery's own, which does one thing until its standard input is closed. Dropping it kills it.
#[derive(Debug)]
pub struct Part {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Part {
    /// Starts this program with `arguments` and waits until it says that it is `ready`.
    ///
    /// Call it on the process's main thread: the kernel kills the child with the thread that started it.
    pub fn start<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        let program = Path::new("/proc/self/exe");
        let mut command = Command::new(program);
        command.arg("part").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let die = || Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?);
        // SAFETY: between fork and exec the closure makes one prctl(2) system call; it neither allocates nor takes a
        // lock.
        unsafe { command.pre_exec(die) };
        let mut child = command.spawn().map_err(Error::file("run", program))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both are piped");
        };
        let mut part = Self { child, input, output: BufReader::new(output) };
        match part.line()?.as_str() {
            "ready" => Ok(part),
            said => Err(failed(format!("said '{said}' and not that it is ready"))),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to do its part once more, and gives the line that it answers with.
    pub fn once(&mut self) -> Result<String, Error> {
        writeln!(self.input, "go").map_err(|error| failed(format!("cannot be told to go: {error}")))?;
        self.line()
    }

    /// Tells it to do its part once more, without waiting for the answer.
    pub fn begin(&mut self) -> Result<(), Error> {
        writeln!(self.input, "go").map_err(|error| failed(format!("cannot be told to go: {error}")))
    }

    /// The next line that it says.
    pub fn line(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(0) => Err(failed("ended early".to_owned())),
            Ok(_) => Ok(line.trim().to_owned()),
            Err(error) => Err(failed(format!("cannot be read: {error}"))),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn process(pid: u32) -> Result<Pid, Error> {
    Pid::from_raw(pid.cast_signed()).ok_or_else(|| Error::Usage(format!("{pid} is no process id")))
}

fn signal(pid: Pid, signal: Signal) -> Result<(), Error> {
    kill_process(pid, signal).map_err(|error| refused("signal a process", error))
}

fn refused(what: &str, error: rustix::io::Errno) -> Error {
    Error::Tool { program: "the injection".to_owned(), reason: format!("cannot {what}: {error}") }
}

fn failed(reason: String) -> Error {
    Error::Tool { program: "forkd-bench part".to_owned(), reason }
}
