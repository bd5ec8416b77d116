//! Why a session cannot begin or end. Each message says what was refused, why, and what to do.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::btf::BtfError;
use crate::interval::WindowsError;

/// Why nothing can be recorded.
#[derive(Debug, Error)]
pub enum AttachError {
    /// There is no such process, or it has just ended.
    #[error("no process {0}: it does not exist, or has ended; check the id with `ps`")]
    NoSuchProcess(u32),
    /// No process has this id here, and one in a container knows itself by it.
    #[error(
        "no process {inside}: inside a pid namespace of its own, process {outside} has that id; \
         give the id that this host knows, {outside}"
    )]
    InsideNamespace {
        /// The id that was given.
        inside: u32,
        /// The id that the host knows.
        outside: u32,
    },
    /// The id is that of a thread.
    #[error("{tid} is a thread of process {pid}: watch the process, with {pid}")]
    Thread {
        /// The id that was given.
        tid: u32,
        /// The process it belongs to.
        pid: u32,
    },
    /// A recorder that watches itself records its own recording.
    #[error("{0} is this process itself, whose own recording would fill the report: set Options::watch_self")]
    Ourselves(u32),
    /// No process, or more than the kernel side has room for.
    #[error("{0} processes to watch; at least 1 and at most {max} can be", max = probes_common::MAX_TARGETS)]
    Targets(usize),
    /// Ids seen here are not those that the kernel records.
    #[error(
        "process ids here belong to a pid namespace of their own, and the kernel records those of the host: \
         run this on the host, or in a container with --pid=host"
    )]
    PidNamespace,
    /// Loading BPF programs that trace the kernel needs capabilities.
    #[error(
        "BPF is refused to this process: it lacks {0}; run it as root, or grant what it lacks with setcap; \
         `forkd-probe stacks` needs no BPF"
    )]
    Capability(&'static str),
    /// Sampling other processes needs a capability, or a host that allows it to all.
    #[error(
        "sampling is refused to this user (kernel.perf_event_paranoid is {paranoid}): run as root, grant CAP_PERFMON \
         with setcap, or set it to 0 or less; `forkd-probe stacks` needs neither"
    )]
    Sampling {
        /// `kernel.perf_event_paranoid`.
        paranoid: String,
    },
    /// The kernel cannot sample as it was asked to.
    #[error(
        "the kernel cannot sample so ({reason}); kernel.perf_event_max_sample_rate is {limit}: ask for fewer with --frequency"
    )]
    SamplingFailed {
        /// Why not.
        reason: io::Error,
        /// The most samples a second.
        limit: String,
    },
    /// Lockdown in confidentiality mode hides kernel memory from BPF.
    #[error(
        "BPF may not read kernel memory: kernel lockdown is in confidentiality mode; boot with lockdown=integrity or less"
    )]
    Lockdown,
    /// The kernel carries no type information.
    #[error("this kernel has no type information at {path} ({source}): it needs CONFIG_DEBUG_INFO_BTF=y", path = KERNEL_BTF)]
    NoBtf {
        /// What reading it came to.
        source: io::Error,
    },
    /// The kernel's type information lacks what the programs need.
    #[error("this kernel's type information does not serve: {0}; Linux 5.18 or newer does")]
    Btf(#[from] BtfError),
    /// A tracepoint hands out other arguments than the programs were written for.
    #[error(
        "tracepoint {name} hands out {found} arguments and {expected} are needed: Linux 5.18 or newer has them"
    )]
    Tracepoint {
        /// The tracepoint.
        name: &'static str,
        /// How many it hands out here.
        found: usize,
        /// How many the program reads.
        expected: usize,
    },
    /// The object named by `FORKD_BPF_OBJECT` cannot be read.
    #[error("the BPF object {path} named by FORKD_BPF_OBJECT cannot be read: {source}")]
    Object {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel, or the loader, refused the object.
    #[error("the kernel refused the BPF object: {0}")]
    Load(String),
    /// The kernel refused one program.
    #[error("the kernel refused the BPF program {program}: {reason}")]
    Program {
        /// The program.
        program: &'static str,
        /// The loader's whole chain of reasons.
        reason: String,
    },
    /// No way of seeing switches is to be had.
    #[error("this kernel lets nobody see its switches: {0}; `forkd-probe stacks` needs no BPF")]
    NoRung(String),
    /// Waits in the throttle are not to be seen in the way that was asked for.
    #[error("this kernel does not let waits be seen by {way}: {reason}; see them in another way, or in any")]
    Way {
        /// The way.
        way: &'static str,
        /// Why not.
        reason: String,
    },
    /// A filter of system calls would kill the process where the function returns.
    #[error(
        "process {pid} filters its system calls (seccomp), and on this kernel, {kernel}, the filter sees a watched \
         function's return as one and may kill the process (mended in Linux 6.12.14 and 6.13.3): bound windows by \
         signals or by time"
    )]
    ReturnProbe {
        /// The process.
        pid: u32,
        /// `uname -r`.
        kernel: String,
    },
    /// Threads of other processes are known by their ids only.
    #[error(
        "the whole machine cannot be recorded by `tracepoint`, which names a thread by its id only: use another rung"
    )]
    MachineByTracepoint,
    /// The object lacks a map or program that this crate knows.
    #[error("the BPF object has no {0}: it was built from other sources; rebuild it with `cargo xtask ebpf`")]
    Missing(&'static str),
    /// A map could not be used.
    #[error("the BPF map {map} cannot be used: {reason}")]
    Map {
        /// The map.
        map: &'static str,
        /// The loader's whole chain of reasons.
        reason: String,
    },
    /// Anything else that the system refused.
    #[error("{what}: {source}")]
    System {
        /// What was asked for.
        what: String,
        /// Why not.
        source: io::Error,
    },
}

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What was asked for cannot be done anywhere.
    Input,
    /// This host, or this user's rights on it, do not allow it.
    Host,
    /// Ours.
    Internal,
}

