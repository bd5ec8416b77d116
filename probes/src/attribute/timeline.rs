//! What every thread and every CPU did, from records.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::comm::Comm;
use crate::decode::{Event, Peer, Record, UserSide};
use crate::gaps::Gap;
use crate::interval::{Builder, Interval, Seed};

/// A look at a running thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When, in nanoseconds of CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// The thread.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// Its name.
    pub comm: Comm,
    /// Its kernel stack, innermost first; empty where it was in user space.
    pub kernel: Arc<[u64]>,
    /// Where it was in user space, if that was recorded.
    pub user: Option<UserSide>,
}

/// A stretch of time in which one thread had a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its first nanosecond.
    pub start_ns: u64,
    /// The first nanosecond after it.
    pub end_ns: u64,
    /// The thread.
    pub tid: u32,
}

/// Everything that was seen of threads and CPUs, in the order of time.
#[derive(Debug, Default)]
pub struct Timelines {
    threads: HashMap<u32, Vec<Interval>>,
    cpus: BTreeMap<u32, Vec<Run>>,
    samples: HashMap<u32, Vec<Sample>>,
    names: HashMap<u32, (u32, Comm)>,
}

impl Timelines {
    /// From records in the order of their times, what threads did before (`seeds`), and where events were lost.
    /// Time outside of `start_ns..end_ns` is left out.
    pub fn of(
        (start_ns, end_ns): (u64, u64),
        records: &[Record],
        seeds: Vec<Seed>,
        gaps: &[Gap],
        samples: Vec<Sample>,
    ) -> Self {
        let mut timelines = Self::default();
        for seed in &seeds {
            timelines.names.insert(seed.tid, (seed.tgid, seed.comm));
        }
        timelines.take_intervals((start_ns, end_ns), records, seeds, gaps);
        let mut running = HashMap::new();
        for record in records {
            timelines.take_names(record);
            timelines.take_run(record, &mut running, start_ns);
        }
        for (cpu, (tid, since_ns)) in running {
            timelines.run(cpu, Run { start_ns: since_ns, end_ns, tid });
        }
        for sample in samples {
            timelines.names.entry(sample.tid).or_insert((sample.tgid, sample.comm));
            timelines.samples.entry(sample.tid).or_default().push(sample);
        }
        timelines.samples.values_mut().for_each(|samples| samples.sort_by_key(|sample| sample.time_ns));
        timelines
    }

    fn take_intervals(
        &mut self,
        (start_ns, end_ns): (u64, u64),
        records: &[Record],
        seeds: Vec<Seed>,
        gaps: &[Gap],
    ) {
        let mut builder = Builder::new(start_ns, seeds);
        gaps.iter().for_each(|gap| builder.lost(*gap));
        let mut keep = |interval: Interval| {
            self.threads.entry(interval.thread.tid).or_default().push(interval);
        };
        for record in records {
            builder.record(record, &mut keep);
        }
        builder.finish(end_ns, &HashMap::new(), &mut keep);
        self.threads.values_mut().for_each(|intervals| intervals.sort_by_key(|interval| interval.start_ns));
    }

    fn take_names(&mut self, record: &Record) {
        let mut peer = |peer: &Peer| {
            self.names.entry(peer.tid).or_insert((peer.tgid, peer.comm));
        };
        match &record.event {
            Event::SwitchOut { comm, .. } | Event::SwitchBack { comm, .. } => {
                self.names.insert(record.thread.tid, (record.tgid, *comm));
            }
            Event::Waking { waker, .. } => peer(waker),
            Event::Born { maker } => peer(maker),
            Event::SwitchIn => {}
        }
    }

    /// A CPU's run begins where a thread is switched in, and ends where it, or anybody, is switched out there.
    fn take_run(&mut self, record: &Record, running: &mut HashMap<u32, (u32, u64)>, start_ns: u64) {
        let (tid, time_ns) = (record.thread.tid, record.time_ns);
        match &record.event {
            Event::SwitchIn | Event::SwitchBack { .. } => {
                running.insert(record.cpu, (tid, time_ns));
            }
            Event::SwitchOut { .. } => {
                let since_ns = match running.remove(&record.cpu) {
                    Some((known, since_ns)) if known == tid => since_ns,
                    Some(_) => return,
                    // It had the CPU when recording began, if it is the CPU's first record.
                    None if !self.cpus.contains_key(&record.cpu) => start_ns,
                    None => return,
                };
                self.run(record.cpu, Run { start_ns: since_ns, end_ns: time_ns, tid });
            }
            Event::Waking { .. } | Event::Born { .. } => {}
        }
    }

    fn run(&mut self, cpu: u32, run: Run) {
        self.cpus.entry(cpu).or_default().push(run);
    }

    /// What a thread did, in the order of time; empty where nothing was seen of it.
    pub fn thread(&self, tid: u32) -> &[Interval] {
        self.threads.get(&tid).map_or(&[], Vec::as_slice)
    }

    /// Every thread that anything was seen of.
    pub fn tids(&self) -> impl Iterator<Item = u32> + '_ {
        self.threads.keys().copied()
    }

    /// Looks at a thread while it ran, inside `start_ns..end_ns`.
    pub fn samples(&self, tid: u32, start_ns: u64, end_ns: u64) -> &[Sample] {
        let all = self.samples.get(&tid).map_or(&[][..], Vec::as_slice);
        let from = all.partition_point(|sample| sample.time_ns < start_ns);
        let to = all.partition_point(|sample| sample.time_ns < end_ns);
        &all[from..to.max(from)]
    }

    /// A thread's process; `None` where nothing was seen of it.
    pub fn process(&self, tid: u32) -> Option<u32> {
        self.names.get(&tid).map(|(tgid, _)| *tgid)
    }

    /// A thread's name; empty where it has not been seen.
    pub fn comm(&self, tid: u32) -> String {
        self.names.get(&tid).map(|(_, comm)| comm.text().into_owned()).unwrap_or_default()
    }

    /// The CPU that a thread got at `time_ns`.
    pub fn cpu_got(&self, tid: u32, time_ns: u64) -> Option<u32> {
        let starts_there = |runs: &Vec<Run>| {
            let at = runs.partition_point(|run| run.start_ns < time_ns);
            runs[at..].iter().take_while(|run| run.start_ns == time_ns).any(|run| run.tid == tid)
        };
        self.cpus.iter().find(|(_, runs)| starts_there(runs)).map(|(cpu, _)| *cpu)
    }

    /// Who had a CPU inside `start_ns..end_ns`, and for how long, the longest first; the rest it was idle.
    pub fn holders(&self, cpu: u32, start_ns: u64, end_ns: u64) -> Vec<(u32, u64)> {
        let runs = self.cpus.get(&cpu).map_or(&[][..], Vec::as_slice);
        let from = runs.partition_point(|run| run.end_ns <= start_ns);
        let mut held: BTreeMap<u32, u64> = BTreeMap::new();
        for run in runs[from..].iter().take_while(|run| run.start_ns < end_ns) {
            *held.entry(run.tid).or_default() += run.end_ns.min(end_ns) - run.start_ns.max(start_ns);
        }
        let mut held: Vec<(u32, u64)> = held.into_iter().collect();
        held.sort_by_key(|(tid, ns)| (std::cmp::Reverse(*ns), *tid));
        held
    }
}
