//! Memory that nobody has, and what its first use costs.

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// As the kernel hands it out when a process touches what it has not had.
const PAGE: usize = 4096;

/// Touches `bytes` of memory, one page at a time, and gives it back. Where there is none, it does nothing.
///
/// What is allocated within the next seconds is this memory. That matters in a virtual machine whose hypervisor takes
/// back what has been free for some seconds (free page reporting): the first write to such a page waits for the
/// hypervisor, and takes ten times as long as to another.
#[inline(never)]
pub fn touch_and_free(bytes: usize) {
    // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
    let mapped = unsafe {
        mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    };
    let Ok(memory) = mapped else { return };
    // SAFETY: the range is the mapping that was just made; the advice changes the size of its pages only, so that there
    // are as many faults as pages.
    let _ = unsafe { madvise(memory, bytes, Advice::LinuxNoHugepage) };
    for at in (0..bytes).step_by(PAGE) {
        // SAFETY: `at` lies within the mapping, which is writable and known to nobody else.
        unsafe { memory.cast::<u8>().add(at).write_volatile(1) };
    }
    // SAFETY: nothing refers to the mapping any more.
    let _ = unsafe { munmap(memory, bytes) };
}
