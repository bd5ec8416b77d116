//! Writeback throttling: who was held back for how long, what the throttle measured, and whose dirty pages there were.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cost::Cost;
use crate::folded::{self, Caption, Line};
use crate::format::{self, Format, RenderError};
use crate::io::{Flow, Times};
use crate::process::{Process, headline};

mod table;

/// The `schema` of [`Wbt`]: the number grows with every change that a reader could trip over.
pub const SCHEMA: &str = "forkd.wbt/1";

/// Writeback throttling in a window. All `_ns` are nanoseconds of CLOCK_MONOTONIC; a device is `major:minor`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wbt {
    /// [`SCHEMA`].
    pub schema: String,
    /// The processes whose waits are reported.
    pub processes: Vec<Process>,
    /// Length of the window.
    pub window_ns: u64,
    /// How waits were seen: the functions that were probed, or the stacks of sleeping threads.
    pub rung: String,
    /// The kernel hooks that the events came from, as `kind/name`.
    pub attach: Vec<String>,
    /// Events that were not recorded, by cause; every cause is listed, zero or not.
    pub loss: BTreeMap<String, u64>,
    /// What the reader must know before trusting the figures, one sentence each.
    pub warnings: Vec<String>,
    /// Waits by thread and device, longest first.
    pub waits: Vec<Waits>,
    /// The state of each device whose throttle was heard of, or that a thread waited for.
    pub devices: Vec<Device>,
    /// Whose dirty pages were written, on devices that throttle: of everybody on the machine.
    pub writers: Vec<Flow>,
    /// What the recording itself cost; `None` unless asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
}

/// Waits of one thread for one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waits {
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// Its name.
    pub comm: String,
    /// The device; `None` where no request followed that would tell.
    pub device: Option<String>,
    /// The waits.
    pub times: Times,
    /// The part of them in which the thread had been let go, and waited for a CPU.
    pub run_queue_ns: u64,
    /// Times that the thread was let through at once; 0 where that is not seen.
    pub let_through: u64,
    /// Waits that began before the window, and are clamped to its start.
    pub in_flight_at_start: u64,
    /// Waits that were not over at its end, and are clamped to it.
    pub in_flight_at_end: u64,
    /// Where it waited, longest first.
    pub stacks: Vec<Stack>,
}

/// A stack on which a thread waited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// Time off the CPU on it.
    pub ns: u64,
    /// Kernel functions, innermost first.
    pub kernel: Vec<String>,
    /// User functions, innermost first.
    pub user: Vec<String>,
    /// The outermost user frames are missing.
    pub user_truncated: bool,
}

/// What a device's throttle measured and did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// `major:minor`.
    pub device: String,
    /// Its name.
    pub name: String,
    /// What it keeps reads below; `None` where the throttle is off, or the device is gone.
    pub target_ns: Option<u64>,
    /// Its windows of measurement that ended.
    pub windows: u64,
    /// Those in which reads were late.
    pub late_windows: u64,
    /// Reads that were in flight for longer than the target as a window ended.
    pub late_reads: u64,
    /// The longest that one had been by then.
    pub latest_read_ns: u64,
    /// Changes of its limits, by the kernel's word for them.
    pub steps: BTreeMap<String, u64>,
    /// The tightest limits that were set; `None` where none was.
    pub tightest: Option<Limits>,
    /// The last that were set.
    pub last: Option<Limits>,
    /// The most throttled writes that were in flight as a window ended.
    pub most_in_flight: u64,
    /// Reads that it measured.
    pub reads: Latency,
    /// Writes that it measured.
    pub writes: Latency,
}

/// How many writes may be in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// How tight: 0 is normal, more is tighter, less is looser.
    pub step: i32,
    /// Length of the windows of measurement.
    pub window_ns: u64,
    /// Background writes.
    pub background: u32,
    /// Other buffered writes.
    pub normal: u32,
    /// Writes that somebody waits for.
    pub max: u32,
}

/// Latencies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// Requests.
    pub samples: u64,
    /// Their sum.
    pub sum_ns: u64,
    /// The shortest.
    pub min_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

impl Wbt {
    /// The name of a device; `major:minor` where it is not known.
    pub fn name<'a>(&'a self, device: &'a str) -> &'a str {
        self.devices.iter().find(|known| known.device == device).map_or(device, |known| known.name.as_str())
    }
}

/// Draws `report`: the whole file as bytes. The same report gives the same bytes.
///
/// # Errors
/// [`RenderError`], for a flame graph of nothing above all.
pub fn render(report: &Wbt, format: Format) -> Result<Vec<u8>, RenderError> {
    let title = || format!("Writeback throttling of {}", headline(&report.processes));
    match format {
        Format::Table => Ok(table::render(report).into_bytes()),
        Format::Folded => Ok(folded::render(&lines(report)).into_bytes()),
        Format::Svg => {
            let hooks = std::slice::from_ref(&report.rung);
            let (window_ns, losses) = (report.window_ns, &report.loss);
            folded::flame_graph(Caption { title: &title(), window_ns, hooks, losses }, &lines(report))
        }
        Format::Json => format::json(report),
    }
}

/// `comm-tid;device;user frames;kernel frames_[k]`.
fn lines(report: &Wbt) -> Vec<Line> {
    let mut lines = Vec::new();
    for waits in &report.waits {
        let device = waits.device.as_deref().map_or("[device not known]", |device| report.name(device));
        for stack in &waits.stacks {
            let mut frames = vec![format!("{}-{}", waits.comm, waits.tid), device.to_owned()];
            frames.extend(stack.user_truncated.then(|| "[truncated]".to_owned()));
            frames.extend(stack.user.iter().rev().cloned());
            frames.extend(stack.kernel.iter().rev().map(|frame| format!("{frame}_[k]")));
            lines.push(Line { frames, ns: stack.ns });
        }
    }
    lines
}
