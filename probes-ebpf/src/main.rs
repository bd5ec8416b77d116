//! The kernel side: stamps, filters by process, emits, and counts what it could not emit.
//!
//! Nothing here decides what an event means. Each program returns at its first load while the session
//! is not armed.
#![no_std]
#![no_main]
// Inline assembly for BPF: its atomic addition.
#![feature(asm_experimental_arch)]

mod call;
mod control;
mod device;
mod emit;
mod interrupt;
mod kernel;
mod log;
mod maps;
mod regs;
mod sample;
mod sched;
mod sleepers;
mod task;
mod ustack;
mod window;

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// `bpf_get_stack`, `bpf_task_pt_regs` and others are offered to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
