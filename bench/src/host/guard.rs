//! Whether the host did its part: what makes a BRANCH's figures the host's and not the daemon's.
//!
//! A trip is written down with the row. It takes no row away: whoever judges the rows decides.

use std::fs;
use std::path::Path;

use super::facts::meminfo_kib;
use super::{tools, writeback};

/// Share of the processors' time, in percent, beyond which the hypervisor was too busy with others.
const STEAL_LIMIT_PCT: f64 = 5.0;
/// Free space below which a file system has other work than to take bytes.
const SPACE_LOW_BYTES: u64 = 64 << 20;
/// Available memory below which the kernel reclaims while it is measured.
const MEMORY_LOW_KIB: u64 = 256 * 1024;

/// Processor time of the whole host since it booted, in clock ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessorTime {
    all: u64,
    stolen: u64,
}

impl ProcessorTime {
    /// What the kernel has counted until now; nothing where it does not say.
    pub fn now() -> Self {
        Self::parse(&fs::read_to_string("/proc/stat").unwrap_or_default()).unwrap_or_default()
    }

    /// The line `cpu` of `/proc/stat` (proc_stat(5)): user nice system idle iowait irq softirq steal, and then the
    /// guests' time, which is part of user and nice.
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Option<Vec<u64>> =
            line.split_whitespace().take(8).map(|field| field.parse().ok()).collect();
        let ticks = ticks?;
        Some(Self { all: ticks.iter().sum(), stolen: *ticks.get(7)? })
    }

    /// Share that was stolen since `earlier`, in percent.
    pub fn steal_pct_since(self, earlier: Self) -> f64 {
        let all = self.all.saturating_sub(earlier.all);
        let stolen = self.stolen.saturating_sub(earlier.stolen).min(all);
        if all == 0 { 0.0 } else { stolen as f64 * 100.0 / all as f64 }
    }
}

/// What was seen of the host beside one BRANCH.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Dirty and in-flight memory when the trial began.
    pub pending_kib: u64,
    /// Share of the processors' time that was stolen during the BRANCH and before it.
    pub steal_pct: f64,
    /// Free bytes after it, of the fullest file system in use; `None` where none is known.
    pub free_bytes: Option<u64>,
    /// Available memory after it.
    pub available_kib: u64,
}

impl Seen {
    /// What is seen now, of file systems at `paths`.
    pub fn now(pending_kib: u64, steal_pct: f64, paths: &[&Path]) -> Self {
        let free_bytes = paths.iter().filter_map(|path| tools::free_bytes(path).ok()).min();
        let available_kib = meminfo_kib("MemAvailable").unwrap_or(u64::MAX);
        Self { pending_kib, steal_pct, free_bytes, available_kib }
    }

    /// Names of what was wrong, joined by `+`; empty for nothing.
    pub fn trips(self) -> String {
        let tripped = [
            (self.pending_kib > writeback::LOW_KIB, "dirty"),
            (self.steal_pct > STEAL_LIMIT_PCT, "steal"),
            (self.free_bytes.is_some_and(|free| free < SPACE_LOW_BYTES), "space"),
            (self.available_kib < MEMORY_LOW_KIB, "memory"),
        ];
        let names: Vec<&str> =
            tripped.into_iter().filter(|(tripped, _)| *tripped).map(|(_, name)| name).collect();
        names.join("+")
    }
}

#[cfg(test)]
mod tests {
    use super::{ProcessorTime, Seen};

    #[test]
    fn stolen_time_is_a_share_of_all_and_guests_are_not_counted_twice() {
        let at = |text: &str| ProcessorTime::parse(text).unwrap();
        let earlier = at("cpu  100 0 100 700 50 0 0 50 999 0\ncpu0 1 2 3\n");
        let later = at("cpu  150 0 100 700 50 10 0 90 9999 0\n");
        assert!((later.steal_pct_since(earlier) - 40.0).abs() < 1e-9);
        assert!(later.steal_pct_since(later).abs() < 1e-9);
        assert_eq!(ProcessorTime::parse("intr 1 2\n"), None);
    }

    #[test]
    fn each_trip_is_named_and_a_quiet_host_has_none() {
        let quiet =
            Seen { pending_kib: 4096, steal_pct: 5.0, free_bytes: Some(64 << 20), available_kib: 256 * 1024 };
        assert_eq!(quiet.trips(), "");
        assert_eq!(Seen { free_bytes: None, ..quiet }.trips(), "");
        assert_eq!(Seen { steal_pct: 5.1, pending_kib: 4097, ..quiet }.trips(), "dirty+steal");
        assert_eq!(Seen { free_bytes: Some(0), available_kib: 0, ..quiet }.trips(), "space+memory");
    }
}
