//! Processes known by pid and start time, since a pid alone may by now be somebody else's.

use std::fmt;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a process has to end when asked to, before it is killed: longer than the daemon gives the
/// requests that are under way.
const PATIENCE: Duration = Duration::from_secs(40);

/// A process of this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its id.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    start_ticks: u64,
}

impl Recorded {
    /// The process that has `pid` now.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold blanks and parentheses: fields are counted from its end.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace();
        let ended = matches!(fields.next()?, "Z" | "X");
        let start_ticks = fields.nth(18)?.parse().ok()?;
        (!ended).then_some(Self { pid, start_ticks })
    }

    /// Reads what [`fmt::Display`] writes.
    pub fn parse(line: &str) -> Option<Self> {
        let (pid, start_ticks) = line.split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, start_ticks: start_ticks.parse().ok()? })
    }

    /// Whether it still runs.
    pub fn lives(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// Ends it: SIGTERM first, SIGKILL when that takes too long. Whether it was still running.
    pub fn end(&self) -> bool {
        let was_alive = self.lives();
        for signal in [Signal::TERM, Signal::KILL] {
            let deadline = Instant::now() + PATIENCE;
            self.signal(signal);
            while self.lives() && Instant::now() < deadline {
                sleep(Duration::from_millis(10));
            }
        }
        was_alive
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid.cast_signed()).filter(|_| self.lives());
        if let Some(pid) = pid {
            // It may have ended since: then there is nothing left to do.
            let _ = kill_process(pid, signal);
        }
    }
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pid, self.start_ticks)
    }
}

#[cfg(test)]
mod tests {
    use super::Recorded;

    #[test]
    fn a_process_is_known_by_its_start_time_too() {
        let own = Recorded::of(std::process::id()).unwrap();
        assert_eq!(Recorded::parse(&own.to_string()), Some(own));
        assert!(own.lives());
        let earlier = Recorded { start_ticks: own.start_ticks.wrapping_sub(1), ..own };
        assert!(!earlier.lives());
    }
}
