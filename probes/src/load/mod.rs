//! Loads the programs into the kernel and attaches them. With `drain`, the only code that touches BPF.

mod attach;
mod clock;
mod counters;
mod fields;
mod formats;
mod host;
mod ladder;
mod messages;
mod programs;
mod rung;
mod switch;
mod types;
mod window;

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::{HashMap as KernelHashMap, MapData, MapError, RingBuf};
use aya::programs::Iter;
use aya::sys::{Stats, enable_stats};
use aya::{Ebpf, EbpfLoader, Pod};
use probes_common::{
    CONTROL_MAP, CallFilter, CpuCounters, DIRTIERS, Dirtied, Dirtier, THROTTLED, ThreadEntry, ThrottledSince,
    ThrottledThread, UserRegisters,
};
use reports::cost::ProgramCost;

pub use attach::Refused;
use attach::attach_all;
pub use clock::Clock;
use counters::Counters;
#[cfg(any(test, feature = "fuzzing"))]
pub use formats::parse as parse_format;
use messages::Messages;
use programs::{Entry, Need, PROGRAMS, SLEEPERS};
pub use programs::{Group, Rung};
pub use rung::{Ladder, RefusedRung, SwitchRung};
pub use switch::{Scope, Switch, Watch};
use types::Types;

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
    /// The only way of seeing switches that will do; the first that the kernel takes where there is none.
    pub rung: Option<SwitchRung>,
    /// Where the kernel's type information is.
    pub btf: PathBuf,
    /// Hand what the programs say of themselves to the logger of the `log` crate.
    pub log_bpf: bool,
}

impl Plan {
    /// Switches and wake-ups, with the system calls that `calls` lets through.
    pub fn new(ring_bytes: u32, calls: Option<CallFilter>) -> Self {
        let mut groups = vec![Group::Sched, Group::Interrupts];
        groups.extend(calls.map(|_| Group::Calls));
        let call_filter = calls.unwrap_or(CallFilter::All);
        Self { ring_bytes, groups, call_filter, rung: None, btf: KERNEL_BTF.into(), log_bpf: false }
    }

    /// What happens between processes and disks, and nothing of what threads do beside it.
    pub fn devices(ring_bytes: u32, groups: &[Group]) -> Self {
        Self { groups: groups.to_vec(), ..Self::new(ring_bytes, None) }
    }

    /// The same, and what happens between processes and disks.
    #[must_use]
    pub fn with(mut self, groups: &[Group]) -> Self {
        self.groups.extend(groups);
        self
    }

    /// The system calls that are recorded, where any are.
    pub fn calls(&self) -> Option<CallFilter> {
        self.groups.contains(&Group::Calls).then_some(self.call_filter)
    }

    /// Whether a recording without this group would be refused.
    fn requires(&self, group: Group) -> bool {
        self.required().any(|entry| entry.group == group)
    }

    fn programs(&self) -> impl Iterator<Item = &'static Entry> {
        PROGRAMS.iter().filter(|entry| self.groups.contains(&entry.group))
    }

    /// The entries of a map that only these groups use: it takes memory for each.
    fn entries(&self, groups: &[Group], entries: u32) -> u32 {
        if groups.iter().any(|group| self.groups.contains(group)) { entries } else { 1 }
    }

    /// Programs that nothing stands in for: a rung has others below it.
    fn required(&self) -> impl Iterator<Item = &'static Entry> {
        self.programs().filter(|entry| entry.need == Need::Required && entry.rungs.is_empty())
    }
}

/// The groups of [`Group::Throttle`].
const THROTTLES: [Group; 2] = [Group::Throttle(Rung::Fentry), Group::Throttle(Rung::Kprobe)];
/// What the ring buffer puts before each record (kernel/bpf/ringbuf.c, `BPF_RINGBUF_HDR_SZ`).
const RECORD_HEADER: usize = 8;

