//! Device events to the lists of a report.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use ::syscalls::Errno;
use probes_common::{Allocation, CommitStep, DirtyPause, Sync};
use reports::io::{self, Times};

use super::pairs::{Paired, Pairs};
use crate::comm::Comm;
use crate::decode::ThreadId;
use crate::device::{
    Class, Counts, DeviceEvent, DeviceRecord, Dirtiers, Origin, Outcome, Requests, Whole, device_id,
    device_of_name,
};
use crate::gaps::Gap;
use crate::interval::Interval;
use crate::pipeline::{Analysis, total};

/// Slow requests that are kept of each origin, device and class, and that a report shows of all.
const SLOWEST: usize = 10;
/// `PAGE_SIZE`.
const PAGE_BYTES: u64 = 4096;

/// What a report is about, and what is known beside the events.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// These processes only; every one where this is empty.
    pub pids: Vec<u32>,
    /// Of lists by thread, these threads only; every one where this is empty.
    pub tids: Vec<u32>,
    /// The kernel's tick.
    pub tick_ns: u64,
}

/// Sums, as a recording goes on.
#[derive(Debug)]
pub struct Sums {
    requests: Requests,
    flows: HashMap<Key, Flow>,
    devices: BTreeMap<u32, (u64, u64)>,
    syncs: Pairs<(u32, Sync)>,
    sync_rows: BTreeMap<(ThreadId, u32, u64), io::Sync>,
    allocations: Pairs<(u32, Allocation)>,
    allocation_rows: BTreeMap<(u32, u32), io::Allocation>,
    commits: HashMap<(u32, u32), Vec<(CommitStep, u64)>>,
    journals: BTreeMap<u32, io::Journal>,
    pauses: BTreeMap<(ThreadId, String), Pause>,
    comms: HashMap<u32, Comm>,
}

/// Requests that are summed before it is known whom they are charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    origin: Origin,
    device: u32,
    class: Class,
}

#[derive(Debug, Default)]
struct Flow {
    row: io::Class,
    slowest: Vec<Whole>,
}

#[derive(Debug, Default)]
struct Pause {
    tgid: u32,
    comm: String,
    /// In ticks.
    told: Vec<u64>,
    lowest_pages: u64,
}

/// The lists of a report.
#[derive(Debug, Default)]
pub struct Lists {
    /// See [`io::Io::devices`]; without names.
    pub devices: Vec<io::Device>,
    /// See [`io::Io::flows`].
    pub flows: Vec<io::Flow>,
    /// See [`io::Io::slowest`].
    pub slowest: Vec<io::Slow>,
    /// See [`io::Io::syncs`].
    pub syncs: Vec<io::Sync>,
    /// See [`io::Io::journals`].
    pub journals: Vec<io::Journal>,
    /// See [`io::Io::allocations`].
    pub allocations: Vec<io::Allocation>,
    /// See [`io::Io::pauses`].
    pub pauses: Vec<io::Pause>,
}

impl Sums {
    /// For a window that opened at `start_ns`.
    pub fn new(start_ns: u64) -> Self {
        Self {
            requests: Requests::new(start_ns),
            flows: HashMap::new(),
            devices: BTreeMap::new(),
            syncs: Pairs::new(start_ns),
            sync_rows: BTreeMap::new(),
            allocations: Pairs::new(start_ns),
            allocation_rows: BTreeMap::new(),
            commits: HashMap::new(),
            journals: BTreeMap::new(),
            pauses: BTreeMap::new(),
            comms: HashMap::new(),
        }
    }

    /// Closes what is open at the end of the window, charges requests to those who dirtied their pages, and makes
    /// the lists.
    pub fn finish(mut self, end_ns: u64, dirtiers: &Dirtiers, question: &Question) -> Lists {
        let requests = std::mem::replace(&mut self.requests, Requests::new(0));
        let counts = requests.finish(end_ns, &mut |whole| add(&mut self.flows, &mut self.devices, whole));
        let syncs = std::mem::replace(&mut self.syncs, Pairs::new(0));
        for (thread, paired) in syncs.finish(end_ns) {
            self.add_sync(thread, &paired);
        }
        let allocations = std::mem::replace(&mut self.allocations, Pairs::new(0));
        for (_, paired) in allocations.finish(end_ns) {
            self.add_allocation(&paired);
        }
        for (device, _) in self.commits.drain().map(|(key, _)| key) {
            self.journals.entry(device).or_default().partial += 1;
        }
        let charging = Charging { dirtiers, comms: &self.comms, question };
        Lists {
            devices: devices(self.devices, counts),
            flows: charging.flows(&self.flows),
            slowest: charging.slowest(&self.flows),
            syncs: charging.syncs(self.sync_rows),
            journals: journals(self.journals),
            allocations: charging.allocations(self.allocation_rows),
            pauses: charging.pauses(self.pauses),
        }
    }

