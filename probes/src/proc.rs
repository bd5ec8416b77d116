//! What `/proc` tells of a process and its threads.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use probes_common::MAX_USER_STACK;
use rustix::time::{ClockId, clock_getres, clock_gettime};

use crate::call::SeedCall;
use crate::comm::Comm;
use crate::decode::UserSide;
use crate::interval::{Seed, SeedState};
use crate::recfile::Host;
use crate::unwind::Stack;

/// `USER_HZ`, the unit of times in `/proc/PID/stat`: 100 on every architecture but alpha.
const TICK_NS: u64 = 10_000_000;
const PAGE: u64 = 4096;

/// Now, on the clock that the kernel side stamps with.
pub fn monotonic_ns() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// The kernel's tick: the resolution of its coarse clock (kernel/time/posix-timers.c).
pub fn tick_ns() -> u64 {
    clock_getres(ClockId::MonotonicCoarse).tv_nsec.cast_unsigned()
}

fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// Given thread id, instruction and stack of a sleeping thread, yields where it is.
type Unwind<'a> = &'a mut dyn FnMut(u32, u64, Stack<'_>) -> UserSide;

/// Looks at every thread of `pid`. A thread that ends meanwhile is left out: its events tell of it.
/// `unwind` is called for each that sleeps.
pub fn seeds(pid: u32, unwind: Unwind<'_>) -> io::Result<Vec<Seed>> {
    // Start times in stat count from boot with suspended time; records count without.
    let suspended_ns = suspended_ns();
    // Absent where this process may not read that one's memory; then there are instructions only.
    let memory = File::open(format!("/proc/{pid}/mem")).ok();
    let mut sleepers = Sleepers { pid, memory, unwind };
    let seeds = thread_ids(pid)?.into_iter().filter_map(|tid| seed(&mut sleepers, tid, suspended_ns));
    Ok(seeds.collect())
}

/// The threads of `pid`: each one's id, `pid`, and its start in nanoseconds of CLOCK_MONOTONIC, to within a clock tick.
pub fn thread_starts(pid: u32) -> io::Result<Vec<(u32, u32, u64)>> {
    let suspended_ns = suspended_ns();
    let start = |tid: u32| {
        let stat = parse_stat(&fs::read_to_string(thread_file(pid, tid, "stat")).ok()?)?;
        Some((tid, pid, on_monotonic(stat.start_ticks, suspended_ns)))
    };
    Ok(thread_ids(pid)?.into_iter().filter_map(start).collect())
}

/// Whether the thread that began at `start_ns` of CLOCK_MONOTONIC lives: it is no zombie, as a process's first thread is
/// until all have ended, and no later thread has its id.
pub fn lives(pid: u32, tid: u32, start_ns: u64) -> bool {
    let Ok(text) = fs::read_to_string(thread_file(pid, tid, "stat")) else { return false };
    // What the machine has been suspended since the thread began makes it seem to be older, and never younger.
    let suspended_ns = suspended_ns();
    name_state_start(&text).is_some_and(|(_, letter, start_ticks)| {
        let seems_ns = on_monotonic(start_ticks, suspended_ns);
        !matches!(letter, 'Z' | 'X') && seems_ns <= start_ns + 2 * TICK_NS
    })
}

/// The system call that each thread of `pid` is in; threads in user space are left out.
pub fn calls(pid: u32) -> Vec<SeedCall> {
    let tids = thread_ids(pid).unwrap_or_default();
    let call = |tid: u32| {
        let text = fs::read_to_string(thread_file(pid, tid, "syscall")).ok()?;
        let (number, arguments) = parse_call(&text)?;
        Some(SeedCall { tgid: pid, tid, taken_ns: monotonic_ns(), number, arguments })
    };
    tids.into_iter().filter_map(call).collect()
}

/// Where the stack pointer of each thread of `pid` was as it entered the kernel; running threads are left out.
pub fn stack_pointers(pid: u32) -> Vec<(u32, u64)> {
    let tids = thread_ids(pid).unwrap_or_default();
    let pointer = |tid: u32| {
        let text = fs::read_to_string(thread_file(pid, tid, "syscall")).ok()?;
        // The last two fields are stack pointer and instruction pointer.
        let field = text.split_whitespace().rev().nth(1)?.strip_prefix("0x")?;
        Some((tid, u64::from_str_radix(field, 16).ok()?))
    };
    tids.into_iter().filter_map(pointer).collect()
}

/// For how long the machine has been suspended so far: CLOCK_MONOTONIC leaves that out.
fn suspended_ns() -> u64 {
    nanoseconds(ClockId::Boottime).saturating_sub(monotonic_ns())
}

/// A start in clock ticks, as `/proc/PID/stat` has it, in nanoseconds of CLOCK_MONOTONIC.
const fn on_monotonic(start_ticks: u64, suspended_ns: u64) -> u64 {
    (start_ticks * TICK_NS).saturating_sub(suspended_ns)
}

/// When the process `pid` was made, in nanoseconds of CLOCK_MONOTONIC, to within a clock tick.
pub fn start_ns(pid: u32) -> io::Result<u64> {
    let suspended_ns = suspended_ns();
    let stat = parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat"))?);
    let ticks = stat.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?.start_ticks;
    Ok(on_monotonic(ticks, suspended_ns))
}

/// The process of this host that is known as `inside` in a pid namespace of its own, if there is just one.
pub fn known_inside_as(inside: u32) -> Option<u32> {
    let entries = fs::read_dir("/proc").ok()?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut found = pids.filter(|pid| {
        // One id for each namespace, from the outermost to the process's own.
        let ids = status_field(*pid, "NSpid:").unwrap_or_default();
        ids.split_whitespace().skip(1).last().is_some_and(|last| last.parse() == Ok(inside))
    });
    found.next().filter(|_| found.next().is_none())
}

/// The machine, and what time it is there.
pub fn host() -> Host {
    let name = rustix::system::uname();
    let text = |field: &std::ffi::CStr| field.to_string_lossy().into_owned();
    let unix_seconds = clock_gettime(ClockId::Realtime).tv_sec.cast_unsigned();
    let (kernel, machine) = (text(name.release()), text(name.machine()));
    Host { kernel, machine, unix_seconds, tick_ns: tick_ns() }
}

/// The CPU time that each thread of `pid` has had, by thread id.
pub fn ran_ns(pid: u32) -> std::collections::HashMap<u32, u64> {
    let tids = thread_ids(pid).unwrap_or_default();
    tids.into_iter().filter_map(|tid| Some((tid, thread_ran_ns(pid, tid)?))).collect()
}

/// The process's name; empty where it has none or is gone.
pub fn process_comm(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// A thread's name; empty where it is gone.
pub fn thread_comm(pid: u32, tid: u32) -> String {
    fs::read_to_string(thread_file(pid, tid, "comm")).unwrap_or_default().trim_end().to_owned()
}

/// The most memory that this process has had resident so far; 0 where the kernel does not tell.
pub fn peak_resident_bytes() -> u64 {
    let field = status_field(std::process::id(), "VmHWM:").unwrap_or_default();
    field.split_whitespace().next().and_then(|kib| kib.parse().ok()).map_or(0, |kib: u64| kib * 1024)
}

/// The process that `pid` belongs to: itself, unless it is the id of one of a process's other threads.
pub fn thread_group(pid: u32) -> io::Result<u32> {
    status_field(pid, "Tgid:")?
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "/proc/PID/status has no number as Tgid"))
}