#[derive(Clone, Copy)]
#[repr(transparent)]
struct DirtierValue(Dirtier);
// SAFETY: `Dirtier` is `repr(C)` of a `u64` and two `u32`s: no padding, and every bit pattern is a value.
unsafe impl Pod for DirtierValue {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct DirtiedValue(Dirtied);
// SAFETY: `Dirtied` is `repr(C)` of a `u64` and 16 bytes: no padding, and every bit pattern is a value.
unsafe impl Pod for DirtiedValue {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct ThreadValue(ThrottledThread);
// SAFETY: `ThrottledThread` is `repr(C)` of two `u32`s: no padding, and every bit pattern is a value.
unsafe impl Pod for ThreadValue {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct SinceValue(ThrottledSince);
// SAFETY: `ThrottledSince` is `repr(C)` of a `u64` and two `u32`s: no padding, and every bit pattern is a value.
unsafe impl Pod for SinceValue {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct EntryValue(ThreadEntry);
// SAFETY: `ThreadEntry` is `repr(C)` of a `u64` and two `u32`s: no padding, and every bit pattern is a value.
unsafe impl Pod for EntryValue {}

/// The attached programs and their maps. Dropping it detaches and frees everything.
pub struct Probes {
    ebpf: Ebpf,
    /// How switches are seen, where they are.
    ladder: Option<Ladder>,
    /// The threads that a hook can name by their id only.
    threads: KernelHashMap<MapData, u32, EntryValue>,
    /// Those that are attached.
    attached: Vec<&'static Entry>,
    /// Those that are not of any plan, and are attached: a clock's, and those at a function.
    others: Vec<&'static str>,
    /// Those that were asked for and are not.
    refused: Vec<Refused>,
    dirtied: KernelHashMap<MapData, DirtierValue, DirtiedValue>,
    throttled: KernelHashMap<MapData, ThreadValue, SinceValue>,
    switch: Switch,
    counters: Counters,
    events: RingBuf<MapData>,
    ring_bytes: u32,
    /// `None` where nobody listens.
    messages: Option<Messages>,
    /// Reads the registers of sleeping threads; `None` where the kernel has no iterator over tasks.
    sleepers: Option<File>,
    /// Holds the kernel's run-time statistics on.
    statistics: Option<OwnedFd>,
    /// Events that were turned away before anything was recorded.
    missed_before: u64,
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
        let Types { btf: kernel_btf, constants } = Types::read(plan)?;
        let formats = formats::offsets();
        let cpus = host::possible_cpus()?;
        let mut loader = EbpfLoader::new();
        loader
            .btf(kernel_btf.as_ref())
            .map_max_entries("EVENTS", plan.ring_bytes)
            .map_max_entries(counters::MAP, cpus)
            .map_max_entries("USER_STACK", cpus)
            .map_max_entries("DIRTIED", plan.entries(&[Group::Dirty], DIRTIERS))
            .map_max_entries("THROTTLED", plan.entries(&THROTTLES, THROTTLED));
        if !plan.log_bpf {
            loader.map_max_entries(messages::MAP, messages::UNHEARD_BYTES);
        }
        let calls = plan.call_filter as u32;
        let (has_types, log) = (u32::from(kernel_btf.is_some()), u32::from(plan.log_bpf));
        loader.override_global("CALLS", &calls, true).override_global("HAS_TYPES", &has_types, true);
        loader.override_global(messages::SWITCH, &log, true);
        for ((constant, ..), offset) in formats::FIELDS.iter().zip(formats.iter().flatten()) {
            loader.override_global(constant, offset, true);
        }
        for (constant, value) in &constants.values {
            loader.override_global(constant, value, true);
        }
        let mut ebpf = loader.load(&object::bytes()?).map_err(|error| AttachError::Load(chain(&error)))?;
        let formats = formats.map(drop).map_err(|error| error.to_string());
        let kernel = ladder::Kernel { btf: kernel_btf.as_ref(), constants: &constants, formats };
        let switches = ladder::attach(&mut ebpf, plan, &kernel)?;
        let (mut attached, refused) = attach_all(&mut ebpf, plan, &constants, kernel_btf.as_ref())?;
        let ladder = switches.map(|(ladder, programs)| {
            attached.splice(0..0, programs);
            ladder
        });
        let messages = plan.log_bpf.then(|| Messages::of(&mut ebpf)).transpose()?;
        let sleepers = kernel_btf.as_ref().and_then(|btf| attach_sleepers(&mut ebpf, btf));
        // Before the ring buffer is mapped, whose pages count twice: the type information has taken more
        // memory than all that follows.
        drop(kernel_btf);
        host::give_back_memory();
        let switch = Switch::new(take(&mut ebpf, CONTROL_MAP)?)?;
        let counters = Counters::map(take(&mut ebpf, counters::MAP)?, cpus)?;
        let events =
            RingBuf::try_from(take(&mut ebpf, "EVENTS")?).map_err(|error| map_error("EVENTS", &error))?;
        let dirtied = KernelHashMap::try_from(take(&mut ebpf, "DIRTIED")?)
            .map_err(|error| map_error("DIRTIED", &error))?;
        let throttled = KernelHashMap::try_from(take(&mut ebpf, "THROTTLED")?)
            .map_err(|error| map_error("THROTTLED", &error))?;
        let threads = KernelHashMap::try_from(take(&mut ebpf, "THREADS")?)
            .map_err(|error| map_error("THREADS", &error))?;
        Ok(Self {
            ebpf,
            ladder,
            threads,
            attached,
            others: Vec::new(),
            refused,
            dirtied,
            throttled,
            switch,
            counters,
            events,
            ring_bytes: plan.ring_bytes,
            messages,
            sleepers,
            statistics: None,
            missed_before: 0,
        })
    }

    /// How switches are seen; `None` where nobody asked for them.
    pub const fn ladder(&self) -> Option<&Ladder> {
        self.ladder.as_ref()
    }

