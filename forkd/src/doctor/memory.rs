//! Memory for guests and for what lies between a pause and the disk.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::parse::{chosen, meminfo_bytes, swap_areas};
use super::{Check, human};

/// Half of it is the budget for staging, which then holds one guest of 512 MiB.
const LITTLE_BYTES: u64 = 1 << 30;
const SHMEM: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

pub fn checks() -> Vec<Check> {
    vec![
        available(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
        huge_pages(&fs::read_to_string(SHMEM).unwrap_or_default()),
        swap(&fs::read_to_string("/proc/swaps").unwrap_or_default()),
        locked(),
    ]
}

fn available(meminfo: &str) -> Check {
    const NAME: &str = "memory";
    const MEND: &str = "end something, or lower --staging-mib: BRANCHes then go to disk";
    match meminfo_bytes(meminfo, "MemAvailable") {
        Some(bytes) => {
            let found = format!("{} available; staging takes up to {}", human(bytes), human(bytes / 2));
            if bytes < LITTLE_BYTES { Check::warn(NAME, found, MEND) } else { Check::ok(NAME, found) }
        }
        None => {
            Check::warn(NAME, "/proc/meminfo does not tell what is available", "mount -t proc proc /proc")
        }
    }
}

/// In a memfd of huge pages it cannot be told which small ones were written.
fn huge_pages(setting: &str) -> Check {
    const NAME: &str = "huge shared pages";
    let found = |chosen: &str| format!("transparent_hugepage/shmem_enabled is {chosen}");
    match chosen(setting) {
        Some(chosen @ ("always" | "within_size" | "force")) => {
            let found = format!("{}: BRANCHes are not staged in memory", found(chosen));
            Check::warn(NAME, found, format!("echo advise > {SHMEM}"))
        }
        Some(chosen) => Check::ok(NAME, found(chosen)),
        None => Check::ok(NAME, "this kernel has none"),
    }
}

/// Pages that were swapped out count as holes no longer.
fn swap(swaps: &str) -> Check {
    const NAME: &str = "swap";
    let areas = swap_areas(swaps);
    if areas.is_empty() {
        return Check::ok(NAME, "none");
    }
    let found =
        format!("on ({}): nothing is allocated before a pause, which makes it longer", areas.join(", "));
    Check::warn(NAME, found, "swapoff -a")
}

fn locked() -> Check {
    const NAME: &str = "locked memory";
    // Since Linux 5.11 memory of BPF is accounted to the cgroup, and this limit no longer counts.
    match getrlimit(Resource::Memlock).current {
        None => Check::ok(NAME, "no limit"),
        Some(bytes) => {
            Check::ok(NAME, format!("limit {} (BPF and io_uring need none since Linux 5.12)", human(bytes)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{available, huge_pages, swap};
    use crate::doctor::Level;

    #[test]
    fn little_memory_is_warned_of_and_its_absence_too() {
        assert_eq!(available("MemAvailable:   20000000 kB\n").level, Level::Ok);
        assert_eq!(available("MemAvailable:   900000 kB\n").level, Level::Warn);
        assert_eq!(available("").level, Level::Warn);
    }

    #[test]
    fn forced_huge_pages_are_warned_of_with_the_command() {
        for (setting, level) in [
            ("always within_size advise [never] deny force", Level::Ok),
            ("always within_size [advise] never deny force", Level::Ok),
            ("[always] within_size advise never deny force", Level::Warn),
            ("always within_size advise never deny [force]", Level::Warn),
            ("", Level::Ok),
        ] {
            assert_eq!(huge_pages(setting).level, level, "{setting}");
        }
        assert!(huge_pages("[always]").mend.unwrap().starts_with("echo advise > /sys/"));
    }

    #[test]
    fn swap_is_warned_of_by_name() {
        assert_eq!(swap("Filename Type\n").level, Level::Ok);
        let on = swap("Filename Type\n/dev/sda2 partition\n");
        assert!(on.level == Level::Warn && on.found.contains("/dev/sda2"));
    }
}
