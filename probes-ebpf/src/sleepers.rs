//! The user registers of threads that are asleep already.

use core::ffi::c_void;
use core::ptr::read_volatile;

use aya_ebpf::helpers::generated::bpf_seq_write;
use probes_common::TaskRegisters;

use crate::control::control;
use crate::task::{Task, Thread};

/// `struct bpf_iter__task`: what an iterator over tasks gives its program (kernel/bpf/task_iter.c).
#[repr(C)]
pub struct IteratorContext {
    /// `struct bpf_iter_meta *`, whose first field is the `struct seq_file *` to write to.
    meta: *const *mut c_void,
    /// `struct task_struct *`; null at the end.
    task: *const u8,
}

/// Writes one [`TaskRegisters`] for each thread of a watched process. Those of a thread that runs are out of
/// date: user space compares them with what the thread is seen to do.
///
/// # Safety
/// Called by the kernel, with a context of its own.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub unsafe extern "C" fn sleepers(context: *const IteratorContext) -> i32 {
    // SAFETY: the kernel's context; the verifier types and checks both pointers.
    let (meta, task) =
        unsafe { (read_volatile(&raw const (*context).meta), read_volatile(&raw const (*context).task)) };
    if task.is_null() {
        return 0;
    }
    // SAFETY: the iterator's `task` is a `struct task_struct *`.
    let task = unsafe { Task::from_argument(task) };
    if task.is_kernel_only() || task.target(control()).is_none() {
        return 0;
    }
    let found = TaskRegisters { tid: task.tid(), tgid: task.tgid(), registers: task.user_registers().read() };
    // SAFETY: `found` is valid for the size named, and `meta` leads to the file that is being read.
    unsafe {
        bpf_seq_write(
            read_volatile(meta).cast(),
            (&raw const found).cast(),
            size_of::<TaskRegisters>() as u32,
        )
    };
    0
}
