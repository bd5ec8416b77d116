//! What a recording says once, or seldom.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use probes_common::{COMM_LEN, Dirtied, Dirtier, Loss, Throttle, ThrottledSince, ThrottledThread};
use reports::cost::ProgramCost;
use reports::futex::Home;
use reports::process::Process;
use serde::{Deserialize, Serialize};

use super::contents::{RecordedCalls, RecordedDevices};
use crate::call::SeedCall;
use crate::comm::Comm;
use crate::decode::UserSide;
use crate::device::Disks;
use crate::interval::{Seed, SeedState, Wait};
use crate::pipeline::{MapsAtEnd, Opening};
use crate::recording::Refused;

/// One of these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Fact {
    /// Comes first.
    Opening(Box<OpeningFacts>),
    /// What a process has mapped that is executable.
    Modules {
        /// The process.
        pid: u32,
        /// Mappings that were not there before; they are numbered in this order, from 0.
        added: Vec<Module>,
        /// The numbers of those that are there now, by address.
        current: Vec<u32>,
    },
    /// Names of addresses that have occurred.
    Names {
        /// Of the kernel.
        kernel: Vec<(u64, String)>,
        /// Of processes.
        user: Vec<UserName>,
        /// Of device interrupts, where they have one.
        devices: Vec<(u32, Option<String>)>,
    },
    /// Where words that were waited on lie: process, address, home. Later ones count.
    Homes(Vec<(u32, u64, Home)>),
    /// The disks that have been seen so far, where events of devices are recorded. Later ones count.
    Disks(Disks),
    /// Comes last.
    Closing(ClosingFacts),
}

/// How a recording began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpeningFacts {
    /// The program that wrote the file, with its version.
    pub written_by: String,
    /// The host that it was recorded on.
    pub host: Host,
    /// The processes that were watched.
    pub processes: Vec<Process>,
    /// The kernel hooks, as `kind/name`, that switches came from.
    pub attach: String,
    /// Every kernel hook that events came from, as `kind/name`. Since version 2, as what has a default below.
    #[serde(default)]
    pub hooks: Vec<String>,
    /// What the kernel refused of what was asked for.
    #[serde(default)]
    pub refused: Vec<Refused>,
    /// Whether switches of threads were recorded.
    #[serde(default = "always")]
    pub switches: bool,
    /// Which system calls were recorded.
    pub calls: RecordedCalls,
    /// Which events of devices were recorded.
    #[serde(default)]
    pub devices: RecordedDevices,
    /// Where the functions lay that hold writers back.
    #[serde(default)]
    pub throttles: Vec<ThrottleFact>,
    /// The causes of loss that were counted, in the order of passes.
    pub loss_causes: Vec<String>,
    /// What was amiss as it began.
    pub warnings: Vec<String>,
    /// When the programs began to record, in nanoseconds of CLOCK_MONOTONIC.
    pub armed_ns: u64,
    /// When the window opened.
    pub start_ns: u64,
    /// How many CPUs each lane of counters has.
    pub cpus: u32,
    /// What the threads did then.
    pub seeds: Vec<SeedFact>,
    /// The calls that they were in.
    pub seed_calls: Vec<SeedCallFact>,
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// `uname -r`.
    pub kernel: String,
    /// `uname -m`.
    pub machine: String,
    /// When the window opened, in seconds of Unix time.
    pub unix_seconds: u64,
    /// The kernel's tick.
    #[serde(default)]
    pub tick_ns: u64,
}

/// Recordings of version 1 had no choice.
const fn always() -> bool {
    true
}

/// A [`Throttle`]'s function, from its first address to the first behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThrottleFact {
    throttle: u32,
    start: u64,
    end: u64,
}

/// One executable mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// The first address.
    pub start: u64,
    /// The first address after it.
    pub end: u64,
    /// Where in the file it begins.
    pub file_offset: u64,
    /// The path as the process saw it, or a name such as `[vdso]`; empty for anonymous memory.
    pub path: String,
    /// In hexadecimal, where it has one.
    pub build_id: Option<String>,
}

/// The name of an address of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserName {
    /// The process.
    pub pid: u32,
    /// The mapping's number.
    pub mapping: Option<u32>,
    /// The address.
    pub address: u64,
    /// It is where a call comes back to.
    pub is_return: bool,
    /// The name.
    pub name: String,
}