impl AttachError {
    /// Whose fault it is.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::NoSuchProcess(_)
            | Self::InsideNamespace { .. }
            | Self::Thread { .. }
            | Self::Ourselves(_)
            | Self::Targets(_)
            | Self::MachineByTracepoint
            | Self::Object { .. } => Fault::Input,
            Self::PidNamespace
            | Self::Sampling { .. }
            | Self::SamplingFailed { .. }
            | Self::Capability(_)
            | Self::Lockdown
            | Self::NoBtf { .. }
            | Self::Btf(_)
            | Self::Tracepoint { .. }
            | Self::Load(_)
            | Self::NoRung(_)
            | Self::Way { .. }
            | Self::ReturnProbe { .. }
            | Self::Program { .. } => Fault::Host,
            Self::Missing(_) | Self::Map { .. } | Self::System { .. } => Fault::Internal,
        }
    }
}

/// Where the kernel shows its own type information.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Why a report cannot be made of what was recorded.
#[derive(Debug, Error)]
pub enum FinishError {
    /// The windows cannot be used.
    #[error(transparent)]
    Windows(#[from] WindowsError),
    /// The session summed as it went, and kept no intervals to cut.
    #[error("this session keeps sums only: set Options::keep_intervals to cut the report to windows")]
    NotKept,
    /// A window lies outside the recorded time.
    #[error(
        "the windows span {start_ns} to {end_ns} ns, and only {recorded_start_ns} to {recorded_end_ns} ns were recorded"
    )]
    OutsideRecording {
        /// Start of the first window.
        start_ns: u64,
        /// End of the last window.
        end_ns: u64,
        /// When recording began.
        recorded_start_ns: u64,
        /// When it ended.
        recorded_end_ns: u64,
    },
    /// The thread that reads the ring buffer ended early.
    #[error("the recording ended by itself: {0}")]
    Drain(String),
}
