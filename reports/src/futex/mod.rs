//! Where a process's threads wait on futexes, word by word.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::folded::{self, Caption, Line};
use crate::format::{self, Format, RenderError};
use crate::histogram::Histogram;
use crate::process::{Process, headline};

mod table;

/// The `schema` of [`Futex`]: the number grows with every change that a reader could trip over.
pub const SCHEMA: &str = "forkd.futex/1";

/// What threads did with futexes during one window. All `_ns` are nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Futex {
    /// [`SCHEMA`].
    pub schema: String,
    /// The processes that were watched.
    pub processes: Vec<Process>,
    /// Length of the window.
    pub window_ns: u64,
    /// The kernel hooks that the events came from, as `kind/name`.
    pub attach: Vec<String>,
    /// Events that were not recorded, by cause; every cause is listed, zero or not.
    pub loss: BTreeMap<String, u64>,
    /// What the reader must know before trusting the figures, one sentence each.
    pub warnings: Vec<String>,
    /// The futex words, longest sleep first.
    pub words: Vec<Word>,
}

/// One futex word.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// The process in whose memory it was waited on.
    pub pid: u32,
    /// Its address there.
    pub address: u64,
    /// What lies at that address.
    pub home: Home,
    /// What the waits on it were.
    pub verdict: Verdict,
    /// Whether the verdict rests on all of the events: none that concerns the word was lost.
    pub sound: bool,
    /// Times a woken waiter later woke the next one: see [`Verdict::Contention`].
    pub handed_on: u64,
    /// Times a futex operation ended somebody's wait on it.
    pub woken: u64,
    /// Waits by operation, longest sleep first.
    pub operations: Vec<Operation>,
    /// Threads that waited, longest sleep first.
    pub waiters: Vec<Waiter>,
    /// Who ended waits, most often first.
    pub wakers: Vec<Waker>,
}

/// What the waits on a word were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Threads took turns: at least one that was woken from a wait on the word later woke a single waiter of
    /// the same word itself, or the word is a priority-inheriting lock. The waker held what others wanted.
    Contention,
    /// Threads were parked until somebody else, who is named, told them of an event.
    PassiveWait,
    /// Threads were parked, and nobody was seen to wake them: the wait outlasted the window, timed out, was
    /// interrupted, or never began.
    NobodyWoke,
}

/// Where a futex word lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Home {
    /// In the heap that grows with `brk`.
    Heap,
    /// In a thread's stack mapping, where thread control blocks lie as well.
    Stack {
        /// The thread.
        tid: u32,
    },
    /// In a module's data: `.data`, `.bss` and the like.
    Data {
        /// The file.
        module: String,
        /// The variable, and how far into it, where the module or its debug file names its variables.
        symbol: Option<(String, u64)>,
        /// The address in the module's own terms, as its symbol table counts.
        module_address: u64,
        /// Beyond the file's contents: in memory that starts as zeros.
        zeroed: bool,
    },
    /// In a mapping with a name: a file, shared memory, `[anon:name]`.
    Mapping {
        /// The name.
        name: String,
        /// How far into the file or object.
        offset: u64,
    },
    /// In memory without a name.
    Anonymous,
    /// Nothing is known to have been mapped there.
    Unmapped,
}

/// The waits of one operation on one word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Its name, less the flags: `FUTEX_WAIT_BITSET`.
    pub name: String,
    /// The private flag was set: the kernel need not look at the mapping.
    pub private: bool,
    /// Calls.
    pub waits: u64,
    /// Time between entering and leaving the kernel.
    pub wall_ns: u64,
    /// The part of it asleep.
    pub asleep_ns: u64,
    /// The part of it runnable and waiting for a CPU: the scheduler's doing, not the futex's.
    pub run_queue_ns: u64,
    /// The longest sleep of one call.
    pub max_asleep_ns: u64,
    /// Sleeps by length.
    pub asleep: Histogram,
    /// Calls that somebody's wake ended.
    pub woken: u64,
    /// Calls that their timeout ended.
    pub timed_out: u64,
    /// Calls that found another value in the word, and did not sleep (`EAGAIN`).
    pub value_changed: u64,
    /// Calls that a signal ended (`EINTR`, or a restart that the kernel makes of it).
    pub interrupted: u64,
    /// Calls that failed otherwise.
    pub failed: u64,
    /// Calls entered before the window, and clamped to its start.
    pub in_flight_at_start: u64,
    /// Calls not left by the end of the window, and clamped to it.
    pub in_flight_at_end: u64,
}

/// A thread that waited on a word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiter {
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// Its name.
    pub comm: String,
    /// Calls.
    pub waits: u64,
    /// Time asleep in them.
    pub asleep_ns: u64,
    /// The caller's frames at its longest sleep, innermost first; `[truncated]` at the end where more are missing.
    pub user: Vec<String>,
}

/// Who ended waits on a word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waker {
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// Its name.
    pub comm: String,
    /// Waits that it ended.
    pub waits_ended: u64,
    /// Those of them whose wake was seen as an operation on this very word. The rest was woken in another
    /// way: by a thread that is not watched, or by the kernel as a thread ended.
    pub by_operation: u64,
    /// The operation's name, where one was seen.
    pub operation: Option<String>,
    /// Time on a CPU while those that it woke waited.
    pub ran_meanwhile_ns: u64,
    /// The frames of its last such operation, innermost first; `[truncated]` at the end where more are missing.
    pub user: Vec<String>,
}

/// Draws `report`: the whole file as bytes. The same report gives the same bytes.
///
/// # Errors
/// [`RenderError`], for a flame graph of nothing above all.
pub fn render(report: &Futex, format: Format) -> Result<Vec<u8>, RenderError> {
    let title = || format!("Time asleep on futexes of {}", headline(&report.processes));
    match format {
        Format::Table => Ok(table::render(report).into_bytes()),
        Format::Folded => Ok(folded::render(&lines(report)).into_bytes()),
        Format::Svg => {
            let (window_ns, hooks, losses) = (report.window_ns, &report.attach, &report.loss);
            folded::flame_graph(Caption { title: &title(), window_ns, hooks, losses }, &lines(report))
        }
        Format::Json => format::json(report),
    }
}

/// `comm-tid;user frames;word` by time asleep.
fn lines(report: &Futex) -> Vec<Line> {
    let words = report.words.iter();
    let lines = words.flat_map(|word| {
        word.waiters.iter().map(|waiter| {
            let mut frames = vec![format!("{}-{}", waiter.comm, waiter.tid)];
            frames.extend(waiter.user.iter().rev().cloned());
            frames.push(format!("[{} {}]", table::home(word), table::verdict(word)));
            Line { frames, ns: waiter.asleep_ns }
        })
    });
    lines.collect()
}
