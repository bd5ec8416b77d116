//! A recording of how writeback throttling holds threads back, from attach to report.

mod devices;
mod waits;
mod way;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::ops::Range;

use probes_common::Throttle;
use reports::io::Flow;
use reports::wbt::{self, SCHEMA, Wbt};

pub use devices::Devices;
pub use waits::{Frames, Place, Row, Waiting, is_function};
pub use way::Way;

use crate::aggregate::{Names, UserNames};
use crate::decode::ThreadId;
use crate::device::{DeviceEvent, DeviceRecord, Dirtiers, Disks, RequestStage, device_id};
use crate::error::{AttachError, FinishError};
use crate::gaps::Gap;
use crate::interval::{Interval, KernelStack, ThreadNote};
use crate::io::{Question, Sums, refused, uncounted, uncounted_at_all};
use crate::pipeline::{Analysis, Gathered};
use crate::recfile::{self, Needed, ReadError};
use crate::recording::{self, Facts, Group, Options, Plan, Recording, Refused, Rung, Start};
use crate::symbolize::{Symbolizer, function_ranges, hidden_kernel_symbols};
use crate::target::Target;

/// What is recorded beside the switches.
pub const GROUPS: [Group; 5] =
    [Group::Throttle(Rung::Fentry), Group::Throttle(Rung::Kprobe), Group::Block, Group::Dirty, Group::Wbt];

/// What is made of a recording while it goes on.
#[derive(Debug)]
struct Throttling {
    waiting: Waiting,
    devices: Devices,
    sums: Sums,
}

impl Analysis for Throttling {
    fn interval(&mut self, interval: Interval) {
        self.waiting.interval(&interval);
    }

    fn device(&mut self, record: &DeviceRecord) {
        match &record.event {
            DeviceEvent::Request(RequestStage::Start, request) => {
                self.waiting.request(record.thread, request.device);
            }
            DeviceEvent::ThrottleExit { entered_ns, device, throttle, .. } => {
                self.waiting.exit(record.thread, record.time_ns, *entered_ns, *device, *throttle);
            }
            DeviceEvent::WbtStat(stat) => self.devices.stat(stat),
            DeviceEvent::WbtLatency(late) => self.devices.late(late),
            DeviceEvent::WbtStep(step) => self.devices.step(step),
            DeviceEvent::WbtTimer(timer) => self.devices.window(timer),
            _ => {}
        }
        self.sums.device(record);
    }

    fn lost(&mut self, gap: Gap) {
        self.sums.lost(gap);
    }
}

impl Throttling {
    fn new(start: &Start) -> Self {
        let is_probed = start.hooks.iter().any(|hook| is_probe(hook));
        Self {
            waiting: Waiting::new(start.start_ns, Frames(start.throttles.clone()), is_probed),
            devices: Devices::default(),
            sums: Sums::new(start.start_ns),
        }
    }
}

/// A recording, which goes on until it is finished or dropped.
#[derive(Debug)]
pub struct Session {
    recording: Recording<Throttling>,
    disks: Disks,
}

impl Session {
    /// Attaches, and records from when this returns: waits of the threads of `targets`, and everybody's requests
    /// and dirty pages.
    ///
    /// # Errors
    /// [`AttachError`] says what was refused, and what to do about it. Nothing is left attached.
    pub fn attach(targets: Vec<Target>, options: &Options) -> Result<Self, AttachError> {
        Self::attach_by(targets, options, None)
    }

    /// The same, with waits seen in this way only; in the first that the kernel takes where there is none.
    ///
    /// # Errors
    /// As [`Session::attach`], and [`AttachError::Way`] where the kernel does not take the way.
    pub fn attach_by(targets: Vec<Target>, options: &Options, way: Option<Way>) -> Result<Self, AttachError> {
        let mut disks = Disks::default();
        disks.look();
        let plan = Plan::new(options.ring_bytes, None).with(&groups(way));
        let recording = Recording::attach_plan(targets, &plan, options, Throttling::new)?;
        let facts = recording.facts();
        let is_by_function = facts.hooks.iter().any(|hook| is_probe(hook));
        if let Some(way) = way.filter(|way| way.group().is_some() && !is_by_function) {
            let refused = facts.refused.iter().find(|refused| is_probe(&refused.name));
            let reason = refused.map_or_else(|| "it does not say why".to_owned(), |one| one.reason.clone());
            return Err(AttachError::Way { way: way.name(), reason });
        }
        Ok(Self { recording, disks })
    }

