//! How long it takes to sum, name, fold and draw a million recorded waits: `cargo bench report`.
//!
//! The addresses are the running kernel's and this program's own, so the symbols are real. Twenty
//! thousand different stacks are far more than a process has that does one job.

use std::fs;
use std::sync::Arc;

use anyhow::{Context, ensure};
use criterion::{BatchSize, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use probes::aggregate::{Filter, Totals};
use probes::decode::{ThreadId, UserSide};
use probes::interval::{Doing, Interval, KernelStack, OffCpu, ThreadNote, Wait};
use probes::symbolize::Symbolizer;
use probes::unwind::{UserFrames, UserStacks};
use reports::offcpu::{Format, SCHEMA, render};

const WAITS: u64 = 1_000_000;
const STACKS: u64 = 20_000;
const THREADS: u64 = 64;
const KERNEL_DEPTH: usize = 16;
const USER_DEPTH: u32 = 12;

criterion_group!(benches, waits_to_pictures);
criterion_main!(benches);

fn waits_to_pictures(criterion: &mut Criterion) {
    reports::plot::stand_in_for_sans_serif();
    let mut group = criterion.benchmark_group("report");
    group.sampling_mode(SamplingMode::Flat).sample_size(10).throughput(Throughput::Elements(WAITS));
    group.bench_function("a million waits in 20 thousand stacks", |bencher| {
        // Read here, and not in every benchmark run that only asks for others.
        let kernel = kernel_functions().expect("the kernel's functions can be read");
        let prepare = || {
            let mut stacks = UserStacks::of(std::process::id()).expect("the own mappings can be read");
            (waits(&kernel, &mut stacks), stacks)
        };
        bencher.iter_batched(
            prepare,
            |(intervals, stacks)| report(&intervals, stacks).expect("the report is drawn"),
            BatchSize::PerIteration,
        );
    });
    group.finish();
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
