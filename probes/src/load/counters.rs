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
    /// Maps the counters of a machine that could have this many CPUs.
    pub fn map(map: Map, cpus: u32) -> Result<Self, AttachError> {
        let Map::Array(data) = &map else { return Err(AttachError::Missing(MAP)) };
        let bytes = cpus as usize * size_of::<CounterSlot>();
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
        // SAFETY: the mapping begins on a page and has a slot for each CPU, in which every bit pattern is a value. Programs
        // write a word of it at a time, which a volatile read takes whole.
        let slot = |cpu| unsafe { slots.add(cpu).read_volatile() };
        let slots: Vec<CounterSlot> = (0..self.cpus as usize).map(slot).collect();
        (0..LANES as usize).flat_map(|lane| slots.iter().map(move |slot| slot.0[lane])).collect()
    }
}
