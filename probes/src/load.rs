//! Loads the programs into the kernel and attaches them. With `drain`, the only code that touches BPF.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::{Array, MapData, PerCpuArray, RingBuf};
use aya::programs::{BtfTracePoint, Iter};
use aya::sys::{Stats, enable_stats};
use aya::{Ebpf, EbpfLoader, Endianness, Pod};
use probes_common::{
    CODE_SPANS, CallFilter, CodeSpan, Control, CpuCounters, LANES, MAX_TARGETS, UserRegisters,
};
use reports::offcpu::ProgramCost;

use crate::btf;
use crate::decode::task_registers;
use crate::error::{AttachError, KERNEL_BTF};
use crate::object;
use crate::proc;
use crate::program_info::program_info;

/// The tracepoints, which give the programs their names, and how many arguments each program reads.
const SCHED: &[(&str, usize)] = &[("sched_switch", 4), ("sched_waking", 1), ("sched_wakeup_new", 1)];
const CALLS: &[(&str, usize)] = &[("sys_enter", 2), ("sys_exit", 2)];

/// The program that walks over all tasks.
const SLEEPERS: &str = "sleepers";

/// The kernel's fields that the programs read, by the names of the constants that hold their offsets. A
/// path of fields leads through structures that lie in one another.
const FIELDS: [(&str, &[(&str, &str)]); 22] = [
    ("TASK_PID", &[("task_struct", "pid")]),
    ("TASK_TGID", &[("task_struct", "tgid")]),
    ("TASK_FLAGS", &[("task_struct", "flags")]),
    ("TASK_START_TIME", &[("task_struct", "start_time")]),
    ("TASK_MM", &[("task_struct", "mm")]),
    ("TASK_FS_BASE", &[("task_struct", "thread"), ("thread_struct", "fsbase")]),
    ("MM_START_STACK", &[("mm_struct", "start_stack")]),
    ("REGS_IP", &[("pt_regs", "ip")]),
    ("REGS_SP", &[("pt_regs", "sp")]),
    ("REGS_BP", &[("pt_regs", "bp")]),
    ("REGS_BX", &[("pt_regs", "bx")]),
    ("REGS_R12", &[("pt_regs", "r12")]),
    ("REGS_R13", &[("pt_regs", "r13")]),
    ("REGS_R14", &[("pt_regs", "r14")]),
    ("REGS_R15", &[("pt_regs", "r15")]),
    ("REGS_DI", &[("pt_regs", "di")]),
    ("REGS_SI", &[("pt_regs", "si")]),
    ("REGS_DX", &[("pt_regs", "dx")]),
    ("REGS_R10", &[("pt_regs", "r10")]),
    ("REGS_R8", &[("pt_regs", "r8")]),
    ("REGS_R9", &[("pt_regs", "r9")]),
    ("REGS_ORIG_AX", &[("pt_regs", "orig_ax")]),
];

/// What to load and attach: a program that nobody asks for costs neither load time nor a traced event.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Size of the ring buffer in bytes: a power of two, and a multiple of the page size.
    pub ring_bytes: u32,
    /// Which system calls are recorded beside the switches, if any.
    pub calls: Option<CallFilter>,
}

impl Plan {
    fn tracepoints(self) -> impl Iterator<Item = (&'static str, usize)> + Clone {
        let calls = if self.calls.is_some() { CALLS } else { &[] };
        SCHED.iter().chain(calls).copied()
    }
}

/// Inode of the pid namespace that the kernel starts with (include/linux/proc_ns.h, `PROC_PID_INIT_INO`).
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_PERFMON: u64 = 1 << 38;
const CAP_BPF: u64 = 1 << 39;

#[derive(Clone, Copy)]
#[repr(transparent)]
struct ControlValue(Control);
// SAFETY: `Control` is `repr(C)` of an even number of `u32`s, then `u64`s: no padding, and every bit
// pattern is a value.
unsafe impl Pod for ControlValue {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct CountersValue(CpuCounters);
// SAFETY: `CpuCounters` is `repr(C)` of nothing but `u64`s: no padding, and every bit pattern is a value.
unsafe impl Pod for CountersValue {}

/// The attached programs and their maps. Dropping it detaches and frees everything.
pub struct Probes {
    ebpf: Ebpf,
    plan: Plan,
    control: Array<MapData, ControlValue>,
    counters: PerCpuArray<MapData, CountersValue>,
    events: RingBuf<MapData>,
    /// Reads the registers of sleeping threads; `None` where the kernel has no iterator over tasks.
    sleepers: Option<File>,
    /// Holds the kernel's run-time statistics on.
    statistics: Option<OwnedFd>,
}

/// A process to watch.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// Its id in the initial pid namespace.
    pub pid: u32,
    /// Where its code lies.
    pub code: [CodeSpan; CODE_SPANS],
}

impl fmt::Debug for Probes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Probes").field("ebpf", &self.ebpf).finish_non_exhaustive()
    }
}

