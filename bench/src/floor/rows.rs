//! What is measured of one BRANCH, and its CSV.

use std::fmt;

use crate::Error;

/// Who took a BRANCH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    /// The bare client.
    Floor,
    /// The daemon, by this data path.
    Daemon(forkd::api::DataPath),
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Floor => "floor",
            Self::Daemon(data_path) => data_path.name(),
        })
    }
}

/// Which pages the guest dirties before each BRANCH.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Set {
    /// The same each time.
    Repeated,
    /// A stretch at a place drawn anew each time.
    Moving,
}

impl Set {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Repeated, Self::Moving];
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Repeated => "repeated",
            Self::Moving => "moving",
        })
    }
}

/// Lengths of the phases in which the guest stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhasesNs {
    /// Until Firecracker has answered the request to pause.
    pub pause: u64,
    /// Until the snapshot is written.
    pub create: u64,
    /// Until Firecracker has answered the request to resume.
    pub resume: u64,
}

impl PhasesNs {
    /// All of it.
    pub fn total(self) -> u64 {
        self.pause + self.create + self.resume
    }
}

/// One BRANCH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Who took it.
    pub arm: Arm,
    /// What the guest had dirtied.
    pub set: Set,
    /// Which of its arm and set it was, from 1.
    pub index: u32,
    /// How long the guest stood still.
    pub phases: PhasesNs,
    /// Bytes of guest memory that Firecracker wrote.
    pub dirty_bytes: u64,
    /// Bytes that reached the block device from before the BRANCH to the sync after it; `None` where writeback
    /// of earlier BRANCHes was under way, and nothing can be told apart.
    pub disk_bytes: Option<u64>,
}

impl Row {
    /// The pause in milliseconds.
    pub fn pause_ms(&self) -> f64 {
        self.phases.total() as f64 / 1e6
    }
}

const COLUMNS: [&str; 9] = [
    "arm",
    "set",
    "index",
    "pause_ns",
    "phase_pause_ns",
    "phase_create_ns",
    "phase_resume_ns",
    "dirty_bytes",
    "disk_bytes",
];

/// The CSV of `rows`, in the order in which they were taken, header first.
pub fn to_csv(rows: &[Row]) -> Result<Vec<u8>, Error> {
    let failed = |error: String| Error::Render { file: "floor.csv".to_owned(), reason: error };
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(COLUMNS).map_err(|error| failed(error.to_string()))?;
    for row in rows {
        let PhasesNs { pause, create, resume } = row.phases;
        let fields: [String; COLUMNS.len()] = [
            row.arm.to_string(),
            row.set.to_string(),
            row.index.to_string(),
            row.phases.total().to_string(),
            pause.to_string(),
            create.to_string(),
            resume.to_string(),
            row.dirty_bytes.to_string(),
            row.disk_bytes.map(|bytes| bytes.to_string()).unwrap_or_default(),
        ];
        writer.write_record(fields).map_err(|error| failed(error.to_string()))?;
    }
    writer.into_inner().map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::{Arm, PhasesNs, Row, Set, to_csv};

    #[test]
    fn a_row_has_its_pause_and_the_phases_that_sum_to_it() {
        let phases = PhasesNs { pause: 1, create: 20, resume: 300 };
        let row =
            |arm, disk_bytes| Row { arm, set: Set::Moving, index: 2, phases, dirty_bytes: 4096, disk_bytes };
        let rows = [row(Arm::Floor, Some(0)), row(Arm::Daemon(forkd::api::DataPath::Naive), None)];
        assert_eq!(
            String::from_utf8(to_csv(&rows).unwrap()).unwrap(),
            "arm,set,index,pause_ns,phase_pause_ns,phase_create_ns,phase_resume_ns,dirty_bytes,disk_bytes\n\
             floor,moving,2,321,1,20,300,4096,0\n\
             naive,moving,2,321,1,20,300,4096,\n"
        );
    }
}