    fn note_comm(&mut self, record: &DeviceRecord, comm: [u8; probes_common::COMM_LEN]) {
        let comm = Comm::new(comm);
        if record.thread.tid == record.tgid {
            self.comms.insert(record.tgid, comm);
        } else {
            self.comms.entry(record.tgid).or_insert(comm);
        }
    }

    fn commit(&mut self, time_ns: u64, device: u32, transaction: u32, step: CommitStep) {
        let steps = self.commits.entry((device, transaction)).or_default();
        steps.push((step, time_ns));
        if step != CommitStep::End {
            return;
        }
        let steps = self.commits.remove(&(device, transaction)).unwrap_or_default();
        let journal = self.journals.entry(device).or_default();
        let at = |step| steps.iter().find(|(known, _)| *known == step).map(|(_, time_ns)| *time_ns);
        let all = CommitStep::ALL.map(at);
        let [Some(start), Some(locking), Some(flushing), Some(logging), Some(end)] = all else {
            journal.partial += 1;
            return;
        };
        journal.total.add(end.saturating_sub(start));
        journal.locking.add(flushing.saturating_sub(locking));
        journal.flushing.add(logging.saturating_sub(flushing));
        journal.logging.add(end.saturating_sub(logging));
    }

    fn add_sync(&mut self, thread: ThreadId, paired: &Paired<(u32, Sync), (u32, Sync)>) {
        let Some((tgid, known)) = paired.exit.or(paired.entry) else { return };
        let row = self.sync_rows.entry((thread, known.device, known.inode)).or_insert_with(|| io::Sync {
            pid: tgid,
            tid: thread.tid,
            comm: Comm::new(known.comm).text().into(),
            device: device_id(known.device),
            inode: known.inode,
            data_only: 0,
            times: Times::default(),
            errors: BTreeMap::new(),
            in_flight_at_start: 0,
            in_flight_at_end: 0,
        });
        row.times.add(paired.end_ns - paired.start_ns);
        row.data_only += u64::from(paired.entry.is_some_and(|(_, entry)| entry.value != 0));
        row.in_flight_at_start += u64::from(paired.entry.is_none());
        row.in_flight_at_end += u64::from(paired.exit.is_none());
        if let Some((_, exit)) = paired.exit.filter(|(_, exit)| exit.value < 0) {
            *row.errors.entry(error_name(exit.value.unsigned_abs())).or_default() += 1;
        }
    }

    fn add_allocation(&mut self, paired: &Paired<(u32, Allocation), (u32, Allocation)>) {
        let Some((tgid, known)) = paired.exit.or(paired.entry) else { return };
        let row = self.allocation_rows.entry((tgid, known.device)).or_insert_with(|| io::Allocation {
            pid: tgid,
            comm: Comm::new(known.comm).text().into(),
            device: device_id(known.device),
            blocks: 0,
            failed: 0,
            times: Times::default(),
        });
        row.times.add(paired.end_ns - paired.start_ns);
        match paired.exit {
            Some((_, exit)) if exit.block == 0 => row.failed += 1,
            Some((_, exit)) => row.blocks += u64::from(exit.blocks),
            None => {}
        }
    }

    fn pause(&mut self, record: &DeviceRecord, pause: &DirtyPause) {
        let Ok(ticks) = u64::try_from(pause.pause_ticks) else { return };
        if ticks == 0 {
            return;
        }
        let row = self.pauses.entry((record.thread, device_of_name(&pause.device_name))).or_default();
        if row.told.is_empty() {
            row.tgid = record.tgid;
            row.comm = Comm::new(pause.comm).text().into();
            row.lowest_pages = u64::MAX;
        }
        row.told.push(ticks);
        row.lowest_pages = row.lowest_pages.min(pause.task_limit);
    }
}

