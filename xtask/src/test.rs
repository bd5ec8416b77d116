//! `cargo xtask test`: every check of this repository, each as one step with its time.

pub mod binaries;
pub mod output;
pub mod record;
pub mod required;
pub mod steps;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::setup::{self, Purpose};
use crate::{ebpf, host, lab, process, workspace};
use binaries::{Environment, TestBinary};
use record::Record;
use steps::Steps;

/// Run every check: format, lints, the eBPF object against its sources, all tests, and those of the lab's quick matrix.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only tests with TEXT in their name, and nothing else: no format, lint or eBPF check.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
}

/// The name under which the comparison of the eBPF objects is recorded.
const SAME_BYTES: &str = "xtask::ebpf::same_bytes";

/// The command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let filter = arguments.filter.as_deref();
    let mut steps = Steps::default();
    steps.run("setup", set_up);
    let mut record = Record::default();
    let mut bpf_object = None;
    if filter.is_none() {
        steps.run("rustfmt", check_format);
        steps.run("clippy", check_lints);
        bpf_object = steps.run("eBPF object", || check_object(&mut record)).flatten();
    }
    let environment = Environment { firecracker: setup::firecracker().ok(), bpf_object };
    let binaries = steps.run("build tests", binaries::build).unwrap_or_default();
    for binary in &binaries {
        steps.run(&binary.name, || binary.run(&environment, filter, &mut record));
    }
    steps.run("doc tests", || binaries::run_doc_tests(&environment, filter, &mut record));
    run_in_lab(&binaries, &environment, filter, &mut steps, &mut record);
    steps.run("required tests", || check_required(filter, &mut record));

    println!("\n{}", steps.table());
    print!("{}", record.listing());
    if let Some(table) = lab::table_of(&record) {
        println!("\n{table}");
    }
    let failed = record.failed.len() + steps.failed_checks();
    if record.passed.is_empty() && failed == 0 {
        bail!("no test ran: does {} match any?", filter.unwrap_or("the workspace"));
    }
    // Read by continuous integration: alone on the last line, in this form.
    println!("{} passed, {failed} failed, {} skipped", record.passed.len(), record.skipped.len());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn set_up() -> Result<()> {
    match setup::ensure(Purpose::Test) {
        // Without root or KVM the tests that need the missing pieces are skipped by name.
        Err(error) if !host::runs_microvms() => {
            println!("not everything is set up: {error:#}");
            Ok(())
        }
        outcome => outcome,
    }
}

fn check_format() -> Result<()> {
    setup::require_rustfmt_and_clippy()?;
    process::run(workspace::cargo().args(["fmt", "--all", "--check"]))?;
    for manifest in ["fuzz/Cargo.toml", "probes-ebpf/Cargo.toml"] {
        process::run(workspace::cargo().args(["fmt", "--manifest-path", manifest, "--check"]))?;
    }
    Ok(())
}

fn check_lints() -> Result<()> {
    setup::require_rustfmt_and_clippy()?;
    let everything = ["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"];
    process::run(workspace::cargo().args(everything))
}

/// Builds the eBPF object from its sources; the tests run on the one that comes of it.
fn check_object(record: &mut Record) -> Result<Option<PathBuf>> {
    if ebpf::compiler().is_none() && !host::runs_microvms() {
        record.skipped.insert(SAME_BYTES.to_owned(), "no compiler for BPF (cargo xtask setup)".to_owned());
        return Ok(None);
    }
    let rebuilt = ebpf::check(workspace::root())?;
    match rebuilt.not_compared {
        Some(reason) => drop(record.skipped.insert(SAME_BYTES.to_owned(), reason)),
        None => record.passed.push(SAME_BYTES.to_owned()),
    }
    Ok(Some(rebuilt.path))
}

/// Runs the quick matrix on all kernels in one step. A host that may not install the lab skips it by name.
fn run_in_lab(
    binaries: &[TestBinary],
    environment: &Environment,
    filter: Option<&str>,
    steps: &mut Steps,
    record: &mut Record,
) {
    let Some(names) = steps.run("tests of the lab", || lab::list_tests(binaries)) else { return };
    let matrix = lab::Matrix {
        binaries,
        names: &names,
        environment,
        is_quick: true,
        filter,
        takes_nearest: false,
        repeats: &[],
    };
    let kernels = matrix.with_tests(lab::KERNELS);
    if kernels.is_empty() {
        return;
    }
    steps.run(&matrix.step_name(&kernels), || match setup::ensure_lab() {
        Ok(()) => matrix.run(&kernels, record),
        Err(error) if !host::runs_microvms() => {
            let reason = format!("{error:#}");
            record.skipped.extend(matrix.test_names(&kernels).into_iter().map(|name| (name, reason.clone())));
            Ok(())
        }
        Err(error) => Err(error),
    });
    record.settle_skipped_here();
}

/// Compares what ran with the list of tests that must run.
fn check_required(filter: Option<&str>, record: &mut Record) -> Result<()> {
    let required = required::read(filter)?;
    let shortfall = required::compare(&required, record, host::runs_microvms());
    shortfall.settle(&format!("the {} tests in {}", required.len(), required::LIST), record)
}
