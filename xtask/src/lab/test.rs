//! `cargo xtask lab test`: tests of this repository on the lab's kernels.

mod boots;
mod complete;
mod said;
mod table;
mod voices;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};

use super::kernels::{self, Kernel};
use super::matrix;
use crate::setup::{self, Purpose};
use crate::test::binaries::{self, Environment};
use crate::test::record::Record;
use crate::test::required;
use crate::test::steps::Steps;

pub use boots::Matrix;
use complete::Asked;
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
    let kernels = kernels::named(&arguments.kernel)?;
    setup::ensure(Purpose::Lab)?;
    let mut steps = Steps::default();
    let mut record = Record::default();
    let bpf_object = env::var_os("FORKD_BPF_OBJECT").map(PathBuf::from);
    let environment = Environment { firecracker: setup::firecracker().ok(), bpf_object };
    let binaries = steps.run("build tests", binaries::build).unwrap_or_default();
    let names = steps.run("tests of the lab", || matrix::list_tests(&binaries)).unwrap_or_default();
    let filter = arguments.filter.as_deref();
    let matrix = Matrix {
        binaries: &binaries,
        names: &names,
        environment: &environment,
        is_quick: arguments.quick,
        filter,
        takes_nearest: arguments.nearest,
        repeats: &[],
    };
    let kernels = matrix.with_tests(&kernels);
    if !kernels.is_empty() {
        steps.run(&matrix.step_name(&kernels), || matrix.run(&kernels, &mut record));
        steps.run("whole suites, required tests", || check_complete(&matrix, &kernels, &mut record));
    }
    println!("\n{}", steps.table());
    print!("{}", record.listing());
    if let Some(table) = table_of(&record) {
        println!("\n{table}");
    }
    let failed = record.failed.len() + steps.failed_checks();
    if record.passed.is_empty() && failed == 0 {
        match filter {
            Some(filter) if record.skipped.is_empty() => {
                bail!("no test ran: does {filter} match any of the lab's?")
            }
            _ => bail!("no test ran; what was skipped is named above, with why"),
        }
    }
    println!("{} passed, {failed} failed, {} skipped", record.passed.len(), record.skipped.len());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Fails where what was asked for was skipped, for no reason that a release can do with.
fn check_complete(matrix: &Matrix, kernels: &[Kernel], record: &mut Record) -> Result<()> {
    let required = required::read(matrix.filter)?;
    let asked = |kernel: &Kernel| Asked { kernel: kernel.name, suites: matrix.suites(*kernel) };
    let asked: Vec<Asked> = kernels.iter().map(asked).collect();
    let shortfall = complete::shortfall(&required, &asked, record);
    shortfall.settle(&format!("the lab's suites and the tests in {}", required::LIST), record)
}
