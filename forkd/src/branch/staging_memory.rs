//! The memory that snapshots may take between the pause and the disk: reserved before the pause, or not used.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};

/// Left to the host whatever the budget says.
const LEFT_FREE_BYTES: u64 = 256 << 20;

/// A budget of bytes that BRANCHes of all sandboxes share.
#[derive(Clone, Debug)]
pub struct StagingMemory(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    limit_bytes: u64,
    reserved_bytes: Mutex<u64>,
}

/// Bytes reserved until this is dropped.
#[derive(Debug)]
pub struct StagingReservation {
    budget: Arc<Budget>,
    bytes: u64,
}

impl StagingMemory {
    /// A budget of `limit_bytes`.
    pub fn new(limit_bytes: u64) -> Self {
        Self(Arc::new(Budget { limit_bytes, reserved_bytes: Mutex::new(0) }))
    }

    /// Half of the memory that is available now, in bytes.
    pub fn half_of_available() -> u64 {
        available_bytes().unwrap_or(0) / 2
    }

    /// Reserves `bytes`, or says in one sentence why they are not to be had.
    pub fn reserve(&self, bytes: u64) -> Result<StagingReservation, String> {
        const MIB: u64 = 1 << 20;
        if huge_pages_are_forced() {
            return Err(
                "shared memory is made of huge pages here (transparent_hugepage/shmem_enabled), of which it \
                        cannot be told which parts were written: set that to advise or never"
                    .to_owned(),
            );
        }
        let mut reserved = self.0.reserved_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let left = self.0.limit_bytes.saturating_sub(*reserved);
        if bytes > left {
            let (bytes, left) = (bytes / MIB, left / MIB);
            return Err(format!(
                "{bytes} MiB of staging memory are needed and {left} MiB of its budget are left"
            ));
        }
        // What is reserved and not yet used counts as available in the kernel's eyes.
        let available = available_bytes().unwrap_or(u64::MAX).saturating_sub(*reserved);
        if available < bytes + LEFT_FREE_BYTES {
            let (bytes, available) = (bytes / MIB, available / MIB);
            return Err(format!(
                "{bytes} MiB of staging memory are needed and {available} MiB of memory are available"
            ));
        }
        *reserved += bytes;
        Ok(StagingReservation { budget: Arc::clone(&self.0), bytes })
    }

    /// Bytes that are reserved now.
    pub fn reserved_bytes(&self) -> u64 {
        *self.0.reserved_bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StagingReservation {
    /// Gives back all but `bytes`: how much a snapshot takes is known only when it is there.
    pub fn shrink_to(&mut self, bytes: u64) {
        let excess = self.bytes.saturating_sub(bytes);
        self.bytes -= excess;
        *self.budget.reserved_bytes.lock().unwrap_or_else(PoisonError::into_inner) -= excess;
    }
}

impl Drop for StagingReservation {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

fn available_bytes() -> Option<u64> {
    meminfo_bytes("MemAvailable:")
}

/// Whether the host may swap: a page that was allocated and not written comes back as written zeros then.
pub(super) fn host_swaps() -> bool {
    meminfo_bytes("SwapTotal:").is_none_or(|bytes| bytes > 0)
}

/// A line of `/proc/meminfo` (proc(5)) in bytes.
fn meminfo_bytes(name: &str) -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Whether memfds get huge pages unasked: writing a part of one makes all of it count as data.
fn huge_pages_are_forced() -> bool {
    let setting = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled").unwrap_or_default();
    ["[always]", "[within_size]", "[force]"].iter().any(|forced| setting.contains(forced))
}

#[cfg(test)]
mod tests {
    use super::StagingMemory;

    #[test]
    fn what_is_reserved_is_not_given_twice_and_comes_back() {
        let memory = StagingMemory::new(10 << 20);
        let mut first = memory.reserve(8 << 20).unwrap();
        assert!(
            memory.reserve(4 << 20).unwrap_err().contains("4 MiB of staging memory are needed and 2 MiB")
        );
        first.shrink_to(1 << 20);
        let second = memory.reserve(9 << 20).unwrap();
        assert_eq!(memory.reserved_bytes(), 10 << 20);
        drop((first, second));
        assert_eq!(memory.reserved_bytes(), 0);
    }
}
