//! How long it takes until children run: `cargo bench spawn`, as root with `/dev/kvm` and a Firecracker.
//!
//! A daemon of its own on tmpfs, so that no disk is in it; each child is forked from one snapshot whose image is there,
//! and ended outside the measured time.

use std::env;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use bench::cell::Root;
use bench::site::{Ground, Site, bytes_needed};
use bench::work::{DEFAULT, Work};
use criterion::{BenchmarkId, Criterion};
use tokio::runtime::Runtime;

#[path = "multi_branch/programs.rs"]
mod programs;

const MEM_MIB: u32 = 128;
const CHILDREN: [u32; 2] = [1, 10];
const GROUP: &str = "spawn";

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let has = |name: &str| words.iter().any(|word| word == name);
    let filter = words.iter().find(|word| !word.starts_with('-'));
    // As a test, for a list, or for other benchmarks nothing is started.
    if !has("--bench")
        || has("--test")
        || has("--list")
        || filter.is_some_and(|filter| !filter.starts_with(GROUP))
    {
        return ExitCode::SUCCESS;
    }
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{GROUP}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<()> {
    let programs = programs::find()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (work, _) = Work::take(DEFAULT.as_ref())?;
    let ground = Ground::of(Root::Tmpfs, bytes_needed(1, MEM_MIB, 0));
    let site = runtime.block_on(Site::build(&work, &programs, &ground))?;
    runtime.block_on(site.api.create_snapshot("base", MEM_MIB))?;
    reports::plot::stand_in_for_sans_serif();
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group(GROUP);
    group.sample_size(10);
    for children in CHILDREN {
        group.bench_function(BenchmarkId::new("children", children), |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| fork(&runtime, &site, children)).sum());
        });
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}

/// From the request to the answer, which comes when all of them run.
fn fork(runtime: &Runtime, site: &Site, children: u32) -> Duration {
    let begun = Instant::now();
    let forked = runtime.block_on(site.api.fork_many("base", children)).expect("the children run");
    let took = begun.elapsed();
    for child in forked {
        runtime.block_on(site.api.delete_sandbox(&child.id)).expect("the child ends");
    }
    took
}
