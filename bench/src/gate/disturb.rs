//! What can be done to one arm while it is measured, to see whether the gate notices: the proof of its power.

use std::fmt;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use forkd::api::{Branch, Sandbox};
use rustix::process::{Pid, Signal, kill_process};

use crate::Error;
use crate::site::Site;
use crate::site::throttle::Throttle;
use crate::sweep::Watch;
use crate::work::Work;

/// One disturbance.
#[derive(Clone, Debug, PartialEq)]
pub enum Disturbance {
    /// Firecracker is stopped in each pause for so many microseconds.
    PauseDelay {
        /// The delay.
        us: u64,
    },
    /// The disk below the snapshots takes so many bytes a second.
    SlowDisk {
        /// The rate.
        bytes_per_s: u64,
    },
    /// So many other processes keep the processors busy.
    Load {
        /// How many.
        processes: u32,
    },
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PauseDelay { us } => write!(f, "each pause {us} us longer"),
            Self::SlowDisk { bytes_per_s } => write!(f, "a disk of {} MB/s", bytes_per_s / 1_000_000),
            Self::Load { processes } => write!(f, "{processes} busy processes"),
        }
    }
}

/// A disturbance under way. Dropping it ends it.
#[derive(Debug, Default)]
pub struct Disturbed {
    delay: Option<Delay>,
    busy: Vec<Child>,
    slow: Option<Throttle>,
}

impl Disturbed {
    /// Begins to disturb what is measured at `site`.
    pub fn begin(disturbance: Option<&Disturbance>, work: &Work, site: &Site) -> Result<Self, Error> {
        let mut disturbed = Self::default();
        match disturbance {
            None => {}
            Some(Disturbance::PauseDelay { us }) => {
                let (length, daemon) = (Duration::from_micros(*us), site.daemon_pid());
                disturbed.delay = Some(Delay { length, daemon, firecracker: None });
            }
            Some(Disturbance::SlowDisk { bytes_per_s }) => {
                disturbed.slow = Some(slow_down(work, site, *bytes_per_s)?);
            }
            Some(Disturbance::Load { processes }) => {
                for _ in 0..*processes {
                    disturbed.busy.push(busy_process()?);
                }
            }
        }
        Ok(disturbed)
    }
}

impl Watch for Disturbed {
    fn begin(&mut self, sandbox: &Sandbox) -> Result<(), Error> {
        if let Some(delay) = &mut self.delay {
            delay.firecracker = i32::try_from(sandbox.pid).ok().and_then(Pid::from_raw);
        }
        Ok(())
    }

    fn asks(&mut self) {
        if let Some(delay) = &self.delay {
            delay.stop();
        }
    }

    fn branch(&mut self, _: &Branch) {}
}

impl Drop for Disturbed {
    fn drop(&mut self) {
        for process in &mut self.busy {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn busy_process() -> Result<Child, Error> {
    let mut command = Command::new("sh");
    command.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
    command.spawn().map_err(Error::file("run", "sh".as_ref()))
}

/// Makes pauses longer: Firecracker is stopped (SIGSTOP) as soon as the daemon holds the guest paused, and goes on when
/// the delay has gone by. The daemon holds a pause with a thread of its own, which is waited for: a Firecracker that is
/// stopped before does not answer what it is asked ahead of the pause.
#[derive(Debug)]
struct Delay {
    length: Duration,
    daemon: Option<u32>,
    firecracker: Option<Pid>,
}

/// The daemon's thread that holds a guest paused; see `forkd/src/branch/pause.rs`.
const PAUSE_THREAD: &str = "forkd-pause";
/// Longer than a BRANCH takes to its pause; a BRANCH that has none by then is left alone.
const PAUSE_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at the daemon's threads.
const LOOK: Duration = Duration::from_micros(100);

impl Delay {
    fn stop(&self) {
        let (Some(daemon), Some(firecracker)) = (self.daemon, self.firecracker) else { return };
        let length = self.length;
        thread::spawn(move || {
            let deadline = Instant::now() + PAUSE_LIMIT;
            while !has_thread(daemon, PAUSE_THREAD) {
                if Instant::now() > deadline {
                    return;
                }
                thread::sleep(LOOK);
            }
            if kill_process(firecracker, Signal::STOP).is_ok() {
                thread::sleep(length);
                let _ = kill_process(firecracker, Signal::CONT);
            }
        });
    }
}

fn has_thread(pid: u32, name: &str) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut names = threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
    names.any(|comm| comm.trim_end() == name)
}

/// Limits the disk below a site.
fn slow_down(work: &Work, site: &Site, bytes_per_s: u64) -> Result<Throttle, Error> {
    let device = site.facts.as_ref().and_then(|root| root.device.as_ref());
    let number = device.and_then(|device| fs::read_to_string(format!("/sys/block/{}/dev", device.name)).ok());
    let Some(number) = number else {
        return Err(Error::Usage("a slow disk needs snapshots on a disk: use ext4-loop".to_owned()));
    };
    Throttle::set(work, number.trim(), bytes_per_s)
}

#[cfg(test)]
mod tests {
    use super::has_thread;

    #[test]
    fn a_thread_is_found_by_its_name_while_it_lives() {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let (up, is_up) = std::sync::mpsc::channel::<()>();
        let named = std::thread::Builder::new().name("gate-look".to_owned());
        // A thread takes its name itself, before the first of its own code.
        let thread = named
            .spawn(move || {
                let _ = up.send(());
                wait.recv()
            })
            .unwrap();
        is_up.recv().unwrap();
        assert!(has_thread(std::process::id(), "gate-look"));
        drop(done);
        let _ = thread.join();
        assert!(!has_thread(std::process::id(), "gate-look-at-nobody"));
    }
}
