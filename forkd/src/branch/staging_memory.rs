//! The memory that snapshots may take between the pause and the disk: reserved before the pause, or not used.

use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Left to the host whatever the budget says.
const LEFT_FREE_BYTES: u64 = 256 << 20;

/// A budget of bytes that BRANCHes of all sandboxes share.
#[derive(Clone, Debug)]
pub struct StagingMemory(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    limit_bytes: u64,
    taken: Mutex<Taken>,
}

/// What all reservations together have taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Taken {
    /// Promised to BRANCHes.
    reserved_bytes: u64,
    /// The part of it that is allocated: the kernel does not count it as available any more.
    allocated_bytes: u64,
}

/// Bytes reserved until this is dropped.
#[derive(Debug)]
pub struct StagingReservation {
    budget: Arc<Budget>,
    bytes: u64,
    allocated_bytes: u64,
}

impl StagingMemory {
    /// A budget of `limit_bytes`.
    pub fn new(limit_bytes: u64) -> Self {
        Self(Arc::new(Budget { limit_bytes, taken: Mutex::default() }))
    }

    /// Half of the memory that is available now, in bytes.
    pub fn half_of_available() -> u64 {
        available_bytes().unwrap_or(0) / 2
    }

    /// Reserves `bytes`, or says in one sentence why they are not to be had.
    pub fn reserve(&self, bytes: u64) -> Result<StagingReservation, String> {
        if huge_pages_are_forced() {
            return Err(
                "shared memory is made of huge pages here (transparent_hugepage/shmem_enabled), of which it \
                        cannot be told which parts were written: set that to advise or never"
                    .to_owned(),
            );
        }
        let mut taken = self.0.lock();
        taken.require_room(self.0.limit_bytes, available_bytes(), bytes)?;
        taken.reserved_bytes += bytes;
        Ok(StagingReservation { budget: Arc::clone(&self.0), bytes, allocated_bytes: 0 })
    }

    /// Bytes that there are, reserved or not.
    pub fn limit_bytes(&self) -> u64 {
        self.0.limit_bytes
    }

    /// Bytes that are reserved now.
    pub fn reserved_bytes(&self) -> u64 {
        self.0.lock().reserved_bytes
    }
}

impl Budget {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Nothing that holds the lock can leave the two figures half-changed.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Whether `bytes` more fit, or why not. `available_bytes` is what the kernel would give now, where it says.
    ///
    /// Of what is reserved, the allocated part is missing from `available_bytes` already; only the rest, which
    /// will be allocated, is to be taken off it.
    fn require_room(self, limit_bytes: u64, available_bytes: Option<u64>, bytes: u64) -> Result<(), String> {
        let left = limit_bytes.saturating_sub(self.reserved_bytes);
        let promised = self.reserved_bytes - self.allocated_bytes;
        let available = available_bytes.unwrap_or(u64::MAX).saturating_sub(promised);
        let (what, there) = match () {
            () if bytes > left => ("of its budget are left", left),
            () if available < bytes.saturating_add(LEFT_FREE_BYTES) => ("of memory are available", available),
            () => return Ok(()),
        };
        let (bytes, there) = (bytes >> 20, there >> 20);
        Err(format!("{bytes} MiB of staging memory are needed and {there} MiB {what}"))
    }
}

impl StagingReservation {
    /// Notes that `bytes` of it are allocated; the rest is still to come.
    pub fn note_allocated(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        let mut taken = self.budget.lock();
        taken.allocated_bytes = taken.allocated_bytes - self.allocated_bytes + bytes;
        self.allocated_bytes = bytes;
    }

    /// Gives back all but `bytes`, which are allocated: how much a snapshot takes is known only when it is there.
    pub fn shrink_to(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.note_allocated(bytes);
        self.budget.lock().reserved_bytes -= self.bytes - bytes;
        self.bytes = bytes;
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
    use super::{StagingMemory, Taken};

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

    #[test]
    fn what_is_reserved_counts_once_whether_it_is_allocated_yet_or_not() {
        const MIB: u64 = 1 << 20;
        // 1,000 MiB were available; 600 are reserved. Beside what is left to the host, 144 more fit, however
        // much of the 600 is allocated by now.
        for allocated in [0, 100, 600] {
            let taken = Taken { reserved_bytes: 600 * MIB, allocated_bytes: allocated * MIB };
            let available = Some((1000 - allocated) * MIB);
            assert_eq!(taken.require_room(u64::MAX, available, 144 * MIB), Ok(()), "{allocated}");
            let refused = taken.require_room(u64::MAX, available, 145 * MIB).unwrap_err();
            assert!(
                refused.contains("145 MiB of staging memory are needed and 400 MiB of memory"),
                "{refused}"
            );
        }
    }

    #[test]
    fn allocation_is_noted_within_the_reservation_and_goes_with_it() {
        let memory = StagingMemory::new(10 << 20);
        let mut reservation = memory.reserve(8 << 20).unwrap();
        let taken = || *memory.0.lock();
        reservation.note_allocated(2 << 20);
        assert_eq!(taken(), Taken { reserved_bytes: 8 << 20, allocated_bytes: 2 << 20 });
        reservation.note_allocated(5 << 20);
        reservation.shrink_to(3 << 20);
        assert_eq!(taken(), Taken { reserved_bytes: 3 << 20, allocated_bytes: 3 << 20 });
        drop(reservation);
        assert_eq!(taken(), Taken::default());
    }
}
