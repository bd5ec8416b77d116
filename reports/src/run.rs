//! What a run of a benchmark was: its machine, its arguments and a summary of what it measured.

use serde::{Deserialize, Serialize};

use crate::stats::Spread;

/// The `schema` of [`Run`]: the number grows with every change that a reader could trip over.
pub const SCHEMA: &str = "forkd.run/2";

/// One run: everything that is needed to judge whether two runs may be compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`SCHEMA`].
    pub schema: String,
    /// A UUID, the same in each row of its samples.
    pub run_id: String,
    /// The command line, program first.
    pub arguments: Vec<String>,
    /// What was asked for, with defaults filled in.
    pub plan: Plan,
    /// Begin, in milliseconds since the Unix epoch.
    pub started_unix_ms: u64,
    /// End, in milliseconds since the Unix epoch.
    pub ended_unix_ms: u64,
    /// Whether the run is under way, or was ended by a signal before all samples were taken.
    pub interrupted: bool,
    /// Why the run ended early, where a failure ended it.
    pub error: Option<String>,
    /// Where it ran.
    pub machine: Machine,
    /// What it ran.
    pub versions: Versions,
    /// What the snapshot roots lay on, in the order of the cells that used them first.
    pub roots: Vec<Root>,
    /// What was measured, by cell.
    pub cells: Vec<Cell>,
    /// What did not go as asked, one sentence each.
    pub warnings: Vec<String>,
    /// Times at which the run was gone on with after an interruption, in milliseconds since the Unix epoch.
    pub resumed_unix_ms: Vec<u64>,
    /// Where the run's time went; absent where it took no BRANCH.
    pub spent: Option<Spent>,
}

/// The settings of a run: enough to go on with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Names of the cells, in the order in which they were asked for.
    pub cells: Vec<String>,
    /// The conditions of each cell, in the same order.
    pub matrix: Vec<PlannedCell>,
    /// Repetitions of every cell.
    pub trials: u32,
    /// Consecutive BRANCHes of each trial.
    pub branches: u32,
    /// Whether each BRANCH's answer waited until its snapshot was on disk.
    pub durable: bool,
    /// What draws the order of the cells in each trial and, with the BRANCH index, the contents of the dirtied pages.
    pub seed: u64,
    /// How long a trial waited for idle disks before it began all the same.
    pub drain_limit_ms: u64,
    /// What the user says of the disk below, where this host cannot see it.
    pub disk_note: Option<String>,
}

impl Plan {
    /// The guest, its load and when it was answered, for a caption; `256 or 512` where cells differ.
    pub fn words(&self) -> String {
        let answered = if self.durable { "when it is on disk" } else { "before it is on disk" };
        format!(
            "{} MiB guest, {} MiB dirtied {} s before each BRANCH, answered {answered}",
            self.every(|cell| cell.mem_mib.to_string()),
            self.every(|cell| tenths(cell.dirty_pages as f64 * 4096.0 / f64::from(1 << 20))),
            self.every(|cell| tenths(cell.gap_ms as f64 / 1000.0)),
        )
    }

    fn every(&self, figure: impl Fn(&PlannedCell) -> String) -> String {
        let mut figures: Vec<String> = Vec::new();
        for figure in self.matrix.iter().map(figure) {
            if !figures.contains(&figure) {
                figures.push(figure);
            }
        }
        figures.join(" or ")
    }
}

/// At most one decimal, none for a whole number.
fn tenths(value: f64) -> String {
    format!("{value:.1}").trim_end_matches(".0").to_owned()
}

/// The conditions of one cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedCell {
    /// Its name.
    pub cell: String,
    /// How the BRANCH's bytes get to disk.
    pub data_path: String,
    /// What the snapshots lie on, as the command line has it.
    pub root: String,
    /// What is asked of Firecracker: `diff` or `full`.
    pub mode: String,
    /// Guest memory in MiB.
    pub mem_mib: u32,
    /// Pages (4 KiB) that the guest dirties before each BRANCH.
    pub dirty_pages: u64,
    /// Time between dirtying the pages and the BRANCH.
    pub gap_ms: u64,
    /// What else uses the file system meanwhile.
    pub neighbour: String,
    /// What the disk below is throttled to, in bytes a second each way.
    pub disk_bps: Option<u64>,
}

/// Where the time of a run went. The rest of `wall_ns` is overhead: file systems, daemons, guests, idle disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// From the first trial's begin to the last one's end.
    pub wall_ns: u64,
    /// From asking for a BRANCH to its answer, all of them.
    pub branches_ns: u64,
    /// Between dirtying the pages and the BRANCH, all of them.
    pub gaps_ns: u64,
    /// Waiting until the host had written its dirty memory; a part of the overhead.
    pub drain_ns: u64,
}

impl Spent {
    /// What went neither into BRANCHes nor into their gaps, as a share of the whole in percent.
    pub fn overhead_pct(&self) -> f64 {
        let used_ns = self.branches_ns.saturating_add(self.gaps_ns);
        let outside_ns = self.wall_ns.saturating_sub(used_ns);
        if self.wall_ns == 0 { 0.0 } else { outside_ns as f64 * 100.0 / self.wall_ns as f64 }
    }
}

