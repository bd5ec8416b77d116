//! The clock that looks at running threads: one event a CPU, which runs while something is recorded.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use aya::Ebpf;
use aya::programs::PerfEvent;
use perf_event::events::Software;
use perf_event::{Builder, Counter};

use super::chain;
use crate::error::AttachError;

/// The program that the clock runs.
const PROGRAM: &str = "clock";
/// `PERF_EVENT_IOC_SET_BPF` (include/uapi/linux/perf_event.h).
const SET_BPF: libc::c_ulong = 0x4004_2408;

/// A clock for each CPU. Stopped at first.
#[derive(Debug)]
pub struct Clock(Vec<Counter>);

impl Clock {
    /// Loads the program, and opens a clock that runs it each `period_ns` of each CPU's time.
    pub fn open(ebpf: &mut Ebpf, period_ns: u64) -> Result<Self, AttachError> {
        let program: &mut PerfEvent = ebpf
            .program_mut(PROGRAM)
            .ok_or(AttachError::Missing(PROGRAM))?
            .try_into()
            .map_err(|_| AttachError::Missing(PROGRAM))?;
        let refused = |error| AttachError::Program { program: PROGRAM, reason: chain(&error) };
        program.load().map_err(refused)?;
        let program_fd = program.fd().map_err(refused)?.as_fd().as_raw_fd();
        let failed = |source| AttachError::System { what: "opening a clock to sample by".to_owned(), source };
        let clocks = online_cpus().map_err(failed)?.into_iter().map(|cpu| one(cpu, period_ns, program_fd));
        Ok(Self(clocks.collect::<io::Result<_>>().map_err(failed)?))
    }

    /// Looks from now on.
    pub fn start(&mut self) -> Result<(), AttachError> {
        self.each(Counter::enable)
    }

    /// Looks no more.
    pub fn stop(&mut self) -> Result<(), AttachError> {
        self.each(Counter::disable)
    }

    fn each(&mut self, act: impl Fn(&mut Counter) -> io::Result<()>) -> Result<(), AttachError> {
        let failed = |source| AttachError::System { what: "starting or stopping a clock".to_owned(), source };
        self.0.iter_mut().try_for_each(|clock| act(clock).map_err(failed))
    }
}

fn one(cpu: u32, period_ns: u64, program_fd: i32) -> io::Result<Counter> {
    let mut event = Builder::new(Software::CPU_CLOCK);
    event.sample_period(period_ns).include_kernel();
    let counter = event.any_pid().one_cpu(cpu as usize).build()?;
    // SAFETY: both descriptors are open, and the request takes a descriptor as its argument.
    let set = unsafe { libc::ioctl(counter.as_raw_fd(), SET_BPF, program_fd) };
    if set == 0 { Ok(counter) } else { Err(io::Error::last_os_error()) }
}

/// The CPUs that run, from lists such as `0-3,8`.
fn online_cpus() -> io::Result<Vec<u32>> {
    let text = fs::read_to_string("/sys/devices/system/cpu/online")?;
    crate::oncpu::parse_cpus(&text).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}