    /// The watched processes.
    pub fn targets(&self) -> &[Target] {
        self.recording.targets()
    }

    /// Ends the recording, and reports on the waits of `tids`, or of every watched thread where that is empty.
    ///
    /// # Errors
    /// [`FinishError::Drain`] where the recording had ended by itself.
    pub fn finish(mut self, tids: &[u32]) -> Result<Wbt, FinishError> {
        let mut gathered = self.recording.finish()?;
        self.disks.look();
        let cost = self.recording.cost(&gathered);
        let mut facts = self.recording.facts();
        facts.warnings.extend(hidden_kernel_symbols());
        let names = Symbolizer::after_recording(std::mem::take(&mut gathered.user));
        Ok(Wbt { cost, ..report(facts, gathered, names, &self.disks, tids) })
    }
}

/// Reports on a recording in a file, as [`Session::finish`] does on one that has just ended. Of a file that ends
/// inside a block, what is before it is read where `partial` says so.
///
/// # Errors
/// [`ReadError`] says what is wrong with the file, and where.
pub fn replay(file: impl Read, partial: bool, tids: &[u32]) -> Result<Wbt, ReadError> {
    let mut replayed = recfile::replay(file, partial, Needed::WBT, Throttling::new)?;
    let disks = std::mem::take(&mut replayed.disks);
    let (facts, gathered, names, _) = replayed.named();
    Ok(report(facts, gathered, names, &disks, tids))
}

fn report(
    facts: Facts,
    gathered: Gathered<Throttling>,
    names: Symbolizer,
    disks: &Disks,
    tids: &[u32],
) -> Wbt {
    let mut warnings = warnings(&facts, &gathered.loss);
    let Facts { processes, start_ns, attach, hooks, .. } = facts;
    let Throttling { waiting, devices, sums } = gathered.analysis;
    let dirtiers = Dirtiers::new(&gathered.maps.dirtied);
    let everybody = Question::default();
    let flows = sums.finish(gathered.end_ns, &dirtiers, &everybody).flows;
    let rows = waiting.finish(gathered.end_ns, &gathered.maps.throttled);
    let mut naming = Naming::new(&gathered.notes, names);
    let waits = naming.waits(rows, tids);
    warnings.extend(naming.names.warning());
    let waited_for = waits.iter().filter_map(|waits| waits.device.clone());
    let devices = with_names(devices.finish(waited_for), disks);
    Wbt {
        schema: SCHEMA.to_owned(),
        processes,
        window_ns: gathered.end_ns.saturating_sub(start_ns),
        rung: rung(&hooks, &attach),
        attach: hooks,
        warnings,
        loss: gathered.loss,
        writers: writers(flows, &devices),
        waits,
        devices,
        cost: None,
    }
}

fn with_names(devices: Vec<wbt::Device>, disks: &Disks) -> Vec<wbt::Device> {
    let named = |device: wbt::Device| {
        let target_us = disks.get(&device.device).and_then(|disk| disk.wbt_target_us);
        wbt::Device {
            name: disks.name(&device.device),
            target_ns: target_us.map(|us| us.saturating_mul(1_000)),
            ..device
        }
    };
    devices.into_iter().map(named).collect()
}

fn warnings(facts: &Facts, loss: &BTreeMap<String, u64>) -> Vec<String> {
    let (of_rungs, others): (Vec<Refused>, Vec<Refused>) =
        facts.refused.iter().cloned().partition(|one| is_probe(&one.name));
    let mut warnings = facts.warnings.clone();
    if let Some(first) = of_rungs.first() {
        warnings.push(format!(
            "this kernel lets none of its functions be probed ({}): waits are found by the stacks of threads that \
             sleep, and their devices by the requests that follow",
            first.reason
        ));
    }
    warnings.extend(facts.cut_off.is_some().then(uncounted_at_all));
    warnings.extend(recording::no_room(loss));
    warnings.extend(uncounted(loss));
    warnings.extend(refused(&others));
    warnings
}

/// Where the throttle's functions lie in the running kernel.
pub(crate) fn throttle_functions() -> Vec<(Throttle, Range<u64>)> {
    function_ranges(&|symbol| {
        Throttle::ALL.into_iter().find(|throttle| is_function(symbol, throttle.function()))
    })
}

