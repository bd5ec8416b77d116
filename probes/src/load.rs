//! Loads the programs into the kernel and attaches them. With `drain`, the only code that touches BPF.

use std::error::Error;
use std::fmt;
use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use aya::maps::{Array, MapData, PerCpuArray, RingBuf};
use aya::programs::BtfTracePoint;
use aya::{Ebpf, EbpfLoader, Endianness, Pod};
use aya_obj::generated::{bpf_cmd, bpf_prog_info};
use probes_common::{CallFilter, Control, CpuCounters, LANES, MAX_TARGETS};

use crate::btf;
use crate::error::{AttachError, KERNEL_BTF};
use crate::object;
use crate::proc;

/// The tracepoints, which give the programs their names, and how many arguments each program reads.
const SCHED: &[(&str, usize)] = &[("sched_switch", 4), ("sched_waking", 1), ("sched_wakeup_new", 1)];
const CALLS: &[(&str, usize)] = &[("sys_enter", 2), ("sys_exit", 2)];

/// The kernel's fields that the programs read, by the names of the constants that hold their offsets.
const FIELDS: [(&str, &str, &str); 12] = [
    ("TASK_PID", "task_struct", "pid"),
    ("TASK_TGID", "task_struct", "tgid"),
    ("TASK_FLAGS", "task_struct", "flags"),
    ("TASK_START_TIME", "task_struct", "start_time"),
    ("REGS_IP", "pt_regs", "ip"),
    ("REGS_DI", "pt_regs", "di"),
    ("REGS_SI", "pt_regs", "si"),
    ("REGS_DX", "pt_regs", "dx"),
    ("REGS_R10", "pt_regs", "r10"),
    ("REGS_R8", "pt_regs", "r8"),
    ("REGS_R9", "pt_regs", "r9"),
    ("REGS_ORIG_AX", "pt_regs", "orig_ax"),
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
// SAFETY: `Control` is `repr(C)` of nothing but `u32`s: no padding, and every bit pattern is a value.
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
        loader.btf(Some(&kernel_btf)).map_max_entries("EVENTS", plan.ring_bytes);
        let calls = plan.calls.unwrap_or(CallFilter::All) as u32;
        loader.override_global("CALLS", &calls, true);
        for ((constant, _, _), offset) in FIELDS.iter().zip(&offsets) {
            loader.override_global(constant, offset, true);
        }
        let mut ebpf = loader.load(&object::bytes()?).map_err(|error| AttachError::Load(chain(&error)))?;
        for (name, _) in plan.tracepoints() {
            attach_program(&mut ebpf, name, &kernel_btf)?;
        }
        let control =
            Array::try_from(take(&mut ebpf, "CONTROL")?).map_err(|error| map_error("CONTROL", &error))?;
        let counters = PerCpuArray::try_from(take(&mut ebpf, "COUNTERS")?)
            .map_err(|error| map_error("COUNTERS", &error))?;
        let events =
            RingBuf::try_from(take(&mut ebpf, "EVENTS")?).map_err(|error| map_error("EVENTS", &error))?;
        Ok(Self { ebpf, plan, control, counters, events })
    }

    /// Records the threads of these processes from now on.
    pub fn arm(&mut self, pids: &[u32]) -> Result<(), AttachError> {
        let mut control = Control { armed: 1, ..Control::IDLE };
        let targets = control.targets.get_mut(..pids.len()).filter(|targets| !targets.is_empty());
        targets.ok_or(AttachError::Targets(pids.len()))?.copy_from_slice(pids);
        control.target_count = pids.len().min(MAX_TARGETS) as u32;
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
    for (offset, (_, structure, field)) in offsets.iter_mut().zip(FIELDS) {
        *offset = kernel.field_offset(structure, field)?;
    }
    Ok(offsets)
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

/// `bpf(BPF_OBJ_GET_INFO_BY_FD)` itself: the loader library reads the same structure and does not show
/// `recursion_misses`.
fn program_info(program: BorrowedFd<'_>) -> io::Result<bpf_prog_info> {
    /// The part of `union bpf_attr` that this command reads.
    #[repr(C)]
    struct InfoByFd {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    // SAFETY: the structure is plain integers; zero is a value of each.
    let mut info: bpf_prog_info = unsafe { mem::zeroed() };
    let mut attr = InfoByFd {
        bpf_fd: program.as_raw_fd().cast_unsigned(),
        info_len: size_of::<bpf_prog_info>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: `attr` is valid for the size named, and the kernel writes at most `info_len` bytes to
    // `info`, which lives until after the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            bpf_cmd::BPF_OBJ_GET_INFO_BY_FD as libc::c_long,
            &raw mut attr,
            size_of::<InfoByFd>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(info) }
}
