//! What passes between processes and disks: requests, syncs, journal commits, allocations and pauses.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cost::Cost;
use crate::folded::{self, Caption, Line};
use crate::format::{self, Format, RenderError};
use crate::histogram::Histogram;
use crate::process::{Process, headline};

mod table;

/// The `schema` of [`Io`]: the number grows with every change that a reader could trip over.
pub const SCHEMA: &str = "forkd.io/1";

/// What passed between processes and disks in a window. All `_ns` are nanoseconds of CLOCK_MONOTONIC; a device is
/// `major:minor`, and `devices` has its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Io {
    /// [`SCHEMA`].
    pub schema: String,
    /// The processes that the report is about; empty for the whole machine.
    pub processes: Vec<Process>,
    /// When the window opened.
    pub start_ns: u64,
    /// Length of the window.
    pub window_ns: u64,
    /// The kernel hooks that the events came from, as `kind/name`.
    pub attach: Vec<String>,
    /// Events that were not recorded, by cause; every cause is listed, zero or not.
    pub loss: BTreeMap<String, u64>,
    /// What the reader must know before trusting the figures, one sentence each.
    pub warnings: Vec<String>,
    /// Every device that something was seen of.
    pub devices: Vec<Device>,
    /// Requests by the process that they are charged to and the device, most time first.
    pub flows: Vec<Flow>,
    /// The slowest requests, slowest first.
    pub slowest: Vec<Slow>,
    /// Files made durable (ext4), by thread and file, most time first.
    pub syncs: Vec<Sync>,
    /// Commits of journals (jbd2), by device.
    pub journals: Vec<Journal>,
    /// Searches for free blocks (ext4), by process and device, most time first.
    pub allocations: Vec<Allocation>,
    /// Threads that were told to pause because they dirtied too much, longest first.
    pub pauses: Vec<Pause>,
    /// What the recording itself cost; `None` unless asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
}

/// A device, and what became of I/O on its way to requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// `major:minor`.
    pub device: String,
    /// Its name; `major:minor` again where it is gone.
    pub name: String,
    /// The file that a loop device lies on.
    pub backing_file: Option<String>,
    /// The device of that file: requests to the loop device are there again, submitted by kernel threads.
    pub backing_device: Option<String>,
    /// Requests that ended in the window, or were under way at its end.
    pub requests: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Requests that others took in.
    pub merged_requests: u64,
    /// Pieces of I/O that went into a request that was there already.
    pub merged_pieces: u64,
    /// Pieces that were too large for one request.
    pub split_pieces: u64,
    /// Pieces that came from other devices (partitions, mapped devices), by device.
    pub remapped_from: BTreeMap<String, u64>,
    /// Times that the driver gave a request back.
    pub requeued: u64,
    /// Completions of requests that were issued before the window, of which nothing else is known.
    pub unseen: u64,
    /// Requests whose end was not seen.
    pub endless: u64,
}

/// Requests that one process is charged with, on one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The process: who dirtied most of the pages of the file that is written, or who made the requests. 0 for
    /// flushes of a device's cache.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// The device.
    pub device: String,
    /// Bytes of files on this device that the process made dirty in the window.
    pub dirtied_bytes: u64,
    /// Its requests by what they do, most time first.
    pub classes: Vec<Class>,
}

/// Requests of a flow that do the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Class {
    /// `read`, `sync write`, `write`, `background write`, `flush`, `discard` or `other`.
    pub class: String,
    /// Requests.
    pub requests: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Made, and held by the maker, who may have more to add.
    pub held: Times,
    /// In a queue before the device.
    pub queued: Times,
    /// At the device.
    pub device: Times,
    /// Requests by their time from first to last event.
    pub total: Histogram,
    /// Requests with metadata of a file system.
    pub meta: u64,
    /// Requests that were issued without having been in a queue.
    pub direct: u64,
    /// Requests that had been made before the window.
    pub in_flight_at_start: u64,
    /// Requests that were not done at its end; their times reach to it.
    pub in_flight_at_end: u64,
    /// Requests that failed, by the name of the error.
    pub errors: BTreeMap<String, u64>,
    /// Requests of which an event may have been lost.
    pub truncated: u64,
    /// Requests by the process that made them, as `name-pid`, where that is another than the one charged.
    pub submitted_by: BTreeMap<String, u64>,
}

/// Durations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// Their sum.
    pub ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// Their lengths.
    pub histogram: Histogram,
}

impl Times {
    /// Adds one.
    pub fn add(&mut self, ns: u64) {
        self.ns = self.ns.saturating_add(ns);
        self.max_ns = self.max_ns.max(ns);
        self.histogram.add(ns);
    }

