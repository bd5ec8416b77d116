//! Where windows come from: calls of a function, signals, or a length of time.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::Context;
use probes::explain::{Explainer, FunctionWindows, Opened, Place, Window};
use probes::symbolize::functions::Function;
use probes::target::Target;
use reports::units;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::slowest::Slowest;
use super::{ExplainCommand, WindowSignal};
use crate::cli::ending::{Ending, Endings};

/// The window of a process without another, unless another length is asked for.
const DEFAULT: Duration = Duration::from_secs(10);
/// How long is waited for Ctrl-C, or the end of the process, at each look.
const GLANCE: Duration = Duration::from_millis(1);

/// Windows that are explained after the end has come, unless a report on more was asked for.
const MOST_LATE: u64 = 8;

/// The end of all windows.
struct End {
    /// When it comes at the latest.
    deadline: Option<Instant>,
    has_come: bool,
    /// Windows that were explained since.
    late: u64,
}

/// What windows are of, and what ends them all.
pub struct Source<'a> {
    pub command: &'a ExplainCommand,
    pub target: &'a Target,
    pub endings: &'a Endings,
    pub explainer: &'a Explainer,
}

impl Source<'_> {
    /// Each call of the function is a window. Gives how many there were, also of threads that are not followed.
    pub fn by_function(&self, function: &Function, slowest: &mut Slowest) -> anyhow::Result<u64> {
        let Function { name, file, offset } = function;
        let ExplainCommand { pid, tid, .. } = *self.command;
        let place = Place { pid, tid, file, offset: *offset, label: name };
        let mut windows = FunctionWindows::attach(self.explainer, &place)?;
        let mut end = End { deadline: self.deadline(), has_come: false, late: 0 };
        let mut left_out = 0;
        eprintln!("watching {name} of process {pid}");
        while !self.is_enough(slowest.seen() + windows.closed() as u64) && !self.is_over(&mut end)? {
            left_out += self.take(windows.look()?, &mut end, slowest)?;
        }
        left_out += self.take(windows.finish()?, &mut end, slowest)?;
        if left_out > 0 {
            eprintln!("left out: {left_out} shorter windows, which there was no time to explain");
        }
        Ok(windows.opened())
    }

    /// Explains windows, as many as are still wanted; gives how many there was no time for. Once the end has come these
    /// are all but the longest few: whoever presses Ctrl-C does not want to wait.
    fn take(&self, windows: Vec<Opened>, end: &mut End, slowest: &mut Slowest) -> anyhow::Result<u64> {
        let mut windows = VecDeque::from(windows);
        while !self.is_enough(slowest.seen()) && !self.is_over(end)? {
            let Some(Opened { window, recorded }) = windows.pop_front() else { return Ok(0) };
            slowest.add(recorded.explain(&window)?);
        }
        let mut rest = Vec::from(windows);
        rest.sort_by_key(|opened| Reverse(opened.window.end_ns - opened.window.start_ns));
        let mut rest = rest.into_iter();
        while !self.is_enough(slowest.seen()) && end.late < MOST_LATE.max(self.command.slowest) {
            let Some(Opened { window, recorded }) = rest.next() else { break };
            slowest.add(recorded.explain(&window)?);
            end.late += 1;
        }
        Ok(if self.is_enough(slowest.seen()) { 0 } else { rest.len() as u64 })
    }

    /// Whether the time is over, or Ctrl-C or the end of the process has come; it stays so.
    fn is_over(&self, end: &mut End) -> anyhow::Result<bool> {
        end.has_come = end.has_come
            || end.deadline.is_some_and(|deadline| Instant::now() >= deadline)
            || self.endings.wait(vec![self.target.process()], GLANCE)? != Ending::Elapsed;
        Ok(end.has_come)
    }

    /// The window begins now, and is as long as it was asked for where nothing ends it earlier.
    pub fn by_time(&self, slowest: &mut Slowest) -> anyhow::Result<()> {
        let length = self.command.duration.unwrap_or(DEFAULT);
        let armed = self.explainer.arm(&[self.command.pid])?;
        let start_ns = probes::monotonic_ns();
        let ending = self.endings.wait(vec![self.target.process()], length)?;
        let end_ns = probes::monotonic_ns();
        let clamped = ending != Ending::Elapsed;
        let label = label(length, end_ns - start_ns, clamped);
        let window = Window { start_ns, end_ns, tid: self.tid(), label, clamped };
        slowest.add(armed.disarm()?.explain(&window)?);
        Ok(())
    }

    /// A window is what lies between two signals.
    pub fn by_signal(&self, signal: WindowSignal, slowest: &mut Slowest) -> anyhow::Result<()> {
        let (number, label) = match signal {
            WindowSignal::Usr1 => (signal_hook::consts::SIGUSR1, "SIGUSR1"),
            WindowSignal::Usr2 => (signal_hook::consts::SIGUSR2, "SIGUSR2"),
        };
        let (signals, writer) = UnixStream::pair().context("opening a socket pair for signals")?;
        signal_hook::low_level::pipe::register(number, writer).context("catching the signal")?;
        self.explainer.prepare(&[self.command.pid])?;
        let deadline = self.deadline();
        eprintln!("send {label} to process {} to open a window, and again to close it", std::process::id());
        while !self.is_enough(slowest.seen()) && self.wait_for(&signals, deadline)? {
            let armed = self.explainer.arm(&[self.command.pid])?;
            let start_ns = probes::monotonic_ns();
            let has_closed = self.wait_for(&signals, deadline)?;
            let end_ns = probes::monotonic_ns();
            let (label, clamped) = (label.to_owned(), !has_closed);
            let window = Window { start_ns, end_ns, tid: self.tid(), label, clamped };
            slowest.add(armed.disarm()?.explain(&window)?);
            if !has_closed {
                break;
            }
        }
        Ok(())
    }

    /// Waits for the signal; false where something else ends the recording first.
    fn wait_for(&self, mut signals: &UnixStream, deadline: Option<Instant>) -> anyhow::Result<bool> {
        /// How often the other endings are looked for.
        const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        loop {
            let mut fds = [PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
            match poll(&mut fds, Some(&LOOK)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => {
                    signals.read_exact(&mut [0]).context("reading that the signal came")?;
                    return Ok(true);
                }
                Err(error) => return Err(error).context("waiting for the signal"),
            }
            let is_over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if is_over || self.endings.wait(vec![self.target.process()], GLANCE)? != Ending::Elapsed {
                return Ok(false);
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.command.duration.and_then(|duration| Instant::now().checked_add(duration))
    }

    fn tid(&self) -> u32 {
        self.command.tid.unwrap_or(self.command.pid)
    }

    fn is_enough(&self, windows: u64) -> bool {
        self.command.windows.is_some_and(|most| windows >= most)
    }
}

/// What bounded a window of time: the length that was asked for, and what there was of it where that is less.
fn label(asked: Duration, length_ns: u64, clamped: bool) -> String {
    let asked = humantime::format_duration(asked);
    if clamped { format!("{} of {asked}", units::duration(length_ns)) } else { asked.to_string() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::label;

    #[test]
    fn a_window_of_time_that_ended_early_does_not_pass_for_a_whole_one() {
        let asked = Duration::from_secs(3);
        assert_eq!(label(asked, 3_000_012_345, false), "3s");
        assert_eq!(label(asked, 1_204_000_000, true), "1.20 s of 3s");
    }
}
