//! `forkd-bench gate`.

use std::path::PathBuf;

use bench::cell::{Matrix, Place};
use bench::gate::{
    self, ArmRequest, Disturbance, FilesRequest, Inconclusive, MeasureRequest, Rule, Source, compare_files,
};
use bench::interrupt::Interrupt;
use bench::judge::{Plan, PlanError};
use bench::sweep::{DRAIN_LIMIT, Settings};
use bench::{Error, work};
use clap::{Args, value_parser};
use forkd::api::DataPath;

use super::programs;

/// Exit codes, for `--help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    PASS: the candidate's pause is less than 15 % longer
  1    a failure on the way: nothing was judged
  2    wrong usage, or a file that cannot be right: nothing was judged
  3    REGRESS: the candidate's pause is longer
  4    INCONCLUSIVE: neither could be shown (0 with --inconclusive=warn)
  5    INVALID: the measurement says nothing
  130  interrupted by SIGINT, SIGTERM or SIGHUP";

/// The arguments.
#[derive(Debug, Args)]
pub struct GateArgs {
    /// CSV of the side that is compared with: trial, branch_idx, pause_ms, diff_ms and diff_physical_bytes are
    /// enough. Paired by trial where both files are of one run in blocks, as the gate's own a.csv and b.csv
    #[arg(long, value_name = "CSV", requires = "candidate", help_heading = "Two files")]
    baseline: Option<PathBuf>,

    /// CSV of the side that is judged
    #[arg(long, value_name = "CSV", requires = "baseline", help_heading = "Two files")]
    candidate: Option<PathBuf>,

    #[command(flatten)]
    measured: Measured,

    /// A p value below this is a regression
    #[arg(long, default_value_t = 0.01)]
    alpha: f64,

    /// A regression too: two sweeps of the candidate whose median pause is over this many milliseconds
    #[arg(long, value_name = "MS", value_parser = positive)]
    limit_ms: Option<f64>,

    /// What becomes of INCONCLUSIVE
    #[arg(long, value_enum, default_value = "fail")]
    inconclusive: Inconclusive,

    /// Judge sides that were measured on different machines or kernels
    #[arg(long)]
    force: bool,

    /// Draws the order of the arms, the contents of pages, and outcomes where there are too many to count
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Folder for gate.json, gate.xml (JUnit), gate.md, and what was measured
    #[arg(long, value_name = "DIR", default_value = "forkd-gate")]
    out: PathBuf,
}

/// What is measured, where no files are compared. A is the baseline, B the candidate.
#[derive(Debug, Args)]
#[command(next_help_heading = "Two builds, or two ways to run one")]
struct Measured {
    /// The baseline's daemon; else the candidate's, or the one beside forkd-bench or on PATH
    #[arg(long, value_name = "FORKD", conflicts_with = "baseline")]
    a: Option<PathBuf>,

    /// The candidate's daemon; else the baseline's, or the one beside forkd-bench or on PATH
    #[arg(long, value_name = "FORKD", conflicts_with = "baseline")]
    b: Option<PathBuf>,

    /// A git revision of the repository in the current folder to build as the baseline
    #[arg(long, value_name = "REV", conflicts_with_all = ["a", "baseline"])]
    a_rev: Option<String>,

    /// A git revision of the repository in the current folder to build as the candidate
    #[arg(long, value_name = "REV", conflicts_with_all = ["b", "baseline"])]
    b_rev: Option<String>,

    /// Data path of the baseline, in place of the cell's
    #[arg(long, value_name = "DATA_PATH", conflicts_with = "baseline")]
    a_data_path: Option<DataPath>,

    /// Data path of the candidate, in place of the cell's
    #[arg(long, value_name = "DATA_PATH", conflicts_with = "baseline")]
    b_data_path: Option<DataPath>,

