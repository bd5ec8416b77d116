//! The kernel's sampling: opens the events, and reads what they write.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;
use std::sync::Arc;

use perf_event::data::{Record, Sample as Raw};
use perf_event::{Builder, SampleFlag, Sampler};
use probes_common::UserRegisters;
use rustix::io::Errno;

use super::pmu::{DEVICES, Source, core_pmus, parse_cpus};
use super::tally::{Sample, Tally};
use crate::decode::{UserSample, UserSide};
use crate::error::AttachError;
use crate::unwind::ProcessStacks;

/// Room for samples of one CPU.
const RING_BYTES: usize = 1 << 20;
/// User stack that each sample carries, in bytes: a record has room for less than 64 KiB.
const STACK_BYTES: u32 = 16 << 10;
/// Numbers of the registers that unwinding needs, in ascending order as the kernel writes them: bx, bp, sp,
/// ip, r12 to r15 (arch/x86/include/uapi/asm/perf_regs.h).
const REGISTERS: [u32; 8] = [1, 6, 7, 8, 20, 21, 22, 23];
/// `PERF_RECORD_SAMPLE`.
const SAMPLE: u32 = 9;
/// Marks in a call chain: what follows was in the kernel, or in user space (`PERF_CONTEXT_*`).
const CONTEXT_FIRST: u64 = -4095_i64 as u64;
const CONTEXT_KERNEL: u64 = -128_i64 as u64;

/// The open events of one kind of core, or of the clock.
pub struct Group {
    /// As perf names it.
    pub name: String,
    /// One for each CPU.
    samplers: Vec<Sampler>,
    /// Samples of watched threads so far.
    pub samples: u64,
}

/// Everything that is sampled.
pub struct Sampling {
    /// One for each kind of core.
    pub groups: Vec<Group>,
    /// Why cycles are not what is sampled by, where they are not.
    pub fallback: Option<String>,
    /// Samples that the kernel had no room for.
    pub lost: u64,
    /// Records that could not be read.
    pub undecodable: u64,
}

impl Group {
    /// How many CPUs it samples.
    pub fn cpus(&self) -> u32 {
        self.samplers.len() as u32
    }
}

impl Sampling {
    /// Opens cycles on every kind of core, or a clock where there are none. Nothing is sampled yet.
    ///
    /// # Errors
    /// [`AttachError::Sampling`] where this user may not sample.
    pub fn open(frequency_hz: u64) -> Result<Self, AttachError> {
        let pmus = core_pmus(Path::new(DEVICES));
        let mut groups = Vec::new();
        let mut missing = pmus.is_empty().then(|| "this machine shows no CPU counters".to_owned());
        for pmu in pmus {
            let cpus = pmu.cpus.map_or_else(online, |cpus| of_those_online(&cpus))?;
            match group(format!("{}/cycles/", pmu.name), Source::Cycles(pmu.kind), &cpus, frequency_hz) {
                Ok(group) => groups.push(group),
                Err(error) if is_refusal(&error) => return Err(refused(error)),
                Err(error) => missing = Some(format!("{} counts no cycles ({error})", pmu.name)),
            }
        }
        if missing.is_some() {
            // One clock on all CPUs: cycles here and a clock there could not be compared.
            let clock = group("cpu-clock".to_owned(), Source::Clock, &online()?, frequency_hz);
            groups = vec![clock.map_err(refused)?];
        }
        Ok(Self { groups, fallback: missing, lost: 0, undecodable: 0 })
    }

    /// Samples from now on.
    pub fn enable(&mut self) -> Result<(), AttachError> {
        self.each(|sampler| sampler.enable())
    }

    /// Samples no more.
    pub fn disable(&mut self) -> Result<(), AttachError> {
        self.each(|sampler| sampler.disable())
    }

    fn each(&mut self, act: impl Fn(&mut Sampler) -> io::Result<()>) -> Result<(), AttachError> {
        let samplers = self.groups.iter_mut().flat_map(|group| &mut group.samplers);
        let failed = |source| AttachError::System { what: "switching sampling on or off".to_owned(), source };
        samplers.into_iter().try_for_each(|sampler| act(sampler).map_err(failed))
    }

    /// Reads every sample that there is; those of watched processes go to `tally`.
    pub fn drain(&mut self, pids: &[u32], user: &mut ProcessStacks, tally: &mut Tally) {
        let Self { groups, lost, undecodable, .. } = self;
        for group in groups {
            for sampler in &mut group.samplers {
                while let Some(record) = sampler.next_record() {
                    // Before it is parsed: a kernel thread has no registers, which the parser does not know.
                    if record.ty() == SAMPLE
                        && !pid_of(&record.to_contiguous()).is_some_and(|pid| pids.contains(&pid))
                    {
                        continue;
                    }
                    match record.parse_record() {
                        Ok(Record::Sample(raw)) => {
                            group.samples += 1;
                            tally.add(sample(&raw, user));
                        }
                        Ok(Record::Lost(record)) => *lost += record.lost,
                        Ok(Record::LostSamples(record)) => *lost += record.lost,
                        Ok(_) => {}
                        Err(_) => *undecodable += 1,
                    }
                }
            }
        }
    }
}

