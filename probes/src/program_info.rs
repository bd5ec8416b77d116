//! What the kernel knows of a loaded program.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};

use aya_obj::generated::{bpf_cmd, bpf_prog_info};

/// `bpf(BPF_OBJ_GET_INFO_BY_FD)` itself: the loader library reads the same structure and does not show
/// `recursion_misses`.
pub fn program_info(program: BorrowedFd<'_>) -> io::Result<bpf_prog_info> {
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
