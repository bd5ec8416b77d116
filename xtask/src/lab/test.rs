//! `cargo xtask lab test`: tests of this repository on the lab's kernels.

mod boots;
mod said;
mod table;
mod voices;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use super::kernels;
use crate::setup;
use crate::test::binaries::{self, Environment};
use crate::test::record::Record;
use crate::test::steps::Steps;

pub use boots::Matrix;
pub use table::of as table_of;

/// Run the tests that need more of a kernel than this host may have, on each kernel of the lab.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only the quick matrix, which `cargo xtask test` runs as well
    #[arg(long)]
    quick: bool,
    /// Kernel by its name in the lab, or all
    #[arg(long, default_value = "all")]
    kernel: String,
    /// Only tests with TEXT in their name, as in lab-6.12::forkd::e2e::linux
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Where the archive has a pinned kernel no more, take the nearest
    #[arg(long)]
    nearest: bool,
}

/// The command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure_lab()?;
    let mut steps = Steps::default();
    let mut record = Record::default();
    let bpf_object = env::var_os("FORKD_BPF_OBJECT").map(PathBuf::from);
    let environment = Environment { firecracker: setup::firecracker().ok(), bpf_object };
    let binaries = steps.run("build tests", binaries::build).unwrap_or_default();
    let matrix = Matrix {
        binaries: &binaries,
        environment: &environment,
        is_quick: arguments.quick,
        filter: arguments.filter.as_deref(),
        takes_nearest: arguments.nearest,
        repeats: &[],
    };
    let kernels = matrix.with_tests(&kernels::named(&arguments.kernel)?);
    if !kernels.is_empty() {
        steps.run(&matrix.step_name(&kernels), || matrix.run(&kernels, &mut record));
    }
    println!("\n{}", steps.table());
    print!("{}", record.listing());
    if let Some(table) = table_of(&record) {
        println!("\n{table}");
    }
    let failed = record.failed.len() + steps.failed_checks();
    println!("{} passed, {failed} failed, {} skipped", record.passed.len(), record.skipped.len());
    Ok(if failed == 0 && !record.passed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
