//! What can be done to one arm while it is measured, to see whether the gate notices: the proof of its power.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use forkd::api::{Branch, Sandbox};
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};

use crate::Error;
use crate::judge::median;
use crate::site::Site;
use crate::sweep::Watch;

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
    slow: Option<SlowDisk>,
}

impl Disturbed {
    /// Begins to disturb what is measured at `site`.
    pub fn begin(disturbance: Option<&Disturbance>, site: &Site) -> Result<Self, Error> {
        let mut disturbed = Self::default();
        match disturbance {
            None => {}
            Some(Disturbance::PauseDelay { us }) => {
                disturbed.delay = Some(Delay::new(Duration::from_micros(*us)))
            }
            Some(Disturbance::SlowDisk { bytes_per_s }) => {
                disturbed.slow = Some(SlowDisk::begin(site, *bytes_per_s)?);
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
        if let Some(delay) = &mut self.delay {
            delay.stop();
        }
    }

    fn branch(&mut self, branch: &Branch) {
        if let Some(delay) = &mut self.delay {
            delay.learn(branch);
        }
    }
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

/// Makes pauses longer: Firecracker is stopped (SIGSTOP) when a BRANCH is asked for, and goes on when the time that it
/// usually takes from there to the pause, and the delay, have gone by. The daemon, which is not stopped, begins the
/// pause meanwhile and waits for Firecracker's answer.
#[derive(Debug)]
struct Delay {
    length: Duration,
    firecracker: Option<Pid>,
    asked_ns: u64,
    /// Times from asking to the pause, in nanoseconds.
    leads_ns: Vec<f64>,
}

impl Delay {
    fn new(length: Duration) -> Self {
        Self { length, firecracker: None, asked_ns: 0, leads_ns: Vec::new() }
    }

    fn stop(&mut self) {
        self.asked_ns = monotonic_ns();
        // How long it takes to the pause is known from the BRANCHes before: the first is let alone.
        let (Some(firecracker), Some(lead_ns)) = (self.firecracker, median(&self.leads_ns)) else { return };
        let stopped = Duration::from_nanos(lead_ns as u64) + self.length;
        thread::spawn(move || {
            if kill_process(firecracker, Signal::STOP).is_ok() {
                thread::sleep(stopped);
                let _ = kill_process(firecracker, Signal::CONT);
            }
        });
    }

    fn learn(&mut self, branch: &Branch) {
        let pause = branch.pause_window_ns().and_then(|(begin_ns, _)| begin_ns.checked_sub(self.asked_ns));
        self.leads_ns.extend(pause.map(|lead_ns| lead_ns as f64));
    }
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A limit on the disk below a site, in the root of the blkio controller (cgroup v1).
#[derive(Debug)]
struct SlowDisk {
    file: PathBuf,
    device: String,
}

impl SlowDisk {
    fn begin(site: &Site, bytes_per_s: u64) -> Result<Self, Error> {
        const FILE: &str = "/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device";
        let device = site.facts.as_ref().and_then(|root| root.device.as_ref());
        let number =
            device.and_then(|device| fs::read_to_string(format!("/sys/block/{}/dev", device.name)).ok());
        let Some(device) = number.map(|number| number.trim().to_owned()) else {
            return Err(Error::Usage("a slow disk needs snapshots on a disk: use ext4-loop".to_owned()));
        };
        let slow = Self { file: FILE.into(), device };
        slow.set(bytes_per_s)?;
        Ok(slow)
    }

    /// 0 takes the limit away.
    fn set(&self, bytes_per_s: u64) -> Result<(), Error> {
        let line = format!("{} {bytes_per_s}", self.device);
        fs::write(&self.file, line).map_err(Error::file("limit a disk with", &self.file))
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        if let Err(error) = self.set(0) {
            crate::progress::say(error);
        }
    }
}
