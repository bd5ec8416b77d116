//! Loads the programs into the kernel and attaches them. With `drain`, the only code that touches BPF.

mod fields;
mod host;
mod programs;
mod switch;

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::{MapData, PerCpuArray, RingBuf};
use aya::programs::{BtfTracePoint, Iter};
use aya::sys::{Stats, enable_stats};
use aya::{Ebpf, EbpfLoader, Endianness, Pod};
use probes_common::{CallFilter, CpuCounters, LANES, UserRegisters};
use reports::offcpu::ProgramCost;

pub use programs::Group;
use programs::{Entry, Hook, Need, PROGRAMS, SLEEPERS};
pub use switch::{Scope, Switch, Watch};

use crate::decode::task_registers;
use crate::error::{AttachError, KERNEL_BTF};
use crate::object;
use crate::program_info::program_info;

/// What to load and attach: a program that nobody asks for costs neither load time nor a traced event.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Size of the ring buffer in bytes: a power of two, and a multiple of the page size.
    pub ring_bytes: u32,
    /// Which programs.
    pub groups: Vec<Group>,
    /// Which system calls are recorded, where [`Group::Calls`] is among them.
    pub call_filter: CallFilter,
}

impl Plan {
    /// Switches and wake-ups, with the system calls that `calls` lets through.
    pub fn new(ring_bytes: u32, calls: Option<CallFilter>) -> Self {
        let mut groups = vec![Group::Sched, Group::Interrupts];
        groups.extend(calls.map(|_| Group::Calls));
        Self { ring_bytes, groups, call_filter: calls.unwrap_or(CallFilter::All) }
    }

    fn programs(&self) -> impl Iterator<Item = &'static Entry> {
        PROGRAMS.iter().filter(|entry| self.groups.contains(&entry.group))
    }

    fn required(&self) -> impl Iterator<Item = &'static Entry> {
        self.programs().filter(|entry| entry.need == Need::Required)
    }
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct CountersValue(CpuCounters);
// SAFETY: `CpuCounters` is `repr(C)` of nothing but `u64`s: no padding, and every bit pattern is a value.
unsafe impl Pod for CountersValue {}

/// The attached programs and their maps. Dropping it detaches and frees everything.
pub struct Probes {
    ebpf: Ebpf,
    /// Those that are attached, by name.
    attached: Vec<&'static str>,
    switch: Switch,
    counters: PerCpuArray<MapData, CountersValue>,
    events: RingBuf<MapData>,
    /// Reads the registers of sleeping threads; `None` where the kernel has no iterator over tasks.
    sleepers: Option<File>,
    /// Holds the kernel's run-time statistics on.
    statistics: Option<OwnedFd>,
}

impl fmt::Debug for Probes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Probes").field("ebpf", &self.ebpf).finish_non_exhaustive()
    }
}

impl Probes {
    /// Loads and attaches the programs of `plan`, which record nothing yet.
    pub fn attach(plan: &Plan) -> Result<Self, AttachError> {
        host::check()?;
        let btf_bytes = fs::read(KERNEL_BTF).map_err(|source| AttachError::NoBtf { source })?;
        let offsets = fields::offsets(&btf_bytes, plan)?;
        let kernel_btf = aya::Btf::parse(&btf_bytes, Endianness::default())
            .map_err(|error| AttachError::Load(chain(&error)))?;
        drop(btf_bytes);
        let mut loader = EbpfLoader::new();
        loader
            .btf(Some(&kernel_btf))
            .map_max_entries("EVENTS", plan.ring_bytes)
            .map_max_entries("USER_STACK", host::possible_cpus()?);
        let calls = plan.call_filter as u32;
        loader.override_global("CALLS", &calls, true);
        for ((constant, _), offset) in fields::FIELDS.iter().zip(&offsets) {
            loader.override_global(constant, offset, true);
        }
        let mut ebpf = loader.load(&object::bytes()?).map_err(|error| AttachError::Load(chain(&error)))?;
        let attached = attach_all(&mut ebpf, plan, &kernel_btf)?;
        let sleepers = attach_sleepers(&mut ebpf, &kernel_btf);
        // Before the ring buffer is mapped, whose pages count twice: the type information has taken more
        // memory than all that follows.
        drop(kernel_btf);
        host::give_back_memory();
        let switch = Switch::new(take(&mut ebpf, "CONTROL")?)?;
        let counters = PerCpuArray::try_from(take(&mut ebpf, "COUNTERS")?)
            .map_err(|error| map_error("COUNTERS", &error))?;
        let events =
            RingBuf::try_from(take(&mut ebpf, "EVENTS")?).map_err(|error| map_error("EVENTS", &error))?;
        Ok(Self { ebpf, attached, switch, counters, events, sleepers, statistics: None })
    }

    /// Turns recording on and off; a clone of it does so from another thread.
    pub const fn switch(&self) -> &Switch {
        &self.switch
    }