/// Whether a thread's system calls go through a seccomp filter (`SECCOMP_MODE_FILTER`, include/uapi/linux/seccomp.h).
pub fn has_seccomp_filter(tid: u32) -> bool {
    status_field(tid, "Seccomp:").is_ok_and(|mode| mode == "2")
}

/// This process's effective capabilities, one bit each.
pub fn effective_capabilities() -> io::Result<u64> {
    let text = status_field(std::process::id(), "CapEff:")?;
    u64::from_str_radix(&text, 16).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

fn status_field(pid: u32, name: &str) -> io::Result<String> {
    fs::read_to_string(format!("/proc/{pid}/status"))?
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .map(|value| value.trim().to_owned())
        .ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/status has no {name}"))
        })
}

/// The threads of `pid`.
pub fn thread_ids(pid: u32) -> io::Result<Vec<u32>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// How the user stacks of sleeping threads are had.
struct Sleepers<'a> {
    pid: u32,
    memory: Option<File>,
    unwind: Unwind<'a>,
}

impl Sleepers<'_> {
    /// Best effort: the thread is not held still, so what it is doing is read before and after its stack.
    fn user_side(&mut self, tid: u32) -> Option<UserSide> {
        let syscall = || fs::read_to_string(thread_file(self.pid, tid, "syscall")).ok();
        let before = syscall()?;
        let (sp, ip) = parse_syscall(&before)?;
        let bytes = self.memory.as_ref().map(|memory| stack_bytes(memory, sp)).unwrap_or_default();
        if bytes.is_empty() || syscall()? != before {
            return Some(UserSide { ip, stack: None });
        }
        Some((self.unwind)(tid, ip, Stack { start: sp, bytes: &bytes }))
    }
}