/// See [`Seed`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedFact {
    tid: u32,
    tgid: u32,
    start_ns: u64,
    taken_ns: u64,
    comm: [u8; COMM_LEN],
    state: StateFact,
    kernel: Option<Vec<String>>,
    /// Instruction, and signature of the stack.
    user: Option<(u64, Option<u64>)>,
    ran_ns: Option<u64>,
}

/// See [`SeedState`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StateFact {
    Runnable,
    Interruptible,
    Uninterruptible,
    Stopped,
    Unknown,
    Dead,
}

/// See [`SeedCall`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedCallFact {
    tgid: u32,
    tid: u32,
    taken_ns: u64,
    number: u32,
    arguments: [u64; 6],
}

/// How a recording ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosingFacts {
    /// When the window closed, in nanoseconds of CLOCK_MONOTONIC.
    pub end_ns: u64,
    /// The CPU time that the threads had had by then, by thread id.
    pub ran_ns: BTreeMap<u32, u64>,
    /// Events that found their program already running.
    pub recursion_misses: u64,
    /// User stacks for which there was no place left.
    pub unkept: u64,
    /// What each program cost; empty unless that was asked for.
    pub programs: Vec<ProgramCost>,
    /// What was amiss as it ended.
    pub warnings: Vec<String>,
    /// What the kernel side kept beside the records.
    #[serde(default)]
    pub maps: MapsFact,
}

/// See [`MapsAtEnd`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapsFact {
    /// Inode, device, process, pages, and the name of who dirtied the first.
    dirtied: Vec<(u64, u32, u32, u64, [u8; COMM_LEN])>,
    /// Thread, throttle, since when, and the disk.
    throttled: Vec<(u32, u32, u64, u32)>,
}

impl OpeningFacts {
    /// What the stages behind the ring buffer begin with.
    pub fn opening(&self) -> Opening {
        Opening {
            armed_ns: self.armed_ns,
            start_ns: self.start_ns,
            seeds: self.seeds.iter().map(Seed::from).collect(),
            cpus: self.cpus,
        }
    }

    /// The calls that threads were in.
    pub fn seed_calls(&self) -> Vec<SeedCall> {
        self.seed_calls.iter().map(SeedCall::from).collect()
    }

    /// Where the functions lay that hold writers back.
    pub fn throttles(&self) -> Vec<(Throttle, Range<u64>)> {
        let throttle = |fact: &ThrottleFact| {
            let known = Throttle::ALL.get(fact.throttle as usize)?;
            Some((*known, fact.start..fact.end))
        };
        self.throttles.iter().filter_map(throttle).collect()
    }

    /// Whether its causes of loss are those that are known here.
    pub fn has_known_causes(&self) -> bool {
        let known = Loss::ALL.iter().map(|cause| cause.name());
        self.loss_causes.iter().map(String::as_str).eq(known.take(self.loss_causes.len()))
    }
}

impl From<&(Throttle, Range<u64>)> for ThrottleFact {
    fn from((throttle, addresses): &(Throttle, Range<u64>)) -> Self {
        Self { throttle: *throttle as u32, start: addresses.start, end: addresses.end }
    }
}

impl From<&MapsAtEnd> for MapsFact {
    fn from(maps: &MapsAtEnd) -> Self {
        let dirtied = |(Dirtier { inode, device, tgid }, Dirtied { pages, comm }): &(Dirtier, Dirtied)| {
            (*inode, *device, *tgid, *pages, *comm)
        };
        let throttled = |(thread, since): &(ThrottledThread, ThrottledSince)| {
            (thread.tid, thread.throttle, since.entered_ns, since.device)
        };
        Self {
            dirtied: maps.dirtied.iter().map(dirtied).collect(),
            throttled: maps.throttled.iter().map(throttled).collect(),
        }
    }
}

impl From<MapsFact> for MapsAtEnd {
    fn from(fact: MapsFact) -> Self {
        let dirtied =
            |(inode, device, tgid, pages, comm)| (Dirtier { inode, device, tgid }, Dirtied { pages, comm });
        let throttled = |(tid, throttle, entered_ns, device)| {
            (ThrottledThread { tid, throttle }, ThrottledSince { entered_ns, device, reserved: 0 })
        };
        Self {
            dirtied: fact.dirtied.into_iter().map(dirtied).collect(),
            throttled: fact.throttled.into_iter().map(throttled).collect(),
        }
    }
}