impl Probes {
    /// Loads and attaches the programs of `plan`, not armed.
    pub fn attach(plan: Plan) -> Result<Self, AttachError> {
        check_host()?;
        let btf_bytes = fs::read(KERNEL_BTF).map_err(|source| AttachError::NoBtf { source })?;
        let offsets = field_offsets(&btf_bytes, plan)?;
        let kernel_btf = aya::Btf::parse(&btf_bytes, Endianness::default())
            .map_err(|error| AttachError::Load(chain(&error)))?;
        drop(btf_bytes);
        let mut loader = EbpfLoader::new();
        loader
            .btf(Some(&kernel_btf))
            .map_max_entries("EVENTS", plan.ring_bytes)
            .map_max_entries("USER_STACK", possible_cpus()?);
        let calls = plan.calls.unwrap_or(CallFilter::All) as u32;
        loader.override_global("CALLS", &calls, true);
        for ((constant, _), offset) in FIELDS.iter().zip(&offsets) {
            loader.override_global(constant, offset, true);
        }
        let mut ebpf = loader.load(&object::bytes()?).map_err(|error| AttachError::Load(chain(&error)))?;
        for (name, _) in plan.tracepoints() {
            attach_program(&mut ebpf, name, &kernel_btf)?;
        }
        let sleepers = attach_sleepers(&mut ebpf, &kernel_btf);
        // Before the ring buffer is mapped, whose pages count twice: the type information has taken more
        // memory than all that follows.
        drop(kernel_btf);
        give_back_memory();
        let control =
            Array::try_from(take(&mut ebpf, "CONTROL")?).map_err(|error| map_error("CONTROL", &error))?;
        let counters = PerCpuArray::try_from(take(&mut ebpf, "COUNTERS")?)
            .map_err(|error| map_error("COUNTERS", &error))?;
        let events =
            RingBuf::try_from(take(&mut ebpf, "EVENTS")?).map_err(|error| map_error("EVENTS", &error))?;
        Ok(Self { ebpf, plan, control, counters, events, sleepers, statistics: None })
    }

    /// Records the threads of these processes from now on; each with where its code lies.
    pub fn arm(&mut self, targets: &[Watch]) -> Result<(), AttachError> {
        if targets.is_empty() || targets.len() > MAX_TARGETS {
            return Err(AttachError::Targets(targets.len()));
        }
        let mut control = Control { armed: 1, target_count: targets.len() as u32, ..Control::IDLE };
        for (index, target) in targets.iter().enumerate() {
            control.targets[index] = target.pid;
            control.code[index] = target.code;
        }
        self.control(control)
    }

    /// Records nothing from now on. A program that is running ends first, within microseconds.
    pub fn disarm(&mut self) -> Result<(), AttachError> {
        self.control(Control::IDLE)
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
        let counted = self.plan.tracepoints().filter(|_| self.statistics.is_some());
        let cost = |name: &str| {
            let fd = self.ebpf.program(name)?.fd().ok()?;
            let info = program_info(fd.as_fd()).ok()?;
            Some(ProgramCost { name: name.to_owned(), runs: info.run_cnt, run_ns: info.run_time_ns })
        };
        counted.filter_map(|(name, _)| cost(name)).collect()
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
        self.plan
            .tracepoints()
            .map(|(name, _)| {
                let fd = self.ebpf.program(name)?.fd().ok()?;
                Some(program_info(fd.as_fd()).ok()?.recursion_misses)
            })
            .sum()
    }

    fn control(&mut self, control: Control) -> Result<(), AttachError> {
        self.control.set(0, ControlValue(control), 0).map_err(|error| map_error("CONTROL", &error))
    }
}

/// Refuses what cannot work, with the reason, before the kernel refuses it without one.
fn check_host() -> Result<(), AttachError> {
    let system = |what: &str| {
        let what = what.to_owned();
        move |source| AttachError::System { what, source }
    };
    let held = proc::effective_capabilities().map_err(system("reading /proc/self/status"))?;
    if held & CAP_SYS_ADMIN == 0 {
        match (held & CAP_BPF != 0, held & CAP_PERFMON != 0) {
            (true, true) => {}
            (false, true) => return Err(AttachError::Capability("CAP_BPF")),
            (true, false) => return Err(AttachError::Capability("CAP_PERFMON")),
            (false, false) => return Err(AttachError::Capability("CAP_BPF and CAP_PERFMON")),
        }
    }
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    if lockdown.contains("[confidentiality]") {
        return Err(AttachError::Lockdown);
    }
    let namespace = rustix::fs::stat("/proc/self/ns/pid").map_err(io::Error::from);
    if namespace.map_err(system("reading /proc/self/ns/pid"))?.st_ino != INITIAL_PID_NAMESPACE {
        return Err(AttachError::PidNamespace);
    }
    Ok(())
}

fn field_offsets(btf_bytes: &[u8], plan: Plan) -> Result<[u32; FIELDS.len()], AttachError> {
    let kernel = btf::Btf::parse(btf_bytes)?;
    for (name, expected) in plan.tracepoints() {
        let found = kernel.tracepoint_arguments(name)?;
        if found < expected {
            return Err(AttachError::Tracepoint { name, found, expected });
        }
    }
    let mut offsets = [0; FIELDS.len()];
    for (offset, (_, path)) in offsets.iter_mut().zip(FIELDS) {
        for (structure, field) in path {
            *offset += kernel.field_offset(structure, field)?;
        }
    }
    Ok(offsets)
}

/// Returns freed memory to the kernel, which the allocator would keep.
fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}

fn possible_cpus() -> Result<u32, AttachError> {
    let cpus = aya::util::nr_cpus()
        .map_err(|(path, source)| AttachError::System { what: format!("reading {path}"), source })?;
    Ok(cpus as u32)
}

fn attach_program(ebpf: &mut Ebpf, name: &'static str, btf: &aya::Btf) -> Result<(), AttachError> {
    let program: &mut BtfTracePoint = ebpf
        .program_mut(name)
        .ok_or(AttachError::Missing(name))?
        .try_into()
        .map_err(|_| AttachError::Missing(name))?;
    let refused = |error| AttachError::Program { program: name, reason: chain(&error) };
    program.load(name, btf).map_err(refused)?;
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
