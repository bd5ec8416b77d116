//! A recording of where processes' threads wait, from attach to report.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use reports::offcpu::{Cost, OffCpu, SCHEMA};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::aggregate::{Tables, Totals};
use crate::drain::{Drain, Gathered, Sink};
use crate::error::{AttachError, FinishError};
use crate::interval::{Seed, SeedState, Windows};
use crate::load::{Probes, Target};
use crate::proc;
use crate::symbolize::{Symbolizer, hidden_kernel_symbols};
use crate::unwind::{Stack, UserStacks};

/// Where the switches come from, as reports name it.
const ATTACH: &str = "tp_btf/sched_switch";

/// How to record.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the ring buffer in bytes: a power of two, and a multiple of the page size.
    pub ring_bytes: u32,
    /// Leave off-CPU intervals shorter than this out of the report's stacks; its threads count them.
    pub min_ns: u64,
    /// Keep every interval until the end, so that [`Session::finish_in`] can cut them to windows that are
    /// not known before. Costs memory for each switch; without it, intervals are summed at once.
    pub keep_intervals: bool,
    /// Report what the recording cost. While it lasts, the kernel times every BPF program on the host.
    pub stats: bool,
    /// Allow the watched process to be the one that records.
    pub watch_self: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { ring_bytes: 8 << 20, min_ns: 0, keep_intervals: false, stats: false, watch_self: false }
    }
}

/// A recording of one process, which goes on until it is finished or dropped.
///
/// A thread named `forkd-drain` reads the events; the caller need not do anything meanwhile, and may be
/// on any thread, with or without an async runtime. Dropping the session detaches everything.
#[derive(Debug)]
pub struct Session {
    pid: u32,
    comm: String,
    process: OwnedFd,
    start_ns: u64,
    attach_ns: u64,
    options: Options,
    warnings: Vec<String>,
    /// `None` once it is finished: dropping the sender tells the reader to end.
    reader: Option<Reader>,
}

/// The thread that reads the ring buffer.
#[derive(Debug)]
struct Reader {
    stop: Sender<()>,
    thread: JoinHandle<Result<Gathered, AttachError>>,
}

/// How many records a finished session saw: for tests and for `--stats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordCount {
    /// That the kernel side tried to write.
    pub attempted: u64,
    /// That came.
    pub received: u64,
}

impl Session {
    /// Attaches, and records from when this returns (from [`Session::start_ns`], to be exact).
    ///
    /// # Errors
    /// [`AttachError`] says what was refused, and what to do about it. Nothing is left attached.
    pub fn attach(pid: u32, options: Options) -> Result<Self, AttachError> {
        let begun_ns = proc::monotonic_ns();
        let process = check_target(pid, &options)?;
        let mut probes = Probes::attach(options.ring_bytes)?;
        if options.stats {
            probes.count_runs()?;
        }
        let (mut user, unreadable) = user_stacks_of(pid);
        let armed_ns = proc::monotonic_ns();
        probes.arm(&[Target { pid, code: user.code_spans() }])?;
        let start_ns = proc::monotonic_ns();
        let registers = probes.sleepers();
        let mut unwind = |tid, ip, stack: Stack<'_>| user.add_sleeper(ip, registers.get(&tid), stack);
        let seeds =
            proc::seeds(pid, &mut unwind).map_err(|error| gone_or(pid, "listing its threads", error))?;
        let mut warnings = warnings_at_start(&seeds);
        warnings.extend(unreadable);
        let sink = if options.keep_intervals {
            Sink::Intervals(Vec::new())
        } else {
            Sink::Totals(Totals::new(options.min_ns))
        };
        let drain = Drain::new(probes, (pid, user), armed_ns, start_ns, seeds, sink);
        let reader = spawn(drain)?;
        let comm = proc::process_comm(pid);
        let attach_ns = proc::monotonic_ns() - begun_ns;
        Ok(Self { pid, comm, process, start_ns, attach_ns, options, warnings, reader: Some(reader) })
    }

    /// When the recording began, in nanoseconds of CLOCK_MONOTONIC.
    pub const fn start_ns(&self) -> u64 {
        self.start_ns
    }