/// [`GROUPS`], of which only one way of seeing waits where one is asked for.
fn groups(way: Option<Way>) -> Vec<Group> {
    let is_wanted = |group: &Group| match (group, way) {
        (Group::Throttle(_), Some(way)) => way.group() == Some(*group),
        _ => true,
    };
    GROUPS.into_iter().filter(is_wanted).collect()
}

fn is_probe(hook: &str) -> bool {
    Throttle::ALL.iter().any(|throttle| hook.ends_with(&format!("/{}", throttle.function())))
}

/// How waits are seen; `attach` is how switches are.
fn rung(hooks: &[String], attach: &str) -> String {
    let probes: Vec<&str> = hooks.iter().map(String::as_str).filter(|hook| is_probe(hook)).collect();
    match probes.first() {
        Some(probe) if probe.starts_with("kprobe/") => "kprobe/wbt_wait and its return".to_owned(),
        Some(_) => "fentry/wbt_wait and fexit/wbt_wait".to_owned(),
        None => format!("the stacks of sleeping threads ({attach})"),
    }
}

/// Those who dirtied or wrote something on these devices, with what they wrote.
fn writers(flows: Vec<Flow>, devices: &[wbt::Device]) -> Vec<Flow> {
    let throttles = |device: &str| devices.iter().any(|known| known.device == device);
    let of_writes = |flow: Flow| {
        let classes = flow.classes.into_iter().filter(|class| class.class.ends_with("write"));
        Flow { classes: classes.collect(), ..flow }
    };
    let mut writers: Vec<Flow> =
        flows.into_iter().filter(|flow| throttles(&flow.device)).map(of_writes).collect();
    writers.retain(|flow| flow.dirtied_bytes > 0 || !flow.classes.is_empty());
    writers.sort_by_key(|flow| {
        let written: u64 = flow.classes.iter().map(|class| class.bytes).sum();
        (Reverse(written.max(flow.dirtied_bytes)), flow.pid)
    });
    writers
}

/// Gives threads and stacks their names.
struct Naming {
    threads: HashMap<ThreadId, (u32, String)>,
    names: Symbolizer,
}

impl Naming {
    fn new(notes: &[ThreadNote], names: Symbolizer) -> Self {
        let comm = |note: &ThreadNote| note.comm.map_or_else(String::new, |comm| comm.text().into());
        let threads = notes.iter().map(|note| (note.thread, (note.tgid, comm(note)))).collect();
        Self { threads, names }
    }

    /// Those who waited, of the threads that were asked for; who was always let through is no waiter, and neither is a
    /// thread that is not watched.
    fn waits(&mut self, rows: BTreeMap<(ThreadId, Option<u32>), Row>, tids: &[u32]) -> Vec<wbt::Waits> {
        let mut waits = Vec::new();
        for ((thread, device), row) in rows {
            let is_asked = tids.is_empty() || tids.contains(&thread.tid);
            let Some((pid, comm)) = self.threads.get(&thread).cloned().filter(|_| is_asked) else { continue };
            if row.times.histogram.count() == 0 {
                continue;
            }
            waits.push(wbt::Waits {
                pid,
                tid: thread.tid,
                comm,
                device: device.map(device_id),
                times: row.times,
                run_queue_ns: row.run_queue_ns,
                let_through: row.let_through,
                in_flight_at_start: row.in_flight_at_start,
                in_flight_at_end: row.in_flight_at_end,
                stacks: self.stacks(pid, row.places),
            });
        }
        waits.sort_by_key(|waits| (Reverse(waits.times.ns), waits.tid));
        waits
    }

    fn stacks(&mut self, pid: u32, places: HashMap<Place, u64>) -> Vec<wbt::Stack> {
        let mut named: BTreeMap<(Vec<String>, Vec<String>, bool), u64> = BTreeMap::new();
        for (place, ns) in places {
            let kernel = match &place.kernel {
                KernelStack::Addresses(frames) => self.names.kernel(frames),
                KernelStack::Names(frames) => frames.to_vec(),
                KernelStack::Missing => Vec::new(),
            };
            let user = place.user.map(|user| self.names.user(pid, &user)).unwrap_or_default();
            let UserNames { frames, truncated } = user;
            let at = named.entry((kernel, frames, truncated)).or_default();
            *at = at.saturating_add(ns);
        }
        let stack = |((kernel, user, user_truncated), ns)| wbt::Stack { ns, kernel, user, user_truncated };
        let mut stacks: Vec<wbt::Stack> = named.into_iter().map(stack).collect();
        stacks.sort_by_key(|stack| Reverse(stack.ns));
        stacks
    }
}