fn group(name: String, source: Source, cpus: &[u32], frequency_hz: u64) -> io::Result<Group> {
    let open = |cpu: &u32| {
        let mut event = source.event();
        configure(&mut event, frequency_hz);
        event.any_pid().one_cpu(*cpu as usize).build()?.sampled(RING_BYTES)
    };
    let samplers = cpus.iter().map(open).collect::<io::Result<Vec<Sampler>>>()?;
    Ok(Group { name, samplers, samples: 0 })
}

fn configure(event: &mut Builder<'_>, frequency_hz: u64) {
    let registers = REGISTERS.iter().fold(0, |mask, register| mask | 1 << register);
    event
        .sample(
            SampleFlag::TID
                | SampleFlag::IP
                | SampleFlag::CALLCHAIN
                | SampleFlag::REGS_USER
                | SampleFlag::STACK_USER,
        )
        .sample_regs_user(registers)
        .sample_stack_user(STACK_BYTES)
        .exclude_callchain_user(true)
        .sample_frequency(frequency_hz)
        .include_kernel();
}

/// The process of a sample, which follows the eight bytes of its instruction.
fn pid_of(sample: &[u8]) -> Option<u32> {
    sample.get(8..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn sample(raw: &Raw<'_>, user: &mut ProcessStacks) -> Sample {
    let (pid, tid) = (raw.pid().unwrap_or(0), raw.tid().unwrap_or(0));
    let kernel = kernel_frames(raw.callchain().unwrap_or_default());
    Sample { pid, tid, kernel, user: user_side(raw, pid, user) }
}

/// The part of a call chain that was in the kernel.
fn kernel_frames(chain: &[u64]) -> Arc<[u64]> {
    let mut in_kernel = false;
    let frames = chain.iter().filter(|word| {
        let is_mark = **word >= CONTEXT_FIRST;
        if is_mark {
            in_kernel = **word == CONTEXT_KERNEL;
        }
        in_kernel && !is_mark
    });
    frames.copied().collect()
}

fn user_side(raw: &Raw<'_>, pid: u32, user: &mut ProcessStacks) -> Option<UserSide> {
    let values = &raw.regs_user()?.regs;
    let [bx, bp, sp, ip, r12, r13, r14, r15] = **values else { return None };
    let stack = raw.stack_user().unwrap_or_default();
    let registers = UserRegisters { ip, sp, bp, bx, r12_to_r15: [r12, r13, r14, r15] };
    let mut hasher = DefaultHasher::new();
    (pid, ip, sp, bp, stack).hash(&mut hasher);
    // Odd, as those of the kernel side: even ones are of sleeping threads.
    let signature = hasher.finish() | 1;
    let sample =
        UserSample { time_ns: 0, cpu: 0, sequence: 0, tgid: pid, signature, registers, stack, lane: 0 };
    user.take(&sample);
    Some(user.canonical(pid, UserSide { ip, stack: (!stack.is_empty()).then_some(signature) }))
}

fn online() -> Result<Vec<u32>, AttachError> {
    let path = "/sys/devices/system/cpu/online";
    let text = fs::read_to_string(path)
        .map_err(|source| AttachError::System { what: format!("reading {path}"), source })?;
    Ok(parse_cpus(&text).unwrap_or_default())
}

fn of_those_online(cpus: &[u32]) -> Result<Vec<u32>, AttachError> {
    let online = online()?;
    Ok(cpus.iter().copied().filter(|cpu| online.contains(cpu)).collect())
}

fn is_refusal(error: &io::Error) -> bool {
    let refusals = [Errno::ACCESS, Errno::PERM];
    refusals.iter().any(|refusal| error.raw_os_error() == Some(refusal.raw_os_error()))
}

fn refused(reason: io::Error) -> AttachError {
    let setting = |name: &str| {
        let value = fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
        value.trim().to_owned()
    };
    if is_refusal(&reason) {
        return AttachError::Sampling { paranoid: setting("perf_event_paranoid") };
    }
    let limit = setting("perf_event_max_sample_rate");
    AttachError::SamplingFailed { reason, limit }
}

/// CPU time and names of the threads of `pids`, by thread id, as they are now.
pub fn cpu_times(pids: &[u32]) -> BTreeMap<u32, (u32, String, u64)> {
    let of_one = |pid: &u32| {
        let pid = *pid;
        let named = move |(tid, ran_ns)| (tid, (pid, crate::proc::thread_comm(pid, tid), ran_ns));
        crate::proc::ran_ns(pid).into_iter().map(named)
    };
    pids.iter().flat_map(of_one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernels_part_of_a_call_chain_is_taken() {
        let user = -512_i64 as u64;
        assert_eq!(*kernel_frames(&[CONTEXT_KERNEL, 1, 2, user, 3]), [1, 2]);
        assert!(kernel_frames(&[user, 3]).is_empty());
        assert!(kernel_frames(&[]).is_empty());
    }
}
