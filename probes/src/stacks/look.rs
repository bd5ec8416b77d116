//! Reads one thread's files.

use std::fs;

use super::Look;
use crate::proc;
use crate::syscalls;

/// Looks at a thread; `None` where it has ended.
pub fn at(pid: u32, tid: u32) -> Option<Look> {
    let file = |name: &str| fs::read_to_string(proc::thread_file(pid, tid, name)).ok();
    let (comm, state, start_ticks) = proc::name_state_start(&file("stat")?)?;
    let stack = file("stack").map(|text| proc::parse_stack(&text).to_vec());
    let wchan = file("wchan").filter(|name| !name.is_empty() && name != "0");
    let call =
        file("syscall").and_then(|text| text.split_whitespace().next()?.parse().ok()).map(syscalls::name);
    Some(Look { pid, tid, start_ticks, comm, state, call, stack, wchan })
}
