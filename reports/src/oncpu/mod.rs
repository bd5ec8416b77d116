//! Where processes' threads ran, by samples.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::folded::{self, Caption, Line};
use crate::format::{self, Format, RenderError};
use crate::process::{Process, headline};

mod table;

/// The `schema` of [`OnCpu`]: the number grows with every change that a reader could trip over.
pub const SCHEMA: &str = "forkd.oncpu/1";

/// Samples of running threads. A sample stands for `1 / frequency_hz` seconds on a CPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OnCpu {
    /// [`SCHEMA`].
    pub schema: String,
    /// The processes that were watched.
    pub processes: Vec<Process>,
    /// Length of the window in nanoseconds.
    pub window_ns: u64,
    /// Samples a second of CPU time that were asked for.
    pub frequency_hz: u64,
    /// What was sampled by, for each kind of core.
    pub events: Vec<Event>,
    /// Samples that did not come, by cause; every cause is listed, zero or not.
    pub loss: BTreeMap<String, u64>,
    /// What the reader must know before trusting the figures, one sentence each.
    pub warnings: Vec<String>,
    /// Threads that ran or were sampled, most samples first.
    pub threads: Vec<Thread>,
    /// Stacks, most samples first.
    pub stacks: Vec<Stack>,
}

/// What was sampled by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// As perf names it: `cpu_core/cycles/`, `cpu-clock`.
    pub name: String,
    /// How many CPUs.
    pub cpus: u32,
    /// Samples of watched threads.
    pub samples: u64,
}

/// One thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// Its process.
    pub pid: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// Its name, as last seen.
    pub comm: String,
    /// Samples that came.
    pub samples: u64,
    /// CPU time that the scheduler counted in the window, as far as it was seen.
    pub ran_ns: u64,
    /// Samples that this time should have given.
    pub expected: u64,
    /// Too few came for chance: something that ran was not seen.
    pub blind: bool,
}

/// Samples that share a thread and a stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// The thread's name.
    pub comm: String,
    /// How many.
    pub samples: u64,
    /// Kernel frames, innermost first; none where it ran in user space.
    pub kernel: Vec<String>,
    /// User frames, innermost first; `[truncated]` at the end where more are missing.
    pub user: Vec<String>,
}

/// Draws `report`: the whole file as bytes. The same report gives the same bytes.
///
/// # Errors
/// [`RenderError`], for a flame graph of nothing above all.
pub fn render(report: &OnCpu, format: Format) -> Result<Vec<u8>, RenderError> {
    let title = || format!("Where {} ran", headline(&report.processes));
    match format {
        Format::Table => Ok(table::render(report).into_bytes()),
        Format::Folded => Ok(folded::render(&lines(report)).into_bytes()),
        Format::Svg => {
            let (window_ns, hooks, losses) = (report.window_ns, &[], &report.loss);
            folded::flame_graph(Caption { title: &title(), window_ns, hooks, losses }, &lines(report))
        }
        Format::Json => format::json(report),
    }
}

/// `comm-tid;user frames;kernel frames_[k]`, each sample for its part of a second.
fn lines(report: &OnCpu) -> Vec<Line> {
    let line = |stack: &Stack| {
        let mut frames = vec![format!("{}-{}", stack.comm, stack.tid)];
        frames.extend(stack.user.iter().rev().cloned());
        frames.extend(stack.kernel.iter().rev().map(|frame| format!("{frame}_[k]")));
        Line { frames, ns: stack.samples * 1_000_000_000 / report.frequency_hz.max(1) }
    };
    report.stacks.iter().map(line).collect()
}
