//! Off-CPU time of one process, by thread and by stack.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cost::Cost;
use crate::format;
pub use crate::format::{Format, RenderError};
use crate::process::{Process, headline};
pub use difference::difference;

mod difference;
mod flamegraph;
mod folded;
mod palette;
mod table;
mod user;

/// The `schema` of [`OffCpu`]: the number grows with every change that a reader could trip over.
pub const SCHEMA: &str = "forkd.offcpu/2";

/// Where a process's threads waited during one window. All `_ns` are nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OffCpu {
    /// [`SCHEMA`].
    pub schema: String,
    /// The process that was watched (thread group id in the initial pid namespace).
    pub pid: u32,
    /// Its name when the window opened.
    pub comm: String,
    /// Every process that was watched; the first is the one that `pid` names.
    #[serde(default)]
    pub processes: Vec<Process>,
    /// Length of the window, or the summed length of the windows where the report was cut to several.
    pub window_ns: u64,
    /// How many separate windows `window_ns` sums: 1 unless the report was cut to, say, each pause.
    pub windows: u32,
    /// The kernel hook the switches came from, as `kind/name`: `tp_btf/sched_switch`.
    pub attach: String,
    /// Events that were not recorded, by cause; every cause is listed, zero or not.
    pub loss: BTreeMap<String, u64>,
    /// What the reader must know before trusting the figures, one sentence each.
    pub warnings: Vec<String>,
    /// Every thread that existed during the window, most off-CPU time first.
    pub threads: Vec<Thread>,
    /// Off-CPU time by thread, state, stack and waker, longest first.
    pub stacks: Vec<Stack>,
    /// What the recording itself cost; `None` unless asked for. Since `forkd.offcpu/2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
}

/// One thread of the process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thread {
    /// Its process.
    #[serde(default)]
    pub pid: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// The thread's name, as last seen.
    pub comm: String,
    /// Time not on a CPU: asleep, preempted or waiting for a CPU.
    pub off_cpu_ns: u64,
    /// The part of `off_cpu_ns` in which the thread was runnable and waited for a CPU.
    pub run_queue_ns: u64,
    /// Time on a CPU.
    pub on_cpu_ns: u64,
    /// Part of the window in which it is not known whether the thread ran or slept.
    pub unknown_ns: u64,
    /// Times the thread left a CPU.
    pub switches: u64,
    /// Intervals that touch a lost event, and so may be two or more taken for one.
    pub truncated: u64,
}

/// The off-CPU time that shares one thread, state, stack and waker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stack {
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// The thread's name.
    pub comm: String,
    /// Why the thread was off the CPU.
    pub state: State,
    /// Summed time.
    pub ns: u64,
    /// Intervals summed.
    pub count: u64,
    /// Kernel frames, innermost first.
    pub kernel: Vec<String>,
    /// User frames, innermost first. Empty for a thread that was never in user space.
    pub user: Vec<String>,
    /// The stack could not be followed to where its thread began: outer user frames are missing. Since
    /// `forkd.offcpu/2`.
    pub user_truncated: bool,
    /// Who ended the wait, where somebody was seen to.
    pub waker: Option<Waker>,
}

/// Why a thread was off the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Asleep until an event or a signal (`S`).
    Interruptible,
    /// Asleep until an event, whatever signals come (`D`).
    Uninterruptible,
    /// Stopped by a signal or a tracer (`T`, `t`).
    Stopped,
    /// Runnable, and taken off the CPU for another thread.
    Preempted,
    /// Runnable after a wake-up, and waiting for a CPU.
    RunQueue,
    /// Off the CPU, and why was not seen.
    Unknown,
}

/// Who ended a wait.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Waker {
    /// Thread id in the initial pid namespace; 0 is a CPU's idle task, or an interrupt.
    pub tid: u32,
    /// The thread's name, or the interrupt's: `apic_timer_interrupt`, `softirq`.
    pub comm: String,
    /// The wake-up came from an interrupt: no thread is named, because whichever ran was only interrupted.
    pub interrupt: bool,
}

/// Whom the report is about, in a few words.
fn subject(report: &OffCpu) -> String {
    match report.processes.len() {
        0 | 1 => format!("{} (pid {})", report.comm, report.pid),
        _ => headline(&report.processes),
    }
}

/// Draws `report`: the whole file as bytes. The same report gives the same bytes.
pub fn render(report: &OffCpu, format: Format) -> Result<Vec<u8>, RenderError> {
    match format {
        Format::Table => Ok(table::render(report).into_bytes()),
        Format::Folded => Ok(folded::render(report).into_bytes()),
        Format::Svg => flamegraph::render(report),
        Format::Json => format::json(report),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Format, OffCpu, RenderError, SCHEMA, render};

    /// The recorded report that the golden files draw.
    pub(crate) fn report() -> OffCpu {
        serde_json::from_str(include_str!("../../tests/golden/offcpu.json")).expect("the report parses")
    }

    #[test]
    fn the_json_rendering_reads_back_as_the_same_report() {
        let json = render(&report(), Format::Json).unwrap();
        assert_eq!(serde_json::from_slice::<OffCpu>(&json).unwrap(), report());
        assert_eq!(report().schema, SCHEMA);
    }

    #[test]
    fn a_flame_graph_of_nothing_is_refused() {
        let mut empty = report();
        empty.stacks.clear();
        assert!(matches!(render(&empty, Format::Svg), Err(RenderError::Empty { .. })));
        assert_eq!(render(&empty, Format::Folded).unwrap(), b"");
    }
}
