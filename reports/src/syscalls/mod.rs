//! System calls of processes' threads, with where their time went.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::folded::{self, Caption, Line};
use crate::format::{self, Format, RenderError};
use crate::histogram::Histogram;
use crate::process::{Process, headline};

mod table;

/// The `schema` of [`Syscalls`]: the number grows with every change that a reader could trip over.
pub const SCHEMA: &str = "forkd.syscalls/1";

/// What threads did in and outside of system calls. All `_ns` are nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Syscalls {
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
    /// Every thread that existed during the window, most time in calls first.
    pub threads: Vec<Thread>,
}

/// One thread: its part of the window is the time outside of calls and that in each of its calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// Its process.
    pub pid: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// Its name, as last seen.
    pub comm: String,
    /// Time outside of every call: user code, page faults, preemption.
    pub outside: Split,
    /// Its calls by name, longest first.
    pub calls: Vec<Call>,
}

/// Where a stretch of wall time went. The four sum to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// On a CPU.
    pub on_cpu_ns: u64,
    /// Asleep or stopped.
    pub asleep_ns: u64,
    /// Runnable, and waiting for a CPU.
    pub run_queue_ns: u64,
    /// Not seen.
    pub unknown_ns: u64,
}

impl Split {
    /// The whole.
    pub const fn wall_ns(&self) -> u64 {
        self.on_cpu_ns + self.asleep_ns + self.run_queue_ns + self.unknown_ns
    }

    /// Adds another.
    pub const fn add(&mut self, other: &Self) {
        self.on_cpu_ns += other.on_cpu_ns;
        self.asleep_ns += other.asleep_ns;
        self.run_queue_ns += other.run_queue_ns;
        self.unknown_ns += other.unknown_ns;
    }
}

/// One thread's calls of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Its name; `syscall_500` where the number has none.
    pub name: String,
    /// Calls.
    pub count: u64,
    /// Their time.
    pub split: Split,
    /// The longest call.
    pub max_ns: u64,
    /// Calls by wall time.
    pub wall: Histogram,
    /// Calls that failed, by the name of the error.
    pub errors: BTreeMap<String, u64>,
    /// Calls entered before the window, and clamped to its start.
    pub in_flight_at_start: u64,
    /// Calls not left by the end of the window, and clamped to it.
    pub in_flight_at_end: u64,
    /// Calls in which an event may have been lost.
    pub truncated: u64,
}

impl Syscalls {
    /// Calls by name over all threads, longest first.
    pub fn by_name(&self) -> Vec<Call> {
        let mut by_name: BTreeMap<&str, Call> = BTreeMap::new();
        for call in self.threads.iter().flat_map(|thread| &thread.calls) {
            let sum = by_name.entry(&call.name).or_default();
            sum.name.clone_from(&call.name);
            sum.count += call.count;
            sum.split.add(&call.split);
            sum.max_ns = sum.max_ns.max(call.max_ns);
            sum.wall.merge(&call.wall);
            for (error, count) in &call.errors {
                *sum.errors.entry(error.clone()).or_default() += count;
            }
            sum.in_flight_at_start += call.in_flight_at_start;
            sum.in_flight_at_end += call.in_flight_at_end;
            sum.truncated += call.truncated;
        }
        let mut calls: Vec<Call> = by_name.into_values().collect();
        calls.sort_by_key(|call| std::cmp::Reverse(call.split.wall_ns()));
        calls
    }
}

/// Draws `report`: the whole file as bytes. The same report gives the same bytes.
///
/// # Errors
/// [`RenderError`], for a flame graph of nothing above all.
pub fn render(report: &Syscalls, format: Format) -> Result<Vec<u8>, RenderError> {
    let title = || format!("Time of {} in and outside of system calls", headline(&report.processes));
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

/// `comm-tid;call;[what the time was]`.
fn lines(report: &Syscalls) -> Vec<Line> {
    let mut lines = Vec::new();
    for thread in &report.threads {
        let root = format!("{}-{}", thread.comm, thread.tid);
        let mut add = |name: &str, split: &Split| {
            let parts = [
                ("[on CPU]", split.on_cpu_ns),
                ("[asleep]", split.asleep_ns),
                ("[run queue]", split.run_queue_ns),
                ("[unknown]", split.unknown_ns),
            ];
            lines.extend(parts.iter().filter(|(_, ns)| *ns > 0).map(|(part, ns)| Line {
                frames: vec![root.clone(), name.to_owned(), (*part).to_owned()],
                ns: *ns,
            }));
        };
        add("[outside]", &thread.outside);
        for call in &thread.calls {
            add(&call.name, &call.split);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_one_name_are_summed_over_threads() {
        let call = |count, on_cpu_ns, max_ns| Call {
            name: "read".to_owned(),
            count,
            split: Split { on_cpu_ns, ..Split::default() },
            max_ns,
            errors: [("EAGAIN".to_owned(), count)].into(),
            ..Call::default()
        };
        let thread =
            |calls| Thread { pid: 1, tid: 1, comm: "t".to_owned(), outside: Split::default(), calls };
        let report = Syscalls {
            schema: SCHEMA.to_owned(),
            processes: Vec::new(),
            window_ns: 100,
            attach: Vec::new(),
            loss: BTreeMap::new(),
            warnings: Vec::new(),
            threads: vec![thread(vec![call(1, 10, 10)]), thread(vec![call(2, 30, 20)])],
        };
        let sum = &report.by_name()[0];
        assert_eq!((sum.count, sum.split.wall_ns(), sum.max_ns, sum.errors["EAGAIN"]), (3, 40, 20, 3));
    }
}
