//! The programs' counters, in memory that this process shares with them.
//!
//! A call for an entry of a map turns away what hangs on kprobes and tracepoints on its CPU as long as it takes, which
//! is longer where it is preempted (`bpf_disable_instrumentation`, include/linux/bpf.h): who reads so loses of what is
//! counted.

use std::os::fd::{AsFd, AsRawFd};

use aya::maps::Map;
use memmap2::{MmapOptions, MmapRaw};
use probes_common::{CounterSlot, CpuCounters, LANES};

use super::map_error;
use crate::error::AttachError;

pub const MAP: &str = "COUNTERS";

/// Those of every CPU and lane.
#[derive(Debug)]
pub struct Counters {
    memory: MmapRaw,
    cpus: u32,
    /// Programs that are loaded later name it by its file.
    _map: Map,
}

impl Counters {
    /// The entries that the map needs on a machine that could have this many CPUs.
    pub const fn entries(cpus: u32) -> u32 {
        cpus * LANES
    }

    /// Maps the counters of a machine that could have this many CPUs.
    pub fn map(map: Map, cpus: u32) -> Result<Self, AttachError> {
        let Map::Array(data) = &map else { return Err(AttachError::Missing(MAP)) };
        let bytes = Self::entries(cpus) as usize * size_of::<CounterSlot>();
        let memory = MmapOptions::new().len(bytes).map_raw_read_only(data.fd().as_fd().as_raw_fd());
        Ok(Self { memory: memory.map_err(|error| map_error(MAP, &error))?, cpus, _map: map })
    }

    /// Every CPU that this machine could have.
    pub const fn cpus(&self) -> u32 {
        self.cpus
    }

    /// Each CPU's counters, lane after lane.
    pub fn read(&self) -> Vec<CpuCounters> {
        let slots: *const CounterSlot = self.memory.as_ptr().cast();
        let slot = |cpu, lane| {
            // SAFETY: the mapping begins on a page and has a slot for each CPU and lane, in which every bit pattern is a
            // value. Programs write a word of it at a time, which a volatile read takes whole.
            unsafe { slots.add(CounterSlot::index(cpu, lane) as usize).read_volatile().0 }
        };
        (0..LANES).flat_map(|lane| (0..self.cpus).map(move |cpu| slot(cpu, lane))).collect()
    }
}
