//! Device events of a capture to facts about files and devices. Pure: names come from whoever looks them up.

use std::collections::HashMap;

use probes_common::{CommitStep, Dirtied, Dirtier, Sync};

use crate::attribute::{CommitSpan, Dirty, Facts, RequestSpan, SyncSpan};
use crate::device::{DeviceEvent, DeviceRecord, Dirtiers, Requests, Whole, device_id};

/// Fewer dirty bytes than this keep no device busy.
const DIRTY_MIN_BYTES: u64 = 1 << 20;

/// Gives numbers names.
pub trait DeviceNames {
    /// The disk that is known as `major:minor`.
    fn disk(&mut self, id: &str) -> String;
    /// The file with this inode on the device `major:minor`.
    fn file(&mut self, id: &str, inode: u64) -> String;
    /// The process.
    fn process(&mut self, pid: u32) -> String;
}

/// What the events of a recording say.
pub struct Devices<'a> {
    names: &'a mut dyn DeviceNames,
    requests: Requests,
    wholes: Vec<Whole>,
    /// Syncs under way, by thread.
    syncs: HashMap<u32, (u64, Sync)>,
    /// Commits under way, by device and transaction.
    commits: HashMap<(u32, u32), u64>,
    facts: Facts,
}

impl<'a> Devices<'a> {
    /// For a recording that began at `start_ns`.
    pub fn new(start_ns: u64, names: &'a mut dyn DeviceNames) -> Self {
        let (requests, wholes) = (Requests::new(start_ns), Vec::new());
        let (syncs, commits, facts) = (HashMap::new(), HashMap::new(), Facts::default());
        Self { names, requests, wholes, syncs, commits, facts }
    }

    /// Takes the next event, in the order of time.
    pub fn take(&mut self, record: &DeviceRecord) {
        let (time_ns, tid) = (record.time_ns, record.thread.tid);
        match &record.event {
            DeviceEvent::Request(stage, request) => {
                let wholes = &mut self.wholes;
                self.requests.event(time_ns, record.tgid, *stage, request, &mut |whole| wholes.push(whole));
            }
            DeviceEvent::SyncEnter(sync) => {
                self.syncs.insert(tid, (time_ns, *sync));
            }
            DeviceEvent::SyncExit(sync) => {
                let (since_ns, _) = self.syncs.remove(&tid).unwrap_or((0, *sync));
                self.synced(tid, since_ns, time_ns, sync);
            }
            DeviceEvent::Commit { device, transaction, step } => {
                let begun_ns = *self.commits.entry((*device, *transaction)).or_insert(time_ns);
                if *step == CommitStep::End {
                    self.commits.remove(&(*device, *transaction));
                    self.committed(*device, begun_ns, time_ns);
                }
            }
            _ => {}
        }
    }

    /// Everything, with the pages that went dirty meanwhile.
    pub fn finish(mut self, end_ns: u64, dirtied: &[(Dirtier, Dirtied)]) -> Facts {
        for (tid, (since_ns, sync)) in std::mem::take(&mut self.syncs) {
            self.synced(tid, since_ns, u64::MAX, &sync);
        }
        for ((device, _), begun_ns) in std::mem::take(&mut self.commits) {
            self.committed(device, begun_ns, u64::MAX);
        }
        let dirtiers = Dirtiers::new(dirtied);
        let Self { names, requests, mut wholes, mut facts, .. } = self;
        requests.finish(end_ns, &mut |whole| wholes.push(whole));
        facts.requests = wholes.iter().map(|whole| request(whole, &dirtiers, names)).collect();
        facts.requests.sort_by_key(|request| request.made_ns);
        for ((tgid, device), bytes) in dirtiers.bytes() {
            if *bytes >= DIRTY_MIN_BYTES {
                let device = names.disk(&device_id(*device));
                facts.dirty.push(Dirty { device, tgid: *tgid, comm: names.process(*tgid), bytes: *bytes });
            }
        }
        facts.dirty.sort_by_key(|dirty| std::cmp::Reverse(dirty.bytes));
        facts
    }

    fn synced(&mut self, tid: u32, start_ns: u64, end_ns: u64, sync: &Sync) {
        let id = device_id(sync.device);
        let (file, device) = (self.names.file(&id, sync.inode), self.names.disk(&id));
        self.facts.syncs.push(SyncSpan { tid, start_ns, end_ns, file, device });
    }

    fn committed(&mut self, device: u32, start_ns: u64, end_ns: u64) {
        let device = self.names.disk(&device_id(device));
        self.facts.commits.push(CommitSpan { device, start_ns, end_ns });
    }
}

fn request(whole: &Whole, dirtiers: &Dirtiers, names: &mut dyn DeviceNames) -> RequestSpan {
    let (maker, charged) = (whole.origin.tgid, dirtiers.charge(whole.class, &whole.origin));
    let owner = (charged != maker).then(|| format!("{}({charged})", names.process(charged)));
    RequestSpan {
        device: names.disk(&device_id(whole.device)),
        made_ns: whole.start_ns,
        issued_ns: whole.end_ns - whole.device_ns,
        completed_ns: whole.end_ns,
        bytes: whole.bytes,
        operation: whole.class.name(),
        tid: maker,
        comm: names.process(maker),
        owner,
    }
}