/// Page by page, up to the first that cannot be read.
fn stack_bytes(memory: &File, sp: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < MAX_USER_STACK {
        let at = sp + bytes.len() as u64;
        let step = (PAGE - at % PAGE).min((MAX_USER_STACK - bytes.len()) as u64);
        let from = bytes.len();
        bytes.resize(from + step as usize, 0);
        if memory.read_exact_at(&mut bytes[from..], at).is_err() {
            bytes.truncate(from);
            break;
        }
    }
    bytes
}

fn seed(sleepers: &mut Sleepers<'_>, tid: u32, suspended_ns: u64) -> Option<Seed> {
    let pid = sleepers.pid;
    let file = |name: &str| fs::read_to_string(thread_file(pid, tid, name)).ok();
    let stat = parse_stat(&file("stat")?)?;
    let is_waiting = matches!(stat.state, SeedState::Waiting(_));
    let kernel = if is_waiting { file("stack").map(|text| parse_stack(&text)) } else { None };
    let user = if is_waiting { sleepers.user_side(tid) } else { None };
    Some(Seed {
        tid,
        tgid: pid,
        start_ns: on_monotonic(stat.start_ticks, suspended_ns),
        comm: stat.comm,
        state: stat.state,
        kernel: kernel.filter(|frames| !frames.is_empty()),
        user,
        ran_ns: thread_ran_ns(pid, tid),
        taken_ns: monotonic_ns(),
    })
}

/// A file of one thread.
pub fn thread_file(pid: u32, tid: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/task/{tid}/{name}"))
}

