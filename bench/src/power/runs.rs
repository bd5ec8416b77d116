//! The runs of the whole tool that a proof consists of.

use std::path::Path;

use forkd::api::DataPath;

use crate::cell::{FileSystem, Place, Root};
use crate::gate::{ArmRequest, Disturbance, Source};

/// Begin of the names of runs of a build against itself.
pub const NULL: &str = "same-";
/// Shares by which a run's pauses are made longer, in percent.
const PERCENTS: [u32; 3] = [10, 20, 50];
/// The disk that a slower one is compared with, in bytes a second.
const DISK_BYTES_PER_S: u64 = 60_000_000;
/// Busy processes beside the candidate alone: two for each of two processors.
const LOAD_PROCESSES: u32 = 4;

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// What is compared, in a few words.
    pub says: String,
    /// What is measured.
    pub place: Place,
    /// Added to the proof's seed.
    pub seed: u64,
    candidate_path: Option<DataPath>,
    disturbances: [Option<Disturbance>; 2],
}

impl Planned {
    /// Both arms, of one daemon.
    pub fn arms(&self, forkd: &Path) -> [ArmRequest; 2] {
        let arm = |data_path, disturbance: &Option<Disturbance>| ArmRequest {
            source: Source::Binary(forkd.to_owned()),
            data_path,
            serve_args: Vec::new(),
            disturbance: disturbance.clone(),
        };
        [arm(None, &self.disturbances[0]), arm(self.candidate_path, &self.disturbances[1])]
    }
}

/// Names of all runs, in the order in which they are measured.
pub fn names(null_runs: u32) -> impl Iterator<Item = String> {
    let same = (1..=null_runs).map(|number| format!("{NULL}{number}"));
    let others = ["stage-naive", "naive-fallocate", "load"].map(str::to_owned);
    let delays = PERCENTS.map(|percent| format!("delay-{percent}"));
    let disks = PERCENTS.map(|percent| format!("disk-{percent}"));
    same.chain(others).chain(delays).chain(disks)
}

/// The run called `name`. Delays are shares of `median_ms`, the pause where nothing was changed; `None` where that is
/// not known yet, and where no run is called so.
pub fn planned(name: &str, median_ms: Option<f64>) -> Option<Planned> {
    let stage = Planned {
        says: "a build against itself".to_owned(),
        place: Place { data_path: DataPath::Stage, root: Root::Loop(FileSystem::Ext4) },
        seed: name.bytes().fold(0, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte))),
        candidate_path: None,
        disturbances: [None, None],
    };
    let place = Place { data_path: DataPath::Naive, ..stage.place.clone() };
    let naive = Planned { place, ..stage.clone() };
    let (kind, rest) = name.rsplit_once('-').unwrap_or((name, ""));
    let percent = || rest.parse::<u32>().ok();
    Some(match (kind, rest) {
        ("same", _) => stage,
        ("stage", "naive") => Planned {
            says: "stage against naive: the fix taken out".to_owned(),
            candidate_path: Some(DataPath::Naive),
            ..stage
        },
        ("naive", "fallocate") => Planned {
            says: "naive against fallocate".to_owned(),
            candidate_path: Some(DataPath::Fallocate),
            ..naive
        },
        ("load", _) => Planned {
            says: format!("{LOAD_PROCESSES} busy processes beside the candidate alone"),
            disturbances: [None, Some(Disturbance::Load { processes: LOAD_PROCESSES })],
            ..stage
        },
        ("delay", _) => {
            let us = (median_ms? * 1000.0 * f64::from(percent()?) / 100.0).round() as u64;
            Planned {
                says: format!("each pause of the candidate {us} us longer, which is {} %", percent()?),
                disturbances: [None, Some(Disturbance::PauseDelay { us })],
                ..stage
            }
        }
        ("disk", _) => {
            let slower = DISK_BYTES_PER_S * 100 / (100 + u64::from(percent()?));
            let disk = |bytes_per_s| Some(Disturbance::SlowDisk { bytes_per_s });
            Planned {
                says: format!(
                    "naive on disks of {} and {} MB/s",
                    DISK_BYTES_PER_S / 1_000_000,
                    slower / 1_000_000
                ),
                disturbances: [disk(DISK_BYTES_PER_S), disk(slower)],
                ..naive
            }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{names, planned};

    #[test]
    fn every_name_is_a_run_and_no_two_have_one_seed() {
        let runs: Vec<_> = names(6).map(|name| planned(&name, Some(4.0)).expect("a run")).collect();
        assert_eq!(runs.len(), 15);
        let mut seeds: Vec<u64> = runs.iter().map(|run| run.seed).collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), runs.len());
        assert_eq!(planned("nonsense", Some(4.0)), None);
        assert_eq!(planned("delay-20", None), None, "a share of what?");
        assert_eq!(
            planned("delay-20", Some(4.0)).unwrap().says,
            "each pause of the candidate 800 us longer, which is 20 %"
        );
    }
}