    /// A pidfd: it polls readable when the watched process has ended.
    pub fn process(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    /// Ends the recording, and reports on all of it.
    ///
    /// # Errors
    /// [`FinishError::Drain`] where the recording had ended by itself.
    pub fn finish(self) -> Result<OffCpu, FinishError> {
        self.finish_counted().map(|(report, _)| report)
    }

    /// As [`Session::finish`], with how many records there were.
    ///
    /// # Errors
    /// As [`Session::finish`].
    pub fn finish_counted(mut self) -> Result<(OffCpu, RecordCount), FinishError> {
        let gathered = self.stop()?;
        let windows = Windows::new(&[(self.start_ns, gathered.end_ns)])?;
        let count = RecordCount { attempted: gathered.attempted, received: gathered.received };
        Ok((self.report(gathered, &windows), count))
    }

    /// Ends the recording, and reports on these windows of it only: (start, end) pairs in nanoseconds of
    /// CLOCK_MONOTONIC, in any order.
    ///
    /// # Errors
    /// [`FinishError::NotKept`] without [`Options::keep_intervals`]; [`FinishError::Windows`] where they
    /// are empty or overlap; [`FinishError::OutsideRecording`] where they reach beyond the recording.
    pub fn finish_in(mut self, windows: &[(u64, u64)]) -> Result<OffCpu, FinishError> {
        if !self.options.keep_intervals {
            return Err(FinishError::NotKept);
        }
        let windows = Windows::new(windows)?;
        let gathered = self.stop()?;
        let (start_ns, end_ns) = windows.bounds();
        if start_ns < self.start_ns || end_ns > gathered.end_ns {
            return Err(FinishError::OutsideRecording {
                start_ns,
                end_ns,
                recorded_start_ns: self.start_ns,
                recorded_end_ns: gathered.end_ns,
            });
        }
        Ok(self.report(gathered, &windows))
    }

    fn stop(&mut self) -> Result<Gathered, FinishError> {
        let Reader { stop, thread } =
            self.reader.take().ok_or_else(|| FinishError::Drain("stopped before".into()))?;
        drop(stop);
        match thread.join() {
            Ok(Ok(gathered)) => Ok(gathered),
            Ok(Err(error)) => Err(FinishError::Drain(error.to_string())),
            Err(_) => Err(FinishError::Drain("its thread panicked".into())),
        }
    }

    fn report(&mut self, gathered: Gathered, windows: &Windows) -> OffCpu {
        let cost = self.options.stats.then(|| Cost {
            attach_ns: self.attach_ns,
            peak_resident_bytes: proc::peak_resident_bytes(),
            records: gathered.received,
            user_stacks: gathered.user.len() as u64,
            programs: gathered.programs,
        });
        let totals = match gathered.sink {
            Sink::Totals(totals) => totals,
            Sink::Intervals(intervals) => {
                let mut totals = Totals::new(self.options.min_ns);
                for interval in &intervals {
                    windows.clip(interval, &mut |part| totals.add(&part));
                }
                totals
            }
        };
        let mut warnings = std::mem::take(&mut self.warnings);
        warnings.extend(hidden_kernel_symbols());
        warnings.extend(unpaired(&gathered.loss));
        warnings.extend(left_out(totals.shorter(), self.options.min_ns));
        let Tables { threads, stacks } = totals.tables(&gathered.notes, &mut Symbolizer::new(gathered.user));
        OffCpu {
            schema: SCHEMA.to_owned(),
            pid: self.pid,
            comm: self.comm.clone(),
            window_ns: windows.total_ns(),
            windows: windows.len() as u32,
            attach: ATTACH.to_owned(),
            loss: gathered.loss,
            warnings,
            threads,
            stacks,
            cost,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Waits until the programs are detached: whoever drops a session may rely on it.
        let _ = self.stop();
    }
}

fn check_target(pid: u32, options: &Options) -> Result<OwnedFd, AttachError> {
    let group = proc::thread_group(pid).map_err(|error| gone_or(pid, "reading its status", error))?;
    if group != pid {
        return Err(AttachError::Thread { tid: pid, pid: group });
    }
    if pid == std::process::id() && !options.watch_self {
        return Err(AttachError::Ourselves(pid));
    }
    let raw = Pid::from_raw(pid.cast_signed()).ok_or(AttachError::NoSuchProcess(pid))?;
    pidfd_open(raw, PidfdFlags::empty()).map_err(|error| gone_or(pid, "opening it", error.into()))
}

/// A process that ends while it is looked at shows in as many ways as there are ways to look.
fn gone_or(pid: u32, what: &str, source: io::Error) -> AttachError {
    let is_gone = source.kind() == io::ErrorKind::NotFound
        || source.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error());
    if is_gone {
        AttachError::NoSuchProcess(pid)
    } else {
        AttachError::System { what: format!("process {pid}: {what}"), source }
    }
}

fn spawn(drain: Drain) -> Result<Reader, AttachError> {
    let (stop, told) = mpsc::channel();
    let thread = thread::Builder::new()
        .name("forkd-drain".to_owned())
        .spawn(move || drain.run(&told))
        .map_err(|source| AttachError::System { what: "starting the reader's thread".to_owned(), source })?;
    Ok(Reader { stop, thread })
}

/// With the process's files, or why there will be no user stacks. That is no reason not to record.
fn user_stacks_of(pid: u32) -> (UserStacks, Option<String>) {
    match UserStacks::of(pid) {
        Ok(stacks) => (stacks, None),
        Err(error) => {
            let why = format!("no user stacks: /proc/{pid}/maps cannot be read ({error})");
            (UserStacks::default(), Some(why))
        }
    }
}

fn warnings_at_start(seeds: &[Seed]) -> Vec<String> {
    let asleep = |seed: &&Seed| matches!(seed.state, SeedState::Waiting(_));
    let without_stack = seeds.iter().filter(asleep).filter(|seed| seed.kernel.is_none()).count();
    if without_stack == 0 {
        return Vec::new();
    }
    vec![format!(
        "{without_stack} of the threads asleep at the start show no kernel stack: /proc/PID/stack needs CAP_SYS_ADMIN"
    )]
}

/// Some hosts hide the switches of their own service threads from every tracer.
fn unpaired(loss: &BTreeMap<String, u64>) -> Option<String> {
    let count = loss.get("unpaired_switches").copied().filter(|count| *count > 0)?;
    Some(format!(
        "{count} switches went unreported by the kernel's own tracepoint: the waits around them are counted as \
         longer than they were, and marked as truncated"
    ))
}

fn left_out(shorter: u64, min_ns: u64) -> Option<String> {
    (shorter > 0).then(|| {
        format!(
            "{shorter} off-CPU intervals shorter than {} us are in the threads' sums and not among the stacks",
            min_ns / 1000
        )
    })
}
