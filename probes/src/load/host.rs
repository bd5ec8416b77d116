//! Refuses what cannot work, with the reason, before the kernel refuses it without one.

use std::fs;
use std::io;

use crate::error::AttachError;
use crate::proc;

/// Inode of the pid namespace that the kernel starts with (include/linux/proc_ns.h, `PROC_PID_INIT_INO`).
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_PERFMON: u64 = 1 << 38;
const CAP_BPF: u64 = 1 << 39;

/// Looks at capabilities, lockdown and the pid namespace.
pub fn check() -> Result<(), AttachError> {
    let system = |what: &str| {
        let what = what.to_owned();
        move |source| AttachError::System { what, source }
    };
    let held = proc::effective_capabilities().map_err(system("reading /proc/self/status"))?;
    if held & CAP_SYS_ADMIN == 0 {
        match (held & CAP_BPF != 0, held & CAP_PERFMON != 0) {
            (true, true) => {}
            (false, true) => return Err(AttachError::Capability("CAP_BPF")),
            (true, false) => return Err(AttachError::Capability("CAP_PERFMON")),
            (false, false) => return Err(AttachError::Capability("CAP_BPF and CAP_PERFMON")),
        }
    }
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    if lockdown.contains("[confidentiality]") {
        return Err(AttachError::Lockdown);
    }
    let namespace = rustix::fs::stat("/proc/self/ns/pid").map_err(io::Error::from);
    if namespace.map_err(system("reading /proc/self/ns/pid"))?.st_ino != INITIAL_PID_NAMESPACE {
        return Err(AttachError::PidNamespace);
    }
    Ok(())
}

/// Every CPU that this machine could have.
pub fn possible_cpus() -> Result<u32, AttachError> {
    let cpus = aya::util::nr_cpus()
        .map_err(|(path, source)| AttachError::System { what: format!("reading {path}"), source })?;
    Ok(cpus as u32)
}

/// Returns freed memory to the kernel, which the allocator would keep.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}