impl Analysis for Sums {
    fn interval(&mut self, _: Interval) {}

    fn device(&mut self, record: &DeviceRecord) {
        let (thread, time_ns) = (record.thread, record.time_ns);
        match &record.event {
            DeviceEvent::Request(stage, request) => {
                if request.comm != [0; _] {
                    self.note_comm(record, request.comm);
                }
                let Self { requests, flows, devices, .. } = self;
                requests
                    .event(time_ns, record.tgid, *stage, request, &mut |whole| add(flows, devices, whole));
            }
            DeviceEvent::BioMerge(bio) => self.requests.merged(bio),
            DeviceEvent::BioSplit(bio) => self.requests.split(bio),
            DeviceEvent::BioRemap(bio) => self.requests.remapped(bio),
            DeviceEvent::Commit { device, transaction, step } => {
                self.commit(time_ns, *device, *transaction, *step);
            }
            DeviceEvent::SyncEnter(sync) => {
                self.note_comm(record, sync.comm);
                self.syncs.enter(thread, time_ns, (record.tgid, *sync));
            }
            DeviceEvent::SyncExit(sync) => {
                let paired = self.syncs.exit(thread, time_ns, (record.tgid, *sync));
                self.add_sync(thread, &paired);
            }
            DeviceEvent::AllocateEnter(allocation) => {
                self.allocations.enter(thread, time_ns, (record.tgid, *allocation));
            }
            DeviceEvent::AllocateExit(allocation) => {
                let paired = self.allocations.exit(thread, time_ns, (record.tgid, *allocation));
                self.add_allocation(&paired);
            }
            DeviceEvent::DirtyPause(pause) => self.pause(record, pause),
            DeviceEvent::WbtStat(_)
            | DeviceEvent::WbtLatency(_)
            | DeviceEvent::WbtStep(_)
            | DeviceEvent::WbtTimer(_)
            | DeviceEvent::ThrottleExit { .. } => {}
        }
    }

    fn lost(&mut self, _: Gap) {
        self.requests.lost();
    }
}

/// Books a request.
fn add(flows: &mut HashMap<Key, Flow>, devices: &mut BTreeMap<u32, (u64, u64)>, whole: Whole) {
    let device = devices.entry(whole.device).or_default();
    device.0 += 1;
    device.1 += whole.bytes;
    let key = Key { origin: whole.origin, device: whole.device, class: whole.class };
    let Flow { row, slowest } = flows.entry(key).or_default();
    row.requests += 1;
    row.bytes += whole.bytes;
    row.held.add(whole.held_ns);
    row.queued.add(whole.queued_ns);
    row.device.add(whole.device_ns);
    row.total.add(whole.total_ns());
    row.meta += u64::from(whole.is_meta);
    row.direct += u64::from(whole.is_direct);
    row.in_flight_at_start += u64::from(whole.is_early);
    row.truncated += u64::from(whole.truncated);
    match whole.outcome {
        Outcome::Open => row.in_flight_at_end += 1,
        Outcome::Completed(0) => {}
        Outcome::Completed(status) => *row.errors.entry(status_name(status)).or_default() += 1,
    }
    let at = slowest.partition_point(|other| other.total_ns() >= whole.total_ns());
    if at < SLOWEST {
        slowest.insert(at, whole);
        slowest.truncate(SLOWEST);
    }
}

/// Adds the figures of a class to those of the same in another origin.
fn merge(into: &mut io::Class, from: &io::Class) {
    into.requests += from.requests;
    into.bytes += from.bytes;
    into.held.merge(&from.held);
    into.queued.merge(&from.queued);
    into.device.merge(&from.device);
    into.total.merge(&from.total);
    into.meta += from.meta;
    into.direct += from.direct;
    into.in_flight_at_start += from.in_flight_at_start;
    into.in_flight_at_end += from.in_flight_at_end;
    into.truncated += from.truncated;
    for (error, count) in &from.errors {
        *into.errors.entry(error.clone()).or_default() += count;
    }
}

/// Who is charged with what, once all pages are counted.
struct Charging<'a> {
    dirtiers: &'a Dirtiers,
    comms: &'a HashMap<u32, Comm>,
    question: &'a Question,
}

