//! How long it takes to unwind a copied user stack in user space: `cargo bench unwind`.
//!
//! The stack is this program's own, [`DEPTH`] calls deep, with the unwind tables that the compiler wrote for it. Each
//! pass gives it another signature, as a stack that was never seen before has.

use std::hint::black_box;
use std::mem::MaybeUninit;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use probes::decode::UserSample;
use probes::unwind::UserStacks;
use probes_common::{MAX_USER_STACK, UserRegisters};

/// Calls below the one whose registers are read.
const DEPTH: u32 = 24;
/// Before the table of signatures is full.
const STACKS: u64 = 1 << 18;

criterion_group!(benches, unwinding);
criterion_main!(benches);

fn unwinding(criterion: &mut Criterion) {
    reports::plot::stand_in_for_sans_serif();
    let (registers, stack) = deep(DEPTH);
    let sample = |signature| UserSample {
        time_ns: 0,
        cpu: 0,
        sequence: 0,
        tgid: std::process::id(),
        signature,
        registers,
        stack: &stack,
        lane: 0,
    };
    let fresh = || UserStacks::of(std::process::id()).expect("the own mappings can be read");
    let (mut stacks, mut signature) = (fresh(), 0);
    let mut group = criterion.benchmark_group("unwind");
    group.throughput(Throughput::Elements(1));
    group.bench_function(format!("a stack of {DEPTH} and more frames"), |bencher| {
        bencher.iter(|| {
            signature += 1;
            if signature % STACKS == 0 {
                stacks = fresh();
            }
            stacks.take(black_box(&sample(signature)));
        });
    });
    group.bench_function("the first stack of a process", |bencher| {
        bencher.iter_with_large_drop(|| {
            let mut stacks = fresh();
            stacks.take(black_box(&sample(1)));
            stacks
        });
    });
    group.finish();
}

/// The registers and the stack of `depth` calls of itself.
#[inline(never)]
fn deep(depth: u32) -> (UserRegisters, Vec<u8>) {
    if depth > 0 {
        // What is done after the call keeps it from being a jump.
        return black_box(deep(depth - 1));
    }
    let mut context = MaybeUninit::<libc::ucontext_t>::zeroed();
    // SAFETY: the pointer is to a context of its own, which the call fills.
    let context = unsafe {
        assert_eq!(libc::getcontext(context.as_mut_ptr()), 0, "getcontext(3) has no reason to fail");
        context.assume_init()
    };
    let register = |which: i32| context.uc_mcontext.gregs[which as usize] as u64;
    let registers = UserRegisters {
        ip: register(libc::REG_RIP),
        sp: register(libc::REG_RSP),
        bp: register(libc::REG_RBP),
        bx: register(libc::REG_RBX),
        r12_to_r15: [libc::REG_R12, libc::REG_R13, libc::REG_R14, libc::REG_R15].map(register),
    };
    (registers, copy_of_stack(registers.sp))
}

/// From `sp` up to the end of the stack, as far as it is copied of a thread.
fn copy_of_stack(sp: u64) -> Vec<u8> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("the own mappings can be read");
    let ends = maps.lines().filter_map(|line| {
        let (start, end) = line.split(' ').next()?.split_once('-')?;
        let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap_or(0));
        (start..end).contains(&sp).then_some(end)
    });
    let end = ends.max().expect("the stack is mapped");
    let bytes = (end - sp).min(MAX_USER_STACK as u64) as usize;
    // SAFETY: the range lies in one readable mapping, this thread's stack above its own stack pointer; other code of
    // this thread writes it after the copy only.
    unsafe { std::slice::from_raw_parts(sp as *const u8, bytes) }.to_vec()
}