    /// Says to whom the threads that there are belong: thread id, process and start in nanoseconds of
    /// CLOCK_MONOTONIC. A hook that gives more than the id needs none of it.
    pub fn enter_threads(&mut self, threads: &[(u32, u32, u64)]) -> Result<(), AttachError> {
        /// `BPF_NOEXIST`: one that was entered as it was made stays as it is.
        const NO_EXIST: u64 = 1;
        if self.ladder.as_ref().is_none_or(|ladder| ladder.rung != SwitchRung::Tracepoint) {
            return Ok(());
        }
        for (tid, tgid, start_ns) in threads {
            let value = EntryValue(ThreadEntry { start_ns: *start_ns, tgid: *tgid, reserved: 0 });
            match self.threads.insert(tid, value, NO_EXIST) {
                Ok(()) => {}
                Err(MapError::SyscallError(error)) if error.io_error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(map_error("THREADS", &error)),
            }
        }
        Ok(())
    }

    /// What is attached, as `kind/name`.
    pub fn hooks(&self) -> Vec<String> {
        let others = self.others.iter().map(|name| match *name {
            "clock" => "perf_event/cpu-clock".to_owned(),
            "window_open" => "uprobe/window".to_owned(),
            _ => "uretprobe/window".to_owned(),
        });
        self.attached.iter().map(|entry| entry.hook.name()).chain(others).collect()
    }

    /// A clock that looks at running threads while it runs, and something is recorded.
    pub fn clock(&mut self, period_ns: u64) -> Result<Clock, AttachError> {
        let clock = Clock::open(&mut self.ebpf, period_ns)?;
        self.others.push("clock");
        Ok(clock)
    }

    /// Has windows open and close where the process `pid` enters and leaves the function at `offset` of `file`.
    pub fn windows(&mut self, pid: u32, file: &Path, offset: u64) -> Result<(), AttachError> {
        window::attach(&mut self.ebpf, pid, file, offset)?;
        self.others.extend(["window_open", "window_close"]);
        Ok(())
    }

    /// The names of all that are attached.
    fn names(&self) -> impl Iterator<Item = &'static str> {
        self.attached.iter().map(|entry| entry.name).chain(self.others.iter().copied())
    }

    /// What was asked for, can be done without, and is refused here.
    pub fn refused(&self) -> &[Refused] {
        &self.refused
    }

    /// The pages that were dirtied while something was recorded.
    pub fn dirtied(&self) -> Vec<(Dirtier, Dirtied)> {
        self.dirtied.iter().filter_map(Result::ok).map(|(key, value)| (key.0, value.0)).collect()
    }

    /// The threads that are in a throttle.
    pub fn throttled(&self) -> Vec<(ThrottledThread, ThrottledSince)> {
        self.throttled.iter().filter_map(Result::ok).map(|(key, value)| (key.0, value.0)).collect()
    }

    /// Turns recording on and off; a clone of it does so from another thread.
    pub const fn switch(&self) -> &Switch {
        &self.switch
    }

    /// CPUs that a lane of counters has room for: every one that this machine could have.
    pub const fn cpus(&self) -> u32 {
        self.counters.cpus()
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
    pub fn counters(&self) -> Vec<CpuCounters> {
        self.counters.read()
    }

    /// Hands every record that was ready as this began to `take`, in the order in which they were reserved; of
    /// those that came meanwhile as many as there is room for in the ring buffer, so that this ends also where
    /// they come faster than they are taken. False where more may be ready. What the programs say of themselves goes to
    /// the logger first.
    pub fn drain(&mut self, mut take: impl FnMut(&[u8])) -> bool {
        if let Some(messages) = &mut self.messages {
            messages.hand_on();
        }
        let mut taken_bytes = 0;
        while taken_bytes < self.ring_bytes as usize {
            let Some(record) = self.events.next() else { return true };
            taken_bytes += record.len() + RECORD_HEADER;
            take(&record);
        }
        false
    }

    /// What each program has cost, as the kernel counts it; empty unless that was asked for.
    pub fn costs(&self) -> Vec<ProgramCost> {
        let counted = self.names().filter(|_| self.statistics.is_some());
        let cost = |name: &str| {
            let fd = self.ebpf.program(name)?.fd().ok()?;
            let info = program_info(fd.as_fd()).ok()?;
            Some(ProgramCost { name: name.to_owned(), runs: info.run_cnt, run_ns: info.run_time_ns })
        };
        counted.filter_map(cost).collect()
    }

    /// Has the kernel count and time every run of every BPF program on the host, until this is dropped.
    pub fn count_runs(&mut self) -> Result<(), AttachError> {
        let refused =
            |source| AttachError::System { what: "asking for BPF run-time statistics".to_owned(), source };
        let statistics = enable_stats(Stats::RunTime).map_err(|error| refused(error.io_error))?;
        self.statistics = Some(statistics);
        Ok(())
    }

    /// Counts events that are turned away from now on: what is not recorded yet cannot be lost.
    pub fn forget_misses(&mut self) {
        self.missed_before = self.all_misses().unwrap_or(0);
    }

    /// Events that found their program already running on the same CPU, and were turned away by the
    /// kernel; `None` where it does not tell.
    pub fn recursion_misses(&self) -> Option<u64> {
        self.all_misses().map(|misses| misses.saturating_sub(self.missed_before))
    }

    fn all_misses(&self) -> Option<u64> {
        self.names()
            .map(|name| {
                let fd = self.ebpf.program(name)?.fd().ok()?;
                Some(program_info(fd.as_fd()).ok()?.recursion_misses)
            })
            .sum()
    }
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