/// The host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Kernel release, as `uname -r` prints it.
    pub kernel: String,
    /// Processor model.
    pub cpu_model: String,
    /// Processors online.
    pub cpus: u32,
    /// Memory in MiB.
    pub mem_mib: u64,
    /// Which boot of it: two runs of one boot had the same kernel, settings and neighbours at hand.
    pub boot_id: Option<String>,
    /// How the kernel sets the processors' speed (`scaling_governor`); absent where it does not.
    pub cpu_governor: Option<String>,
    /// Whether anonymous memory gets huge pages: the chosen word of `transparent_hugepage/enabled`.
    pub transparent_hugepage: Option<String>,
    /// What emulated machine it was; absent where it was none of the lab's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lab: Option<Lab>,
}

impl Machine {
    /// `6.1.0` of `6.1.0-28-cloud-amd64`: a picture has no room for more, and `run.json` has all of it.
    pub fn short_kernel(&self) -> &str {
        self.kernel.split(['-', '+']).next().unwrap_or(&self.kernel)
    }
}

/// A machine of the lab: emulated in software, and slow but for its disk, whose speed is exact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lab {
    /// Its kernel, by its name in the lab.
    pub kernel: String,
    /// Bytes a second that its data disk takes in writing; absent where it was not limited.
    pub disk_bps: Option<u64>,
    /// Requests a second that its data disk takes; absent where it was not limited.
    pub disk_iops: Option<u64>,
}

impl Lab {
    /// `lab, disk of 50 MB/s and 200 requests/s`.
    pub fn words(&self) -> String {
        let bps = self.disk_bps.map(|bps| format!("{} MB/s", bps as f64 / 1e6));
        let iops = self.disk_iops.map(|iops| format!("{iops} requests/s"));
        let limits: Vec<String> = bps.into_iter().chain(iops).collect();
        if limits.is_empty() { "lab".to_owned() } else { format!("lab, disk of {}", limits.join(" and ")) }
    }
}

/// Programs that took part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Versions {
    /// This suite.
    pub bench: String,
    /// The daemon, as it names itself.
    pub forkd: Option<String>,
    /// Firecracker, as it names itself.
    pub firecracker: Option<String>,
}

/// A file system that held snapshots.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Root {
    /// The name in the cells.
    pub root: String,
    /// File system type.
    pub file_system: String,
    /// Mount and file system options.
    pub mount_options: String,
    /// The block device below it, where there is one.
    pub device: Option<Device>,
    /// The block device that holds the image, where `device` is a loop device.
    pub backing_device: Option<Device>,
}

/// A block device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Kernel name, such as `vda`.
    pub name: String,
    /// Latency that writeback throttling aims at; 0 is off, absent where the kernel has none for it.
    pub wbt_lat_usec: Option<u64>,
}

/// What was measured in one cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Its name.
    pub cell: String,
    /// Samples taken.
    pub samples: u64,
    /// Over all trials and BRANCHes.
    pub pause_ms: Spread,
    /// By trial, by BRANCH index.
    pub pauses_ms: Vec<Vec<f64>>,
}

#[cfg(test)]
mod tests {
    use super::{Lab, Run, Spent};

    #[test]
    fn a_plan_in_words_has_every_figure_once_and_a_kernel_its_number_alone() {
        let mut run: Run = serde_json::from_str(include_str!("../tests/golden/run.json")).unwrap();
        let mut small = run.plan.matrix[0].clone();
        (small.mem_mib, small.dirty_pages, small.gap_ms) = (256, 128, 1500);
        let mut large = small.clone();
        large.mem_mib = 512;
        run.plan.matrix = vec![small, large];
        run.plan.durable = true;
        run.machine.kernel = "6.1.0-28-cloud-amd64".to_owned();
        assert_eq!(
            run.plan.words(),
            "256 or 512 MiB guest, 0.5 MiB dirtied 1.5 s before each BRANCH, answered when it is on disk"
        );
        assert_eq!(run.machine.short_kernel(), "6.1.0");
    }

    #[test]
    fn the_overhead_is_what_neither_branches_nor_gaps_took() {
        let spent = Spent { wall_ns: 1_000, branches_ns: 150, gaps_ns: 650, drain_ns: 100 };
        assert!((spent.overhead_pct() - 20.0).abs() < 1e-9);
        assert!(Spent::default().overhead_pct().abs() < 1e-9);
    }

    #[test]
    fn a_lab_is_told_with_the_limits_of_its_disk() {
        let words = |disk_bps, disk_iops| Lab { kernel: "6.12".to_owned(), disk_bps, disk_iops }.words();
        assert_eq!(words(None, None), "lab");
        assert_eq!(words(Some(50_000_000), None), "lab, disk of 50 MB/s");
        assert_eq!(words(Some(2_500_000), Some(200)), "lab, disk of 2.5 MB/s and 200 requests/s");
    }
}