    /// Further arguments of the baseline's `forkd serve`, parted by spaces
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true, conflicts_with = "baseline")]
    a_args: Option<String>,

    /// Further arguments of the candidate's `forkd serve`, parted by spaces
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true, conflicts_with = "baseline")]
    b_args: Option<String>,

    /// Data path and root to measure, as DATA_PATH@ROOT; several are judged together, with Holm's correction
    #[arg(long, value_delimiter = ',', default_value = "stage@ext4-loop", conflicts_with = "baseline")]
    cell: Vec<Place>,

    /// Take exactly so many blocks, and look once; else looks at 10, 20 and 30 blocks with the error split, where a
    /// regression ends it at any, and a pass from 20 on
    #[arg(long, value_parser = value_parser!(u32).range(1..=1000), conflicts_with = "baseline")]
    blocks: Option<u32>,

    /// Consecutive BRANCHes of each sweep
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(1..=1000), conflicts_with = "baseline")]
    branches: u32,

    /// Milliseconds between dirtying the pages and the BRANCH
    #[arg(long, default_value_t = 3000, value_parser = value_parser!(u64).range(0..=3_600_000), conflicts_with = "baseline")]
    gap_ms: u64,

    /// Pages of 4 KiB that the guest dirties before each BRANCH
    #[arg(long, default_value_t = 4096, value_parser = value_parser!(u64).range(1..), conflicts_with = "baseline")]
    dirty_pages: u64,

    /// Guest memory in MiB
    #[arg(long, default_value_t = 512, value_parser = value_parser!(u32).range(16..=65536), conflicts_with = "baseline")]
    mem_mib: u32,

    /// Have each BRANCH's answer wait until its snapshot is on disk
    #[arg(long, conflicts_with = "baseline")]
    durable: bool,

    /// A short measurement: 10 blocks of 6 BRANCHes 200 ms apart, of a guest of 128 MiB that dirties 8 MiB
    #[arg(long, conflicts_with_all = ["baseline", "branches", "gap_ms", "dirty_pages", "mem_mib"])]
    quick: bool,

    /// Keep each pause of the candidate going for so many microseconds longer, to see whether the gate finds it
    #[arg(long, value_name = "US", conflicts_with_all = ["baseline", "b_slow_disk", "b_load"])]
    b_pause_delay: Option<u64>,

    /// Let the disk below the candidate's snapshots take so many MB a second (cgroup v1), to see the same
    #[arg(long, value_name = "MB_S", value_parser = value_parser!(u64).range(1..), conflicts_with_all = ["baseline", "b_load"])]
    b_slow_disk: Option<u64>,

    /// Run so many busy processes beside the candidate alone: the gate must not call that a regression
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=64), conflicts_with = "baseline")]
    b_load: Option<u32>,

    /// After a regression do not record where the candidate waits longer
    #[arg(long, conflicts_with = "baseline")]
    no_stacks: bool,

    /// The Firecracker to run; else the one on PATH
    // No conflict with files: a variable of the environment would be one too.
    #[arg(long, value_name = "PATH", env = "FORKD_FIRECRACKER")]
    firecracker: Option<PathBuf>,

    /// Folder for programs, mounts, images and sockets while it runs
    #[arg(long, value_name = "DIR", default_value = work::DEFAULT, conflicts_with = "baseline")]
    work_dir: PathBuf,
}

impl GateArgs {
    /// Compares, and gives the exit code.
    pub async fn run(self, interrupt: &mut Interrupt) -> Result<u8, Error> {
        let (alpha, limit_ms, force, seed) = (self.alpha, self.limit_ms, self.force, self.seed);
        let rule = Rule { alpha, limit_ms, force, seed };
        if let (Some(baseline), Some(candidate)) = (self.baseline, self.candidate) {
            let (inconclusive, out) = (self.inconclusive, self.out);
            return compare_files(&FilesRequest { baseline, candidate, rule, inconclusive, out });
        }
        let request = self.measured.request(rule, self.inconclusive, self.out)?;
        Ok(gate::measure(&request, interrupt).await?.exit_code())
    }
}

impl Measured {
    fn request(self, rule: Rule, inconclusive: Inconclusive, out: PathBuf) -> Result<MeasureRequest, Error> {
        if !self.says_what_differs() {
            let use_one =
                "use --baseline and --candidate, --a and --b, --a-rev and --b-rev, or --b-data-path";
            return Err(Error::Usage(format!("nothing to compare is named: {use_one}")));
        }
        let plan = self.plan(rule.alpha)?;
        let named = self.b.as_deref().or(self.a.as_deref());
        let found = programs(named, self.firecracker.as_deref())?;
        let source = |rev: &Option<String>, path: &Option<PathBuf>| match (rev, path) {
            (Some(revision), _) => Source::Revision(revision.clone()),
            (None, path) => Source::Binary(path.clone().unwrap_or_else(|| found.forkd.clone())),
        };
        let words = |text: Option<String>| {
            text.iter().flat_map(|text| text.split_whitespace()).map(str::to_owned).collect()
        };
        let disturbance = self.disturbance();
        let a = ArmRequest {
            source: source(&self.a_rev, &self.a),
            data_path: self.a_data_path,
            serve_args: words(self.a_args.clone()),
            disturbance: None,
        };
        let b = ArmRequest {
            source: source(&self.b_rev, &self.b),
            data_path: self.b_data_path,
            serve_args: words(self.b_args.clone()),
            disturbance,
        };
        Ok(MeasureRequest {
            arms: [a, b],
            firecracker: found.firecracker,
            settings: self.settings(rule.seed),
            plan,
            rule,
            inconclusive,
            stacks: !self.no_stacks,
            out,
            work_dir: self.work_dir,
        })
    }

