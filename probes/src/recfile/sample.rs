//! Files for [`crate::fuzzing`].

use std::io;

use probes_common::{CpuCounters, Dirtied, Dirtier, LANES, Loss, Throttle, ThrottledSince, ThrottledThread};
use reports::futex::Home;

use super::container::Writer;
use super::contents::{RecordedCalls, RecordedDevices};
use super::entry;
use super::facts::{ClosingFacts, Fact, Host, MapsFact, Module, OpeningFacts, ThrottleFact, UserName};
use crate::device::{Disk, Disks};
use crate::images::Place;
use crate::pipeline::{MapsAtEnd, Pass};
use crate::unwind::UserFrames;

impl OpeningFacts {
    /// Of a recording of everything that begins with nothing.
    pub fn empty(calls: RecordedCalls, start_ns: u64, cpus: u32) -> Self {
        Self {
            written_by: "a test".to_owned(),
            host: Host { tick_ns: 4_000_000, ..Host::default() },
            processes: Vec::new(),
            attach: "none".to_owned(),
            hooks: vec!["fexit/wbt_wait".to_owned()],
            refused: Vec::new(),
            switches: true,
            calls,
            devices: RecordedDevices::All,
            throttles: vec![ThrottleFact::from(&(Throttle::Wbt, 1..99))],
            loss_causes: Loss::ALL.iter().map(|cause| cause.name().to_owned()).collect(),
            warnings: Vec::new(),
            armed_ns: start_ns,
            start_ns,
            cpus,
            seeds: Vec::new(),
            seed_calls: Vec::new(),
        }
    }
}

/// A file with these facts, and a block of whatever `entries` is.
///
/// # Errors
/// Where the facts have no JSON.
pub fn sealed(facts: &OpeningFacts, entries: &[u8]) -> io::Result<Vec<u8>> {
    let mut file = Vec::new();
    let mut writer = Writer::new(&mut file)?;
    let mut opening = Vec::new();
    entry::put_fact(&mut opening, &Fact::Opening(Box::new(facts.clone())))?;
    writer.block(&opening)?;
    writer.block(entries)?;
    Ok(file)
}

/// Entries of every kind around these records.
pub fn sample_entries(records: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let path = "/opt/program".to_owned();
    let added = vec![Module { start: 0x1000, end: 0x3000, file_offset: 0, path, build_id: None }];
    let place = Place { mapping: Some(0), address: 0x1010 };
    let name = UserName { pid: 7, mapping: Some(0), address: 0x1010, is_return: false, name: "f".to_owned() };
    let facts = [
        Fact::Modules { pid: 7, added, current: vec![0] },
        Fact::Names { kernel: vec![(9, "schedule".to_owned())], user: vec![name], devices: vec![(24, None)] },
        Fact::Homes(vec![(7, 0x2000, Home::Heap)]),
        Fact::Disks(disks()),
    ];
    for fact in &facts {
        let _ = entry::put_fact(&mut bytes, fact);
    }
    entry::put_stack(&mut bytes, 7, 1, &UserFrames { places: vec![place], truncated: true });
    let counters = vec![CpuCounters::default(); 2 * LANES as usize];
    for (index, record) in records.iter().enumerate() {
        entry::put_record(&mut bytes, record);
        let begun_ns = 2_000 + 100 * index as u64;
        entry::put_pass(&mut bytes, &Pass { begun_ns, ended_ns: begun_ns + 10, counters: counters.clone() });
    }
    // As many as can be counted.
    let most = CpuCounters { attempted: u64::MAX, lost: [u64::MAX; Loss::ALL.len()] };
    let counters = vec![most; 2 * LANES as usize];
    entry::put_pass(&mut bytes, &Pass { begun_ns: 9_000, ended_ns: 9_010, counters });
    let closing = ClosingFacts { end_ns: 10_000, maps: MapsFact::from(&maps()), ..ClosingFacts::default() };
    let _ = entry::put_fact(&mut bytes, &Fact::Closing(closing));
    bytes
}

fn disks() -> Disks {
    let disk = Disk {
        name: "loop0".to_owned(),
        backing_file: Some("/var/image".to_owned()),
        backing_device: Some("8:1".to_owned()),
        wbt_target_us: Some(u64::MAX),
    };
    Disks::from_iter([("7:0".to_owned(), disk)])
}

/// As many pages as can be counted, and a thread that is held back.
fn maps() -> MapsAtEnd {
    let dirtied = [3, 4].map(|inode| {
        let dirtier = Dirtier { inode, device: 1, tgid: 7 };
        (dirtier, Dirtied { pages: u64::MAX, comm: [b'w'; _] })
    });
    let held_back = ThrottledThread { tid: 8, throttle: Throttle::Wbt as u32 };
    let since = ThrottledSince { entered_ns: 1_500, device: 7 << 20, reserved: 0 };
    MapsAtEnd { dirtied: dirtied.to_vec(), throttled: vec![(held_back, since)] }
}
