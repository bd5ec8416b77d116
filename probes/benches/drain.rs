//! How long it takes to decode, order, pair and fold recorded events, and to name and render what comes of them:
//! `cargo bench drain`, as root.
//!
//! The events are those of two threads of this program that hand a byte to each other, recorded by `forkd-probe record`
//! for [`RECORDED`]: each turn is a switch, a wake-up and two system calls of each. Without the rights to record it says
//! so and measures nothing.

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, bail};
use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use probes::aggregate::Filter;
use probes::offcpu;
use reports::offcpu::{Format, render};

const RECORDED: &str = "2s";

criterion_group!(benches, drain);
criterion_main!(benches);

fn drain(criterion: &mut Criterion) {
    reports::plot::stand_in_for_sans_serif();
    let folder = tempfile::tempdir().expect("a folder can be made");
    // Recorded when the first benchmark asks for it: a run that only wants others records nothing.
    let mut recorded: Option<anyhow::Result<Vec<u8>>> = None;
    let mut group = criterion.benchmark_group("drain");
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.bench_function("a recording of two threads that wake each other", |bencher| {
        match recorded.get_or_insert_with(|| record(folder.path())) {
            Ok(file) => bencher.iter(|| report(file).expect("the recording can be reported on")),
            Err(error) => {
                eprintln!("skipped drain: {error:#}");
                bencher.iter(|| ());
            }
        }
    });
    group.finish();
}

fn report(file: &[u8]) -> anyhow::Result<usize> {
    let report = offcpu::replay(file, false, &Filter::default())?;
    Ok(render(&report, Format::Folded)?.len())
}

fn record(folder: &Path) -> anyhow::Result<Vec<u8>> {
    let path: PathBuf = folder.join("recording");
    let threads = PingPong::start()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_forkd-probe"));
    command.args(["record", "--pid", &std::process::id().to_string(), "--duration", RECORDED, "-o"]);
    let output = command.arg(&path).stdin(Stdio::null()).output().context("running forkd-probe")?;
    drop(threads);
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    std::fs::read(&path).context("reading the recording")
}

/// Two threads that hand a byte to each other. Dropping it ends them.
struct PingPong(Arc<AtomicBool>);

impl PingPong {
    fn start() -> anyhow::Result<Self> {
        let ((here, mut there), (back, return_to)) = (pipe()?, pipe()?);
        let is_over = Arc::new(AtomicBool::new(false));
        there.write_all(b"b")?;
        for (from, to) in [(here, return_to), (back, there)] {
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || hand_on(from, to, &is_over));
        }
        Ok(Self(is_over))
    }
}

impl Drop for PingPong {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn hand_on(mut from: PipeReader, mut to: PipeWriter, is_over: &AtomicBool) {
    let mut byte = [0];
    while !is_over.load(Ordering::Relaxed) && from.read_exact(&mut byte).is_ok() {
        if to.write_all(&byte).is_err() {
            return;
        }
    }
}
