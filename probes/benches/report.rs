//! How long it takes to sum, name, fold and draw a million recorded waits: `cargo bench -p probes`.
//!
//! The addresses are the running kernel's and this program's own, so the symbols are real. Twenty
//! thousand different stacks are far more than a process has that does one job.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use probes::aggregate::{Filter, Totals};
use probes::decode::{ThreadId, UserSide};
use probes::interval::{Doing, Interval, KernelStack, OffCpu, ThreadNote, Wait};
use probes::symbolize::Symbolizer;
use probes::unwind::{UserFrames, UserStacks};
use reports::offcpu::{Format, SCHEMA, render};
use rustix::time::{ClockId, clock_gettime};

const WAITS: u64 = 1_000_000;
const STACKS: u64 = 20_000;
const THREADS: u64 = 64;
const KERNEL_DEPTH: usize = 16;
const USER_DEPTH: u32 = 12;
const RUNS: u32 = 5;

fn main() -> anyhow::Result<()> {
    let kernel = kernel_functions()?;
    let mut all = Vec::new();
    for run in 1..=RUNS {
        let mut stacks = UserStacks::of(std::process::id()).context("reading /proc/self/maps")?;
        let intervals = waits(&kernel, &mut stacks);
        let (begun, cpu_begun) = (Instant::now(), cpu_time());
        let drawn = report(&intervals, stacks)?;
        let (took, cpu) = (begun.elapsed(), cpu_time().saturating_sub(cpu_begun));
        println!(
            "run {run}: {WAITS} waits in {STACKS} stacks: {took:.2?}, {cpu:.2?} of them on a CPU \
             ({drawn} bytes of SVG)"
        );
        all.push(took);
    }
    all.sort_unstable();
    let median = all.get(all.len() / 2).copied().unwrap_or(Duration::ZERO);
    println!("median {median:.2?}, slowest {:.2?}", all.last().copied().unwrap_or_default());
    Ok(())
}

/// What this process has used: on a busy host the better measure.
fn cpu_time() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(used.tv_sec.unsigned_abs(), used.tv_nsec.unsigned_abs() as u32)
}

fn report(intervals: &[Interval], stacks: UserStacks) -> anyhow::Result<usize> {
    let mut totals = Totals::new(Filter::default());
    for wait in 0..WAITS {
        let stack = (wait.wrapping_mul(0x9e37_79b9) % STACKS) as usize;
        totals.add(&intervals[stack]);
    }
    let tables = totals.tables(&notes(), &mut Symbolizer::new((std::process::id(), stacks).into()));
    ensure!(tables.threads.len() as u64 == THREADS, "a thread is missing");
    let report = reports::offcpu::OffCpu {
        schema: SCHEMA.to_owned(),
        pid: std::process::id(),
        comm: "bench".to_owned(),
        processes: Vec::new(),
        window_ns: 10_000_000_000,
        windows: 1,
        attach: "none".to_owned(),
        loss: Default::default(),
        warnings: Vec::new(),
        threads: tables.threads,
        stacks: tables.stacks,
        cost: None,
    };
    render(&report, Format::Folded)?;
    Ok(render(&report, Format::Svg)?.len())
}

/// That the threads are this process's.
fn notes() -> Vec<ThreadNote> {
    let note =
        |tid| ThreadNote { thread: ThreadId { tid, start_ns: 1 }, tgid: std::process::id(), comm: None };
    (1..=THREADS as u32).map(note).collect()
}

/// One wait for each stack.
fn waits(kernel: &[u64], stacks: &mut UserStacks) -> Vec<Interval> {
    (0..STACKS)
        .map(|stack| {
            let frames = (0..KERNEL_DEPTH).map(|depth| pick(kernel, stack >> (depth / 2), depth));
            let off = OffCpu {
                wait: Wait::Interruptible,
                stack: KernelStack::Addresses(Arc::from_iter(frames)),
                user: Some(user_side(stack, stacks)),
                waker: None,
            };
            let thread = ThreadId { tid: (stack % THREADS) as u32 + 1, start_ns: 1 };
            let doing = Doing::OffCpu(off);
            Interval { thread, start_ns: 0, end_ns: 50_000, doing, left_cpu: true, truncated: false }
        })
        .collect()
}

fn pick(functions: &[u64], stack: u64, depth: usize) -> u64 {
    let at = stack.wrapping_mul(31).wrapping_add(depth as u64 * 977) as usize;
    functions[at % functions.len()] + 1
}

/// Calls through this program's own code, different for each stack.
fn user_side(stack: u64, stacks: &mut UserStacks) -> UserSide {
    let code = user_side as fn(u64, &mut UserStacks) -> UserSide as usize as u64;
    let address = |depth| code + 512 * (stack.wrapping_mul(7).wrapping_shr(depth) % 256);
    let places = (0..USER_DEPTH).map(|depth| stacks.images().place(address(depth))).collect();
    let signature = stack + 1;
    stacks.insert(signature, UserFrames { places, truncated: false });
    UserSide { ip: address(0), stack: Some(signature) }
}

fn kernel_functions() -> anyhow::Result<Vec<u64>> {
    let symbols = fs::read_to_string("/proc/kallsyms").context("reading /proc/kallsyms")?;
    let functions: Vec<u64> = symbols
        .lines()
        .filter(|line| matches!(line.split(' ').nth(1), Some("t" | "T")))
        .filter_map(|line| u64::from_str_radix(line.split(' ').next()?, 16).ok())
        .filter(|address| *address != 0)
        .collect();
    ensure!(!functions.is_empty(), "/proc/kallsyms hides addresses: run this as root");
    Ok(functions)
}