impl Charging<'_> {
    fn concerns(&self, pid: u32) -> bool {
        self.question.pids.is_empty() || self.question.pids.contains(&pid)
    }

    /// The process that is charged, where the report is about it or about who made the requests.
    fn charged(&self, class: Class, origin: &Origin) -> Option<u32> {
        let pid = self.dirtiers.charge(class, origin);
        (self.concerns(pid) || self.concerns(origin.tgid)).then_some(pid)
    }

    fn comm(&self, pid: u32) -> String {
        if pid == 0 {
            return "cache flush".to_owned();
        }
        let known = self.comms.get(&pid).copied().or_else(|| self.dirtiers.comm(pid));
        known.map_or_else(String::new, |comm| comm.text().into())
    }

    fn named(&self, pid: u32) -> String {
        format!("{}-{pid}", self.comm(pid))
    }

    fn flows(&self, flows: &HashMap<Key, Flow>) -> Vec<io::Flow> {
        let mut rows: BTreeMap<(u32, u32), BTreeMap<Class, io::Class>> = BTreeMap::new();
        for (Key { origin, device, class }, flow) in flows {
            let Some(pid) = self.charged(*class, origin) else { continue };
            let classes = rows.entry((pid, *device)).or_default();
            let row = classes
                .entry(*class)
                .or_insert_with(|| io::Class { class: class.name().to_owned(), ..io::Class::default() });
            merge(row, &flow.row);
            if origin.tgid != pid {
                *row.submitted_by.entry(self.named(origin.tgid)).or_default() += flow.row.requests;
            }
        }
        let row = |((pid, device), classes): ((u32, u32), BTreeMap<Class, io::Class>)| {
            let mut classes: Vec<io::Class> = classes.into_values().collect();
            classes.sort_by_key(|class| Reverse(time_ns(class)));
            let dirtied_bytes = self.dirtiers.bytes().get(&(pid, device)).copied().unwrap_or(0);
            io::Flow { pid, comm: self.comm(pid), device: device_id(device), dirtied_bytes, classes }
        };
        let mut rows: Vec<io::Flow> = rows.into_iter().map(row).collect();
        rows.sort_by_key(|flow| Reverse(total(flow.classes.iter().map(time_ns))));
        rows
    }

    fn slowest(&self, flows: &HashMap<Key, Flow>) -> Vec<io::Slow> {
        let mut all: Vec<(u32, &Whole)> = Vec::new();
        for (Key { origin, class, .. }, flow) in flows {
            if let Some(pid) = self.charged(*class, origin) {
                all.extend(flow.slowest.iter().map(|whole| (pid, whole)));
            }
        }
        all.sort_by_key(|(pid, whole)| (Reverse(whole.total_ns()), whole.start_ns, whole.sector, *pid));
        all.into_iter().take(SLOWEST).map(|(pid, whole)| self.slow(pid, whole)).collect()
    }

    fn slow(&self, pid: u32, whole: &Whole) -> io::Slow {
        let by = whole.origin.tgid;
        io::Slow {
            pid,
            comm: self.comm(pid),
            submitted_by: (by != pid).then(|| self.named(by)),
            device: device_id(whole.device),
            class: whole.class.name().to_owned(),
            bytes: whole.bytes,
            sector: whole.sector,
            start_ns: whole.start_ns,
            held_ns: whole.held_ns,
            queued_ns: whole.queued_ns,
            device_ns: whole.device_ns,
            unfinished: whole.outcome == Outcome::Open,
            ahead: self.ahead(whole),
        }
    }

    /// By process and class: requests for several files of one process are one entry.
    fn ahead(&self, whole: &Whole) -> Vec<io::Ahead> {
        let mut rows: BTreeMap<(u32, Class), io::Ahead> = BTreeMap::new();
        for one in &whole.ahead {
            let pid = self.dirtiers.charge(one.class, &one.origin);
            let row = rows.entry((pid, one.class)).or_insert_with(|| io::Ahead {
                pid,
                comm: self.comm(pid),
                class: one.class.name().to_owned(),
                queued: 0,
                issued: 0,
                bytes: 0,
            });
            row.queued += one.queued;
            row.issued += one.issued;
            row.bytes += one.bytes;
        }
        let mut rows: Vec<io::Ahead> = rows.into_values().collect();
        rows.sort_by_key(|row| Reverse((row.bytes, row.queued + row.issued)));
        rows
    }

    fn has_thread(&self, pid: u32, tid: u32) -> bool {
        self.concerns(pid) && (self.question.tids.is_empty() || self.question.tids.contains(&tid))
    }

    fn syncs(&self, rows: BTreeMap<(ThreadId, u32, u64), io::Sync>) -> Vec<io::Sync> {
        let mut rows: Vec<io::Sync> =
            rows.into_values().filter(|row| self.has_thread(row.pid, row.tid)).collect();
        rows.sort_by_key(|row| Reverse(row.times.ns));
        rows
    }

    fn allocations(&self, rows: BTreeMap<(u32, u32), io::Allocation>) -> Vec<io::Allocation> {
        let mut rows: Vec<io::Allocation> = rows.into_values().filter(|row| self.concerns(row.pid)).collect();
        rows.sort_by_key(|row| Reverse(row.times.ns));
        rows
    }

    fn pauses(&self, rows: BTreeMap<(ThreadId, String), Pause>) -> Vec<io::Pause> {
        let row = |((thread, device), pause): ((ThreadId, String), Pause)| {
            let mut told = Times::default();
            for ticks in &pause.told {
                told.add(ticks.saturating_mul(self.question.tick_ns));
            }
            let lowest_bytes_per_second = pause.lowest_pages.saturating_mul(PAGE_BYTES);
            let (pid, tid, comm) = (pause.tgid, thread.tid, pause.comm);
            io::Pause { pid, tid, comm, device, told, lowest_bytes_per_second }
        };
        let mut rows: Vec<io::Pause> =
            rows.into_iter().map(row).filter(|row| self.has_thread(row.pid, row.tid)).collect();
        rows.sort_by_key(|row| Reverse(row.told.ns));
        rows
    }
}

