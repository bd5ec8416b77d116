//! What a recording says once, or seldom.

use std::collections::BTreeMap;
use std::sync::Arc;

use probes_common::{COMM_LEN, CallFilter, Loss};
use reports::futex::Home;
use reports::offcpu::ProgramCost;
use reports::process::Process;
use serde::{Deserialize, Serialize};

use crate::call::SeedCall;
use crate::comm::Comm;
use crate::decode::UserSide;
use crate::interval::{Seed, SeedState, Wait};
use crate::pipeline::Opening;

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
    /// Which system calls were recorded.
    pub calls: RecordedCalls,
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
}

/// Which system calls a recording holds beside the switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordedCalls {
    /// None.
    None,
    /// Those of the futex family.
    Futex,
    /// All.
    All,
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

    /// Whether its causes of loss are those that are known here.
    pub fn has_known_causes(&self) -> bool {
        let known = Loss::ALL.iter().map(|cause| cause.name());
        self.loss_causes.iter().map(String::as_str).eq(known.take(self.loss_causes.len()))
    }
}

impl RecordedCalls {
    /// As `--calls` spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Futex => "futex",
            Self::All => "all",
        }
    }
}

impl From<Option<CallFilter>> for RecordedCalls {
    fn from(filter: Option<CallFilter>) -> Self {
        match filter {
            None => Self::None,
            Some(CallFilter::Futex) => Self::Futex,
            Some(CallFilter::All) => Self::All,
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