    fn says_what_differs(&self) -> bool {
        let named = [&self.a, &self.b].iter().any(|path| path.is_some());
        let revision = self.a_rev.is_some() || self.b_rev.is_some();
        let data_path = self.a_data_path.is_some() || self.b_data_path.is_some();
        let arguments = self.a_args.is_some() || self.b_args.is_some();
        named || revision || data_path || arguments || self.disturbance().is_some()
    }

    fn disturbance(&self) -> Option<Disturbance> {
        let delay = self.b_pause_delay.map(|us| Disturbance::PauseDelay { us });
        let disk = self.b_slow_disk.map(|mb_s| Disturbance::SlowDisk { bytes_per_s: mb_s * 1_000_000 });
        delay.or(disk).or(self.b_load.map(|processes| Disturbance::Load { processes }))
    }

    fn plan(&self, alpha: f64) -> Result<Plan, Error> {
        let cells = self.settings(0).cells.len();
        let plan = match (self.blocks, self.quick) {
            (Some(blocks), _) => Plan::once(alpha, blocks as usize, cells),
            (None, true) => Plan::once(alpha, gate::QUICK_BLOCKS, cells),
            (None, false) => Plan::new(alpha, vec![10, 20, 30], 20, cells),
        };
        plan.map_err(|error| match error {
            PlanError::TooFew(few) => Error::Usage(format!("{few} (--blocks {})", few.least)),
            error => Error::Usage(error.to_string()),
        })
    }

    fn settings(&self, seed: u64) -> Settings {
        let matrix = Matrix {
            mem_mib: vec![self.mem_mib],
            dirty_pages: vec![self.dirty_pages],
            gap_ms: vec![self.gap_ms],
            ..Matrix::of(self.cell.clone())
        };
        let settings = Settings {
            cells: matrix.cells(),
            trials: 0,
            branches: self.branches,
            durable: self.durable,
            seed,
            drain_limit: DRAIN_LIMIT,
            disk_note: None,
        };
        if self.quick { gate::quick(settings) } else { settings }
    }
}

fn positive(text: &str) -> Result<f64, String> {
    let limit: Option<f64> = text.parse().ok().filter(|limit: &f64| limit.is_finite() && *limit > 0.0);
    limit.ok_or_else(|| "use a number of milliseconds above 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::Cli;
    use clap::Parser;

    #[test]
    fn files_and_builds_are_not_mixed() {
        let parses = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
        assert!(parses("forkd-bench gate --baseline a.csv --candidate b.csv"));
        assert!(!parses("forkd-bench gate --baseline a.csv"));
        assert!(!parses("forkd-bench gate --baseline a.csv --candidate b.csv --a forkd"));
        assert!(parses("forkd-bench gate --a-rev main --b-rev HEAD --quick"));
        assert!(!parses("forkd-bench gate --quick --branches 3"));
        assert!(!parses("forkd-bench gate --baseline a.csv --candidate b.csv --limit-ms 0"));
        for measuring in [
            "--quick",
            "--blocks 10",
            "--branches 3",
            "--gap-ms 1",
            "--dirty-pages 1",
            "--mem-mib 64",
            "--durable",
            "--cell naive@tmpfs",
            "--b-load 1",
            "--b-slow-disk 1",
            "--b-pause-delay 1",
            "--no-stacks",
            "--work-dir x",
        ] {
            let line = format!("forkd-bench gate --baseline a.csv --candidate b.csv {measuring}");
            assert!(!parses(&line), "{measuring} has no meaning there");
        }
    }
}
