//! The command line: one command a file.

pub mod attend;
pub mod doctor;
mod ending;
pub mod explain;
mod frame;
pub mod futex;
pub mod io;
mod messages;
pub mod offcpu;
pub mod oncpu;
mod output;
pub mod record;
pub mod report;
pub mod stacks;
pub mod syscalls;
pub mod wbt;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use probes::explain::ExplainError;
use probes::launch::LaunchError;
use probes::{AttachError, Fault};
use reports::RenderError;

const EXIT_CODES: &str = "\
Exit codes:
  0  the report was written
  1  something failed that should not have
  2  what was asked for cannot be done: bad arguments, no such process, a file that cannot be written or read
  3  this host or this user's rights do not allow it: capabilities, kernel without BTF, lockdown

Environment:
  FORKD_BPF_OBJECT  load this BPF object in place of the built-in one
  DEBUGINFOD_URLS   servers that are asked for symbols of binaries that have none here, once nothing is recorded
  DEBUGINFOD_CACHE_PATH, DEBUGINFOD_MAXTIME (seconds, 90), DEBUGINFOD_MAXSIZE (bytes)  of what they give";

/// Where the time of a process goes.
#[derive(Debug, Parser)]
#[command(name = "forkd-probe", version, after_help = EXIT_CODES)]
pub struct Arguments {
    /// What to record.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Where the time of a pause, a call or any other window went: every stretch with its cause
    #[command(after_help = EXIT_CODES)]
    Explain(explain::ExplainCommand),
    /// Where a process's threads wait: asleep, preempted or queued for a CPU, by stack and waker
    #[command(after_help = EXIT_CODES)]
    Offcpu(offcpu::Offcpu),
    /// Who waits on which futex, for how long, and who wakes: contention told from passive waiting
    #[command(after_help = EXIT_CODES)]
    Futex(futex::Futex),
    /// System calls by thread: count, errors, and time on a CPU, asleep and queued
    #[command(after_help = EXIT_CODES)]
    Syscalls(syscalls::Syscalls),
    /// Everything that `offcpu`, `futex`, `syscalls`, `io` and `wbt` would see, to a file that another machine can
    /// report on
    #[command(after_help = EXIT_CODES)]
    Record(record::Record),
    /// A report on a file that `record` wrote, here or elsewhere
    #[command(after_help = EXIT_CODES)]
    Report(report::Report),
    /// Writeback throttling: who is held back where and for how long, and whose dirty pages fill the queue
    #[command(after_help = EXIT_CODES)]
    Wbt(wbt::Wbt),
    /// Block I/O: requests by process with their time in the queue and at the device, what was ahead of the slow
    /// ones, syncs, journal commits, allocations, and pauses for dirtying too much
    #[command(after_help = EXIT_CODES)]
    Io(io::Io),
    /// What this host offers: each command and each way of attaching, tried
    #[command(after_help = EXIT_CODES)]
    Doctor(doctor::Doctor),
    /// Where threads run, by samples: cycles on every kind of core, or a clock
    #[command(after_help = EXIT_CODES)]
    Oncpu(oncpu::Oncpu),
    /// What threads are seen at in /proc, look after look: needs no BPF
    #[command(after_help = EXIT_CODES)]
    Stacks(stacks::Stacks),
    /// Holds the probes for a daemon, which starts it by itself
    #[command(hide = true)]
    Attend(attend::Attend),
}

/// An error that is the caller's to mend, though no library says so.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadInput(pub String);

/// The exit code that `--help` documents for this error.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    let is_input = error.downcast_ref::<BadInput>().is_some()
        || error.downcast_ref::<LaunchError>().is_some()
        || matches!(error.downcast_ref(), Some(RenderError::NoStacks));
    let fault = if is_input {
        Fault::Input
    } else {
        let attach = error.downcast_ref::<AttachError>().map(AttachError::fault);
        let explain = error.downcast_ref::<ExplainError>().map(ExplainError::fault);
        attach.or(explain).unwrap_or(Fault::Internal)
    };
    ExitCode::from(match fault {
        Fault::Internal => 1,
        Fault::Input => 2,
        Fault::Host => 3,
    })
}