const fn time_ns(class: &io::Class) -> u64 {
    class.held.ns.saturating_add(class.queued.ns).saturating_add(class.device.ns)
}

fn devices(seen: BTreeMap<u32, (u64, u64)>, mut counts: BTreeMap<u32, Counts>) -> Vec<io::Device> {
    let mut ids: Vec<u32> = seen.keys().chain(counts.keys()).copied().collect();
    ids.sort_unstable();
    ids.dedup();
    let row = |device: u32| {
        let (requests, bytes) = seen.get(&device).copied().unwrap_or_default();
        let counts = counts.remove(&device).unwrap_or_default();
        io::Device {
            device: device_id(device),
            name: device_id(device),
            backing_file: None,
            backing_device: None,
            requests,
            bytes,
            merged_requests: counts.merged_requests,
            merged_pieces: counts.merged_bios,
            split_pieces: counts.split_bios,
            remapped_from: counts
                .remapped_from
                .into_iter()
                .map(|(from, count)| (device_id(from), count))
                .collect(),
            requeued: counts.requeued,
            unseen: counts.unseen,
            endless: counts.endless,
        }
    };
    ids.into_iter().map(row).collect()
}

fn journals(rows: BTreeMap<u32, io::Journal>) -> Vec<io::Journal> {
    let row = |(device, journal)| io::Journal { device: device_id(device), ..journal };
    let mut rows: Vec<io::Journal> = rows.into_iter().map(row).collect();
    rows.sort_by_key(|row| Reverse(row.total.ns));
    rows
}

fn error_name(number: u32) -> String {
    let name = i32::try_from(number).ok().and_then(|number| Errno::new(number).name());
    name.map_or_else(|| format!("errno_{number}"), str::to_owned)
}

/// A `blk_status_t` (include/linux/blk_types.h) by the error that it becomes (block/blk-core.c, `blk_errors`).
fn status_name(status: u32) -> String {
    let name = match status {
        1 => "EOPNOTSUPP",
        2 => "ETIMEDOUT",
        3 => "ENOSPC",
        4 => "ENOLINK",
        5 => "EREMOTEIO",
        6 => "EBADE",
        7 => "ENODATA",
        8 => "EILSEQ",
        9 => "ENOMEM",
        10 => "EIO",
        12 => "EAGAIN",
        _ => return format!("status_{status}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests;
