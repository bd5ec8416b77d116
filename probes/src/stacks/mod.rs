//! Looks at threads through `/proc`, again and again: for hosts that refuse BPF.

mod look;
mod role;
mod tally;

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use reports::stacks::{SCHEMA, Source, Stacks};

pub use role::role;
pub use tally::{Look, Tally};

use crate::error::{AttachError, FinishError};
use crate::proc::{self, monotonic_ns};
use crate::recording;
use crate::target::Target;

/// What looks from time to time cannot tell, whatever they show.
const LIMITS: [&str; 3] = [
    "counts are looks, not times: what happens between two looks is not seen, and what repeats in step with \
     them is seen too often or never",
    "threads that have nothing to do are seen at every look, and stand above those that matter",
    "a thread seen waiting is a waiter: that it contends for something is shown by `forkd-probe futex`, not here",
];

/// A recording by looks, which goes on until it is finished or dropped.
#[derive(Debug)]
pub struct Session {
    targets: Vec<Target>,
    interval: Duration,
    poller: Option<Poller>,
}

#[derive(Debug)]
struct Poller {
    stop: Sender<()>,
    thread: JoinHandle<Polled>,
}

#[derive(Debug, Default)]
struct Polled {
    tally: Tally,
    rounds: u64,
    late_rounds: u64,
    window_ns: u64,
}

impl Session {
    /// Looks at every thread of `targets` each `interval`, from when this returns.
    ///
    /// # Errors
    /// [`AttachError::System`] where no thread can be started.
    pub fn start(targets: Vec<Target>, interval: Duration) -> Result<Self, AttachError> {
        let pids: Vec<u32> = targets.iter().map(Target::pid).collect();
        let (stop, told) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("forkd-poll".to_owned())
            .spawn(move || poll(&pids, interval, &told))
            .map_err(|source| AttachError::System {
                what: "starting the poller's thread".to_owned(),
                source,
            })?;
        Ok(Self { targets, interval, poller: Some(Poller { stop, thread }) })
    }

    /// The watched processes.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Ends the recording, and reports on `tids`, or on every thread where that is empty.
    ///
    /// # Errors
    /// [`FinishError::Drain`] where the recording had ended by itself.
    pub fn finish(mut self, tids: &[u32]) -> Result<Stacks, FinishError> {
        let Some(Poller { stop, thread }) = self.poller.take() else {
            return Err(FinishError::Drain("stopped before".into()));
        };
        drop(stop);
        let polled = thread.join().map_err(|_| FinishError::Drain("its thread panicked".into()))?;
        let source = polled.tally.source();
        let comm = |pid| {
            let target = self.targets.iter().find(|target| target.pid() == pid);
            target.map_or_else(String::new, |target| target.comm().to_owned())
        };
        let mut threads = polled.tally.threads(comm);
        threads.retain(|thread| tids.is_empty() || tids.contains(&thread.tid));
        let mut warnings: Vec<String> = LIMITS.iter().map(|limit| (*limit).to_owned()).collect();
        warnings.extend(degraded(source).map(str::to_owned));
        Ok(Stacks {
            schema: SCHEMA.to_owned(),
            processes: recording::processes(&self.targets),
            window_ns: polled.window_ns,
            interval_ns: self.interval.as_nanos() as u64,
            rounds: polled.rounds,
            late_rounds: polled.late_rounds,
            source,
            warnings,
            threads,
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(Poller { stop, thread }) = self.poller.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

/// Looks at a steady pace: a round that takes long delays the next one, and is not made up for.
fn poll(pids: &[u32], interval: Duration, stop: &Receiver<()>) -> Polled {
    let interval_ns = interval.as_nanos() as u64;
    let begun_ns = monotonic_ns();
    let mut due_ns = begun_ns;
    let mut polled = Polled::default();
    loop {
        let now_ns = monotonic_ns();
        polled.late_rounds += u64::from(now_ns > due_ns + interval_ns / 2);
        for (pid, tid) in pids
            .iter()
            .flat_map(|pid| proc::thread_ids(*pid).unwrap_or_default().into_iter().map(|tid| (*pid, tid)))
        {
            if let Some(look) = look::at(pid, tid) {
                polled.tally.add(look);
            }
        }
        polled.rounds += 1;
        due_ns = (due_ns + interval_ns).max(monotonic_ns());
        let left = Duration::from_nanos(due_ns.saturating_sub(monotonic_ns()));
        if !matches!(stop.recv_timeout(left), Err(RecvTimeoutError::Timeout)) {
            polled.window_ns = monotonic_ns() - begun_ns;
            return polled;
        }
    }
}

/// Why there is less than a whole stack, if there is.
const fn degraded(source: Source) -> Option<&'static str> {
    match source {
        Source::Stack => None,
        Source::Wchan => Some(
            "only the function that each thread sleeps in is shown: /proc/PID/task/TID/stack needs CAP_SYS_ADMIN",
        ),
        Source::Nothing => Some(
            "no kernel frames are shown: /proc/PID/task/TID/wchan needs the right to trace the process (the same user, or CAP_SYS_PTRACE)",
        ),
    }
}