fn thread_ran_ns(pid: u32, tid: u32) -> Option<u64> {
    let text = fs::read_to_string(thread_file(pid, tid, "schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    comm: Comm,
    state: SeedState,
    start_ticks: u64,
}

/// `tid (comm) state ...`; the name may hold spaces and parentheses, so it ends at the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let (before, rest) = text.rsplit_once(')')?;
    let comm = before.split_once('(')?.1;
    let mut fields = rest.split_whitespace();
    let state = SeedState::from_letter(fields.next()?.chars().next()?);
    // starttime is field 22, and the state was field 3.
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some(Stat { comm: Comm::from_text(comm), state, start_ticks })
}

/// A thread's name, the letter of its state, and its start in clock ticks, from its `stat`.
pub fn name_state_start(text: &str) -> Option<(String, char, u64)> {
    let letter = text.rsplit_once(')')?.1.trim_start().chars().next()?;
    let stat = parse_stat(text)?;
    Some((stat.comm.text().into_owned(), letter, stat.start_ticks))
}

/// Lines of the form `[<0>] futex_wait_queue+0x6d/0x90 [module]`.
pub fn parse_stack(text: &str) -> Arc<[String]> {
    text.lines()
        .filter_map(|line| {
            let symbol = line.split_whitespace().nth(1)?;
            Some(symbol.split('+').next().unwrap_or(symbol).to_owned())
        })
        .collect()
}

/// `NR arg0 ... arg5 SP PC` of a thread inside a system call, `-1 SP PC` of one outside, `running`.
/// The last two.
fn parse_syscall(text: &str) -> Option<(u64, u64)> {
    let mut fields = text.split_whitespace().rev();
    let mut address = || u64::from_str_radix(fields.next()?.strip_prefix("0x")?, 16).ok();
    let (ip, sp) = (address()?, address()?);
    (ip != 0).then_some((sp, ip))
}

/// Number and arguments, where the thread is inside a system call.
fn parse_call(text: &str) -> Option<(u32, [u64; 6])> {
    let mut fields = text.split_whitespace();
    let number = fields.next()?.parse().ok()?;
    let mut arguments = [0; 6];
    for argument in &mut arguments {
        *argument = u64::from_str_radix(fields.next()?.strip_prefix("0x")?, 16).ok()?;
    }
    Some((number, arguments))
}

/// For [`crate::fuzzing`]: as each of a thread's files.
#[cfg(any(test, feature = "fuzzing"))]
pub fn parse_all(text: &str) {
    let _ =
        (parse_stat(text), name_state_start(text), parse_stack(text), parse_syscall(text), parse_call(text));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interval::Wait;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let text = "42 (a) b (c)) S 1 42 42 0 -1 4194304 100 0 0 0 1 2 0 0 20 0 1 0 98765 1000 1 184";
        let expected = Stat {
            comm: Comm::from_text("a) b (c)"),
            state: SeedState::Waiting(Wait::Interruptible),
            start_ticks: 98765,
        };
        assert_eq!(parse_stat(text), Some(expected));
    }

    #[test]
    fn a_stack_file_gives_names_without_offsets() {
        let text = "[<0>] ep_poll+0x2a0/0x350\n[<0>] wbt_wait+0x1/0x2 [blk]\n";
        assert_eq!(*parse_stack(text), ["ep_poll".to_owned(), "wbt_wait".to_owned()]);
        assert!(parse_stack("").is_empty());
    }

    #[test]
    fn the_syscall_file_gives_stack_pointer_and_instruction_where_it_has_them() {
        assert_eq!(
            parse_syscall("281 0x4 0x7f 0x1 0x0 0x0 0x8 0x7ffc0 0x7f12ab\n"),
            Some((0x7ffc0, 0x7f12ab))
        );
        assert_eq!(parse_syscall("-1 0x7ffc0 0x55aa\n"), Some((0x7ffc0, 0x55aa)));
        assert_eq!(parse_syscall("running\n"), None);
        assert_eq!(parse_syscall("0 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0\n"), None);
    }

    #[test]
    fn a_call_is_a_number_and_six_arguments() {
        let text = "202 0x7f10 0x189 0x2 0x0 0x0 0xffffffff 0x7ffc0 0x7f12ab\n";
        assert_eq!(parse_call(text), Some((202, [0x7f10, 0x189, 2, 0, 0, 0xffff_ffff])));
        assert_eq!(parse_call("-1 0x7ffc0 0x55aa\n"), None);
        assert_eq!(parse_call("running\n"), None);
        assert_eq!(parse_call("202 0x1 0x2\n"), None);
    }

    #[test]
    fn our_own_threads_have_seeds() {
        let mut unwind = |_, ip, _: Stack<'_>| UserSide { ip, stack: None };
        let seeds = seeds(std::process::id(), &mut unwind).unwrap();
        assert!(!seeds.is_empty());
        assert!(seeds.iter().all(|seed| seed.start_ns < seed.taken_ns));
    }
}
