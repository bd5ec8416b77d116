//! What ends a recording.

use std::io::Read;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGINT, SIGTERM};

/// Why a recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Its time was over.
    Elapsed,
    /// Ctrl-C, or SIGTERM.
    Signal,
    /// Every watched process has ended.
    ProcessesEnded,
}

/// Waits for whatever comes first.
#[derive(Debug)]
pub struct Endings {
    signals: UnixStream,
}

impl Endings {
    /// From now on, Ctrl-C and SIGTERM end a recording and not this process.
    pub fn watch() -> anyhow::Result<Self> {
        let (signals, writer) = UnixStream::pair().context("opening a socket pair for signals")?;
        for signal in [SIGINT, SIGTERM] {
            let writer = writer.try_clone().context("opening a socket pair for signals")?;
            signal_hook::low_level::pipe::register(signal, writer).context("catching Ctrl-C")?;
        }
        Ok(Self { signals })
    }

    /// Waits for a signal, the end of all `processes` (pidfds) where there are any, or `duration`.
    pub fn wait(&self, mut processes: Vec<BorrowedFd<'_>>, duration: Duration) -> anyhow::Result<Ending> {
        // A duration beyond the clock's range never elapses.
        let deadline = Instant::now().checked_add(duration);
        let is_machine = processes.is_empty();
        while is_machine || !processes.is_empty() {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(Ending::Elapsed);
            }
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            let mut watched = vec![PollFd::new(&self.signals, PollFlags::IN)];
            watched.extend(processes.iter().map(|process| PollFd::from_borrowed_fd(*process, PollFlags::IN)));
            match poll(&mut watched, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("waiting for the end of the recording"),
            }
            let is_ready: Vec<bool> = watched.iter().map(|fd| !fd.revents().is_empty()).collect();
            if is_ready[0] {
                let _ = (&self.signals).read(&mut [0; 16]);
                return Ok(Ending::Signal);
            }
            let mut has_ended = is_ready[1..].iter();
            processes.retain(|_| has_ended.next() != Some(&true));
        }
        Ok(Ending::ProcessesEnded)
    }
}
