//! The scenarios, one cause a file.

mod cpu_quota;
mod fuse_and_stop;
mod journal;
mod large_dirty_set;
mod memory_limit;
mod neighbour_reads;
mod neighbour_writes;
mod null;
mod programs;
mod shared_cpu;
mod slow_disk;
mod slow_fuse;
mod stopped;
mod wbt;
mod zram_swap;

pub use cpu_quota::SCENARIO as CPU_QUOTA;
pub use neighbour_reads::SCENARIO as NEIGHBOUR_READS;
pub use slow_disk::SCENARIO as SLOW_DISK;
pub use wbt::{SCENARIO as WBT, inject_unthrottled as inject_unthrottled_wbt};

use super::scenario::Scenario;

/// All of them, those on one file system next to each other.
pub const ALL: [&Scenario; 19] = [
    &programs::FUTEX,
    &programs::TIMER,
    &programs::PAGE_FAULTS,
    &programs::TIMER_AND_FUTEX,
    &null::SCENARIO,
    &cpu_quota::SCENARIO,
    &shared_cpu::SCENARIO,
    &stopped::BY_SIGNAL,
    &stopped::BY_FREEZER,
    &large_dirty_set::SCENARIO,
    &zram_swap::SCENARIO,
    &slow_disk::SCENARIO,
    &wbt::SCENARIO,
    &neighbour_writes::SCENARIO,
    &neighbour_reads::SCENARIO,
    &memory_limit::SCENARIO,
    &journal::SCENARIO,
    &slow_fuse::SCENARIO,
    &fuse_and_stop::SCENARIO,
];