    /// Adds all of another's.
    pub fn merge(&mut self, other: &Self) {
        self.ns = self.ns.saturating_add(other.ns);
        self.max_ns = self.max_ns.max(other.max_ns);
        self.histogram.merge(&other.histogram);
    }
}

/// One request, and what was on its device before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slow {
    /// The process that it is charged to.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Who made it, as `name-pid`, where that is another.
    pub submitted_by: Option<String>,
    /// The device.
    pub device: String,
    /// What it does.
    pub class: String,
    /// Its bytes.
    pub bytes: u64,
    /// Its first sector.
    pub sector: u64,
    /// Its first event.
    pub start_ns: u64,
    /// Held by its maker.
    pub held_ns: u64,
    /// In a queue.
    pub queued_ns: u64,
    /// At the device.
    pub device_ns: u64,
    /// It was not done at the end of the window.
    pub unfinished: bool,
    /// What was queued or at the same device when it was queued, most bytes first.
    pub ahead: Vec<Ahead>,
}

impl Slow {
    /// From its first event to its last.
    pub const fn total_ns(&self) -> u64 {
        self.held_ns + self.queued_ns + self.device_ns
    }
}

/// Requests of one process that were ahead of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ahead {
    /// The process that they are charged to.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// What they do.
    pub class: String,
    /// How many were in the queue.
    pub queued: u64,
    /// How many were at the device.
    pub issued: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A file that a thread made durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sync {
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// Its name.
    pub comm: String,
    /// The device of the file system.
    pub device: String,
    /// The file.
    pub inode: u64,
    /// Calls that sync data only.
    pub data_only: u64,
    /// Calls, from entry to exit.
    pub times: Times,
    /// Calls that failed, by the name of the error.
    pub errors: BTreeMap<String, u64>,
    /// Calls entered before the window, and clamped to its start.
    pub in_flight_at_start: u64,
    /// Calls not over at its end, and clamped to it.
    pub in_flight_at_end: u64,
}

/// Commits of one journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// The device of the file system.
    pub device: String,
    /// Commits, from their start to their end.
    pub total: Times,
    /// Waiting for updates under way.
    pub locking: Times,
    /// Submitting the data that must come first.
    pub flushing: Times,
    /// Writing to the journal, and waiting for everything, the data too.
    pub logging: Times,
    /// Commits that began before the window or were not over at its end; they are in no sum.
    pub partial: u64,
}

/// Searches for free blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    /// The process in whose time it was searched.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// The device of the file system.
    pub device: String,
    /// Blocks that were found.
    pub blocks: u64,
    /// Searches that found none.
    pub failed: u64,
    /// Searches.
    pub times: Times,
}

/// Pauses of a thread that dirtied too much.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// Its name.
    pub comm: String,
    /// The device that its pages are for.
    pub device: String,
    /// The pauses as the kernel set them, to within its tick: it may sleep longer.
    pub told: Times,
    /// The lowest rate that it was held to, in bytes a second.
    pub lowest_bytes_per_second: u64,
}

impl Io {
    /// The name of a device; `major:minor` where it is not known.
    pub fn name<'a>(&'a self, device: &'a str) -> &'a str {
        self.devices.iter().find(|known| known.device == device).map_or(device, |known| known.name.as_str())
    }
}

/// Draws `report`: the whole file as bytes. The same report gives the same bytes.
///
/// # Errors
/// [`RenderError`], for a flame graph of nothing above all.
pub fn render(report: &Io, format: Format) -> Result<Vec<u8>, RenderError> {
    let title = || format!("Time of requests of {} by device", subject(report));
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

fn subject(report: &Io) -> String {
    if report.processes.is_empty() { "the whole machine".to_owned() } else { headline(&report.processes) }
}

/// `device;name-pid;class;[where the time was]`.
fn lines(report: &Io) -> Vec<Line> {
    let mut lines = Vec::new();
    for flow in &report.flows {
        for class in &flow.classes {
            let parts = [
                ("[held]", class.held.ns),
                ("[queued]", class.queued.ns),
                ("[at the device]", class.device.ns),
            ];
            lines.extend(parts.into_iter().filter(|(_, ns)| *ns > 0).map(|(part, ns)| Line {
                frames: vec![
                    report.name(&flow.device).to_owned(),
                    format!("{}-{}", flow.comm, flow.pid),
                    class.class.clone(),
                    part.to_owned(),
                ],
                ns,
            }));
        }
    }
    lines
}