    /// CPUs that a lane of counters has room for: every one that this machine could have.
    pub fn cpus(&self) -> Result<u32, AttachError> {
        let lane = self.counters.get(&0, 0).map_err(|error| map_error("COUNTERS", &error))?;
        Ok(lane.len() as u32)
    }

    /// The user registers of the targets' threads, by thread id; those of threads that run are out of
    /// date. Nothing the second time.
    pub fn sleepers(&mut self) -> HashMap<u32, UserRegisters> {
        let mut bytes = Vec::new();
        let read = self.sleepers.take().map(|mut file| file.read_to_end(&mut bytes));
        // Without registers the stacks of sleeping threads may be truncated, and say so.
        if let Some(Err(_)) = read {
            bytes.clear();
        }
        task_registers(&bytes)
    }

    /// Each CPU's counters, lane after lane.
    pub fn counters(&self) -> Result<Vec<CpuCounters>, AttachError> {
        let mut counters = Vec::new();
        for lane in 0..LANES {
            let values = self.counters.get(&lane, 0).map_err(|error| map_error("COUNTERS", &error))?;
            counters.extend(values.iter().map(|value| value.0));
        }
        Ok(counters)
    }

    /// Hands every record that is ready to `take`, in the order in which they were reserved.
    pub fn drain(&mut self, mut take: impl FnMut(&[u8])) {
        while let Some(record) = self.events.next() {
            take(&record);
        }
    }

    /// What each program has cost, as the kernel counts it; empty unless that was asked for.
    pub fn costs(&self) -> Vec<ProgramCost> {
        let counted = self.attached.iter().filter(|_| self.statistics.is_some());
        let cost = |name: &str| {
            let fd = self.ebpf.program(name)?.fd().ok()?;
            let info = program_info(fd.as_fd()).ok()?;
            Some(ProgramCost { name: name.to_owned(), runs: info.run_cnt, run_ns: info.run_time_ns })
        };
        counted.filter_map(|name| cost(name)).collect()
    }

    /// Has the kernel count and time every run of every BPF program on the host, until this is dropped.
    pub fn count_runs(&mut self) -> Result<(), AttachError> {
        let refused =
            |source| AttachError::System { what: "asking for BPF run-time statistics".to_owned(), source };
        let statistics = enable_stats(Stats::RunTime).map_err(|error| refused(error.io_error))?;
        self.statistics = Some(statistics);
        Ok(())
    }

    /// Events that found their program already running on the same CPU, and were turned away by the
    /// kernel; `None` where it does not tell.
    pub fn recursion_misses(&self) -> Option<u64> {
        self.attached
            .iter()
            .map(|name| {
                let fd = self.ebpf.program(name)?.fd().ok()?;
                Some(program_info(fd.as_fd()).ok()?.recursion_misses)
            })
            .sum()
    }
}

/// Attaches the programs of `plan`; gives the names of those that are.
fn attach_all(ebpf: &mut Ebpf, plan: &Plan, btf: &aya::Btf) -> Result<Vec<&'static str>, AttachError> {
    let mut attached = Vec::new();
    for entry in plan.programs() {
        match attach_program(ebpf, entry, btf) {
            Ok(()) => attached.push(entry.name),
            Err(_) if entry.need == Need::Optional => {}
            Err(error) => return Err(error),
        }
    }
    Ok(attached)
}

fn attach_program(ebpf: &mut Ebpf, entry: &Entry, btf: &aya::Btf) -> Result<(), AttachError> {
    let name = entry.name;
    let Hook::TpBtf { tracepoint, .. } = entry.hook;
    let program: &mut BtfTracePoint = ebpf
        .program_mut(name)
        .ok_or(AttachError::Missing(name))?
        .try_into()
        .map_err(|_| AttachError::Missing(name))?;
    let refused = |error| AttachError::Program { program: name, reason: chain(&error) };
    program.load(tracepoint, btf).map_err(refused)?;
    program.attach().map(drop).map_err(refused)
}

fn attach_sleepers(ebpf: &mut Ebpf, btf: &aya::Btf) -> Option<File> {
    let program: &mut Iter = ebpf.program_mut(SLEEPERS)?.try_into().ok()?;
    program.load("task", btf).ok()?;
    let link = program.attach().ok()?;
    program.take_link(link).ok()?.into_file().ok()
}

fn take(ebpf: &mut Ebpf, map: &'static str) -> Result<aya::maps::Map, AttachError> {
    ebpf.take_map(map).ok_or(AttachError::Missing(map))
}

fn map_error(map: &'static str, error: &dyn Error) -> AttachError {
    AttachError::Map { map, reason: chain(error) }
}

/// An error with every reason behind it, on one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(reason) = source {
        let reason_text = reason.to_string();
        // Some of the loader's errors repeat their source's text in their own.
        if !text.contains(&reason_text) {
            text = format!("{text}: {reason_text}");
        }
        source = reason.source();
    }
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}
