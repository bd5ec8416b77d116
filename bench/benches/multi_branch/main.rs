//! The pause of real BRANCHes, as criterion shows it: `cargo bench multi_branch`, with `-- --quick` a shorter run.
//!
//! A sweep runs first, and criterion is then handed the pauses that it recorded, one a sample: how often criterion
//! runs something is its own affair, and a BRANCH has an index that must be kept. There is a benchmark for each data
//! path and for each group of BRANCH indices: 1 and 2 come before the writeback of earlier BRANCHes is felt.
//!
//! Writes `multi_branch.csv` and `multi_branch.png` to `target/reports/`, beside criterion's own reports in
//! `target/criterion/`. A run that measured no BRANCH fails.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bench::cell::{FileSystem, Matrix, Place, Root};
use bench::interrupt::Interrupt;
use bench::sweep::{self, Request, SAMPLES, Settings, Target};
use criterion::{BenchmarkId, Criterion, SamplingMode};
use forkd::api::DataPath;
use reports::sweep::{Sweep, read};

mod arguments;
mod measurement;
mod programs;

use arguments::{Arguments, Doing};
use measurement::Pause;

/// Begin of the ids of all benchmarks here: an argument of `cargo bench` chooses ids, not programs.
const GROUP: &str = "multi_branch";
/// The last BRANCH index of the first group.
const EARLY: u32 = 2;

fn main() -> ExitCode {
    let done = Arguments::of_this_process().and_then(|arguments| match arguments.doing {
        Doing::Measure => measure(&arguments),
        // As a test (`cargo test --benches`), for a list, or for other benchmarks: no microVM is started.
        Doing::List => list(&arguments),
        Doing::Nothing => Ok(()),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{GROUP}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<()> {
    let places = arguments.wanted(&places(arguments.quick));
    if places.is_empty() {
        // A word that names none of these may name another program's; one that names this program is a mistake.
        ensure!(!arguments.names_this(), "no benchmark's id contains the filter: --list names them all");
        return Ok(());
    }
    let reports = programs::target_dir()?.join("reports");
    let out = reports.join(GROUP);
    let sweep = take(arguments, places, &out)?;
    ensure!(!sweep.samples.is_empty(), "no BRANCH was measured");
    for (made, kept) in [(SAMPLES, "multi_branch.csv"), ("sweep.png", "multi_branch.png")] {
        let kept = reports.join(kept);
        fs::copy(out.join(made), &kept).with_context(|| format!("cannot write {}", kept.display()))?;
        println!("{}", kept.display());
    }
    reports::plot::stand_in_for_sans_serif();
    let mut criterion = arguments.criterion();
    let mut group = criterion.benchmark_group(GROUP);
    for ((cell, indices), pauses_ns) in &groups(&sweep) {
        group.sampling_mode(SamplingMode::Flat).sample_size(pauses_ns.len());
        let mut replayed = pauses_ns.iter().cycle().copied();
        group.bench_function(BenchmarkId::new(cell, indices), |bencher| {
            // One recorded pause a sample, whatever number of iterations criterion counts in it.
            bencher.iter_custom(|iterations| replayed.next().unwrap_or(0.0) * iterations as f64);
        });
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}

/// The ids, without a measurement.
fn list(arguments: &Arguments) -> Result<()> {
    let mut criterion: Criterion<Pause> = arguments.criterion();
    let mut group = criterion.benchmark_group(GROUP);
    for place in places(arguments.quick) {
        for indices in [indices(1), indices(EARLY + 1)] {
            group.bench_function(BenchmarkId::new(place.to_string(), indices), |bencher| {
                bencher.iter_custom(|_| 0.0)
            });
        }
    }
    group.finish();
    Ok(())
}

/// What is measured: every data path on a disk, and one without a disk as control; in a quick run the fewest that
/// show a difference.
fn places(quick: bool) -> Vec<Place> {
    let disk = Root::Loop(FileSystem::Ext4);
    let quick_paths = [DataPath::Naive, DataPath::Fallocate, DataPath::Stage];
    match quick {
        true => Place::matrix(&quick_paths, &[disk]),
        false => {
            let control = Place { data_path: DataPath::Naive, root: Root::Tmpfs };
            Place::matrix(&DataPath::ALL, &[disk]).into_iter().chain([control]).collect()
        }
    }
}

/// Five trials give ten pauses of BRANCHes 1 and 2: the least that criterion takes.
fn settings(quick: bool, places: Vec<Place>) -> Settings {
    let matrix = match quick {
        true => {
            Matrix { mem_mib: vec![256], dirty_pages: vec![2048], gap_ms: vec![200], ..Matrix::of(places) }
        }
        false => Matrix { gap_ms: vec![500], ..Matrix::of(places) },
    };
    Settings {
        cells: matrix.cells(),
        trials: 5,
        branches: if quick { 6 } else { 8 },
        durable: false,
        seed: 0,
        drain_limit: Duration::from_secs(if quick { 2 } else { 5 }),
        disk_note: None,
    }
}

/// Runs the sweep, and gives what it recorded. The main thread waits for it: the kernel ends a daemon with the
/// thread that started it.
fn take(arguments: &Arguments, places: Vec<Place>, out: &Path) -> Result<Sweep> {
    if out.exists() {
        fs::remove_dir_all(out)
            .with_context(|| format!("cannot remove the last run in {}", out.display()))?;
    }
    let request = Request {
        settings: settings(arguments.quick, places),
        target: Target::Own(programs::find()?),
        out: out.to_owned(),
        work_dir: PathBuf::from(bench::work::DEFAULT),
        offcpu_slowest: false,
        earlier: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = Interrupt::listen()?;
        Ok::<_, anyhow::Error>(sweep::run(&request, &mut interrupt).await?)
    })?;
    runtime.shutdown_background();
    let path = out.join(SAMPLES);
    let file = fs::File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(read(&path.display().to_string(), file)?)
}

/// Pauses in nanoseconds, by cell and group of BRANCH indices.
fn groups(sweep: &Sweep) -> BTreeMap<(String, &'static str), Vec<f64>> {
    let mut groups = BTreeMap::<_, Vec<f64>>::new();
    for sample in &sweep.samples {
        let group = (sample.cell.clone(), indices(sample.branch_idx));
        groups.entry(group).or_default().push(sample.pause_ms * 1e6);
    }
    groups
}

/// The group of a BRANCH index.
fn indices(branch_idx: u32) -> &'static str {
    if branch_idx <= EARLY { "branch 1-2" } else { "branch 3 on" }
}