impl From<&Seed> for SeedFact {
    fn from(seed: &Seed) -> Self {
        Self {
            tid: seed.tid,
            tgid: seed.tgid,
            start_ns: seed.start_ns,
            taken_ns: seed.taken_ns,
            comm: *seed.comm.bytes(),
            state: seed.state.into(),
            kernel: seed.kernel.as_deref().map(<[String]>::to_vec),
            user: seed.user.map(|user| (user.ip, user.stack)),
            ran_ns: seed.ran_ns,
        }
    }
}

impl From<&SeedFact> for Seed {
    fn from(fact: &SeedFact) -> Self {
        Self {
            tid: fact.tid,
            tgid: fact.tgid,
            start_ns: fact.start_ns,
            taken_ns: fact.taken_ns,
            comm: Comm::new(fact.comm),
            state: fact.state.into(),
            kernel: fact.kernel.clone().map(Arc::from),
            user: fact.user.map(|(ip, stack)| UserSide { ip, stack }),
            ran_ns: fact.ran_ns,
        }
    }
}

impl From<SeedState> for StateFact {
    fn from(state: SeedState) -> Self {
        match state {
            SeedState::Runnable => Self::Runnable,
            SeedState::Waiting(Wait::Interruptible) => Self::Interruptible,
            SeedState::Waiting(Wait::Uninterruptible) => Self::Uninterruptible,
            SeedState::Waiting(Wait::Stopped) => Self::Stopped,
            SeedState::Waiting(_) => Self::Unknown,
            SeedState::Dead => Self::Dead,
        }
    }
}

impl From<StateFact> for SeedState {
    fn from(fact: StateFact) -> Self {
        match fact {
            StateFact::Runnable => Self::Runnable,
            StateFact::Interruptible => Self::Waiting(Wait::Interruptible),
            StateFact::Uninterruptible => Self::Waiting(Wait::Uninterruptible),
            StateFact::Stopped => Self::Waiting(Wait::Stopped),
            StateFact::Unknown => Self::Waiting(Wait::Unknown),
            StateFact::Dead => Self::Dead,
        }
    }
}

impl From<&SeedCall> for SeedCallFact {
    fn from(call: &SeedCall) -> Self {
        let SeedCall { tgid, tid, taken_ns, number, arguments } = *call;
        Self { tgid, tid, taken_ns, number, arguments }
    }
}

impl From<&SeedCallFact> for SeedCall {
    fn from(fact: &SeedCallFact) -> Self {
        let SeedCallFact { tgid, tid, taken_ns, number, arguments } = *fact;
        Self { tgid, tid, taken_ns, number, arguments }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn facts_of_version_1_are_those_of_a_recording_of_switches_without_devices() {
        let facts = OpeningFacts {
            host: Host::default(),
            devices: RecordedDevices::None,
            hooks: Vec::new(),
            throttles: Vec::new(),
            ..OpeningFacts::empty(RecordedCalls::All, 1_000, 2)
        };
        let mut json = serde_json::to_value(&facts).unwrap();
        for since_then in ["hooks", "refused", "switches", "devices", "throttles"] {
            json.as_object_mut().unwrap().remove(since_then).unwrap();
        }
        json["host"].as_object_mut().unwrap().remove("tick_ns").unwrap();
        assert_eq!(serde_json::from_value::<OpeningFacts>(json).unwrap(), facts);
    }

    proptest! {
        #[test]
        fn maps_come_back(
            dirtied in prop::collection::vec(any::<(u64, u32, u32, u64, [u8; COMM_LEN])>(), 0..9),
            throttled in prop::collection::vec(any::<(u32, u32, u64, u32)>(), 0..9),
        ) {
            let fact = MapsFact { dirtied, throttled };
            let json = serde_json::to_vec(&fact).unwrap();
            let maps = MapsAtEnd::from(serde_json::from_slice::<MapsFact>(&json).unwrap());
            prop_assert_eq!(MapsFact::from(&maps), fact);
        }
    }
}
