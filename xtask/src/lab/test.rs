//! `cargo xtask lab test`: tests of this repository on the lab's kernels.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use super::image::Image;
use super::kernels::{self, Kernel};
use super::matrix::{self, Suite};
use super::options::Hardware;
use super::session::{self, Booted, Job, Session};
use super::{programs, quote};
use crate::test::binaries::{self, Environment, TestBinary};
use crate::test::output;
use crate::test::record::Record;
use crate::test::steps::{Steps, TestsFailed};
use crate::{process, setup, workspace};

/// Run the tests that need more of a kernel than this host may have, on each kernel of the lab.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only the quick matrix, which `cargo xtask test --lab` runs as well
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

/// Seconds that one run of a test binary may take inside.
const SUITE_TIMEOUT_S: u64 = 900;
/// Seconds that a machine may run, its boot included.
const MACHINE_TIMEOUT_S: u64 = 5400;
/// What the script inside prints around what a test binary says.
const BEGIN: &str = "@@lab begin ";
const END: &str = "@@lab end ";

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
    };
    for kernel in
        kernels::named(&arguments.kernel)?.into_iter().filter(|kernel| matrix.has_tests_for(*kernel))
    {
        steps.run(&format!("lab {}", kernel.name), || matrix.run(kernel, &mut record));
    }
    println!("\n{}", steps.table());
    print!("{}", record.listing());
    let failed = record.failed.len() + steps.failed_checks();
    println!("{} passed, {failed} failed, {} skipped", record.passed.len(), record.skipped.len());
    Ok(if failed == 0 && !record.passed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The matrix for one run of the tests.
pub struct Matrix<'a> {
    /// Every test binary that was built.
    pub binaries: &'a [TestBinary],
    /// What tests are told.
    pub environment: &'a Environment,
    /// Leave out what takes long.
    pub is_quick: bool,
    /// Only what has this in its name.
    pub filter: Option<&'a str>,
    /// Take the nearest kernel where the pinned one is gone.
    pub takes_nearest: bool,
}

impl Matrix<'_> {
    /// Whether anything runs on that kernel.
    pub fn has_tests_for(&self, kernel: Kernel) -> bool {
        !self.suites(kernel).is_empty()
    }

    /// The beginnings of the names of what would run on that kernel.
    pub fn names(&self, kernel: Kernel) -> Vec<String> {
        self.suites(kernel).iter().map(|suite| suite.full_name(kernel.name)).collect()
    }

    /// Boots the kernel once, runs everything that is meant for it, and records each test under its kernel's name.
    pub fn run(&self, kernel: Kernel, record: &mut Record) -> Result<()> {
        let suites = self.suites(kernel);
        if suites.is_empty() {
            return Ok(());
        }
        let archive = session::archive(self.takes_nearest);
        let booted = Booted::prepare(&archive, kernel)?;
        if suites.iter().any(|suite| suite.tests.starts_with("linux::")) {
            build_linux_guest()?;
        }
        let mut image = session::base_image(&archive)?;
        let script = self.script(&suites, &mut image)?;
        let out = session::folder().join("test").join(kernel.name);
        if out.exists() {
            fs::remove_dir_all(&out).with_context(|| format!("cannot delete {}", out.display()))?;
        }
        let mut said = Vec::new();
        let mut sink = |chunk: &[u8]| {
            said.extend_from_slice(chunk);
            // Nobody may be listening any more.
            let _ = io::stdout().lock().write_all(chunk);
        };
        let hardware = hardware();
        let outcome =
            Session::new(&booted, &hardware)?.run(&mut image, &Job::Script(script), &out, &mut sink);
        let failed = take_over(&String::from_utf8_lossy(&said), kernel.name, &suites, record);
        let done = outcome?;
        if done.exit_code.is_none() {
            bail!("interrupted");
        }
        println!("what the tests said on standard error: {}", out.display());
        if failed > 0 {
            return Err(TestsFailed(format!("{failed} failed")).into());
        }
        Ok(())
    }

    fn suites(&self, kernel: Kernel) -> Vec<Suite> {
        matrix::chosen(kernel.name, self.is_quick, self.filter)
    }

    /// Puts what the suites need into the image, and gives the script that runs them one after the other.
    fn script(&self, suites: &[Suite], image: &mut Image) -> Result<String> {
        let mut script = String::new();
        let mut export = |name: &str, path: &Path| {
            script.push_str(&format!("export {name}={}\n", quote(&path.to_string_lossy())));
        };
        for (name, path) in self.environment.variables() {
            let path = fs::canonicalize(path)?;
            programs::add_file(image, &path)?;
            export(name, &path);
        }
        programs::add_surroundings(image)?;
        for name in programs::OURS {
            image.program(&programs::built(name, false))?;
        }
        for suite in suites {
            let binary = self.binaries.iter().find(|binary| binary.name == suite.binary);
            let binary = binary.with_context(|| format!("{} was not built", suite.binary))?;
            image.program(&binary.executable)?;
            script.push_str(&suite_script(suite, binary));
        }
        Ok(script)
    }
}

fn suite_script(suite: &Suite, binary: &TestBinary) -> String {
    let dir = quote(&binary.package_dir.to_string_lossy());
    let label = format!("{} {}", suite.binary, suite.tests);
    let stderr = quote(&format!("/out/{}", label.replace("::", ".").replace(' ', "-")));
    let program = quote(&binary.executable.to_string_lossy());
    let run = format!("timeout {SUITE_TIMEOUT_S} {program} --test-threads=1 {}", quote(suite.tests));
    format!(
        "echo {begin}\nmkdir -p {dir}; cd {dir}\nCARGO_MANIFEST_DIR={dir} {run} 2>{stderr}\n\
         echo \"{END}$? after $(cut -d' ' -f1 /proc/uptime) s\"\n",
        begin = quote(&format!("{BEGIN}{label}")),
    )
}

/// Records what each suite said, and returns how many failures that adds. A suite that is not there to its end has failed.
fn take_over(said: &str, kernel: &str, suites: &[Suite], record: &mut Record) -> usize {
    let before = record.failed.len();
    for suite in suites {
        let name = matrix::recorded_binary(kernel, suite.binary);
        let begin = format!("{BEGIN}{} {}\n", suite.binary, suite.tests);
        let Some((_, rest)) = said.split_once(&begin) else {
            record.failed.push(format!("{}: it did not run", suite.full_name(kernel)));
            continue;
        };
        let (section, code) = match rest.split_once(END) {
            Some((section, end)) => (section, end.split_whitespace().next().unwrap_or_default()),
            None => (rest, "nothing"),
        };
        let report = output::parse(section);
        let has_tests = report.verdicts.iter().any(|(test, _)| test.starts_with(suite.tests));
        let failed = record.add(&name, report);
        if !has_tests {
            record.failed.push(format!("{}: no test has that name", suite.full_name(kernel)));
        } else if code != "0" && failed == 0 {
            record.failed.push(format!("{}: it ended with {code}", suite.full_name(kernel)));
        }
    }
    record.failed.len() - before
}

/// The Linux guest of `docs/GUESTS.md`, where tests look for it.
fn build_linux_guest() -> Result<()> {
    let (kernel, initrd) = testkit::linux_guest();
    if kernel.is_file() && initrd.is_file() {
        return Ok(());
    }
    let place = workspace::root().join("target/linux-guest");
    process::run(Command::new(workspace::root().join("guest/linux/build")).arg(place))
}

/// Emulated AMD virtualisation everywhere: one boot serves the tests of the probes and those of the daemon.
fn hardware() -> Hardware {
    Hardware {
        mem_mib: 4096,
        cpus: 2,
        disk_mib: 4096,
        disk_bps: None,
        disk_iops: None,
        fs: super::options::FileSystem::Ext4,
        kvm_amd: true,
        timeout_s: MACHINE_TIMEOUT_S,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUITE: Suite = Suite { binary: "p::b", tests: "m::", is_quick: true, only_on: None };

    #[track_caller]
    fn check(said: &str, passed: &[&str], failed: &[&str]) {
        let mut record = Record::default();
        assert_eq!(take_over(said, "6.1", &[SUITE], &mut record), failed.len());
        assert_eq!(record.passed, passed);
        assert_eq!(record.failed, failed);
    }

    #[test]
    fn tests_are_recorded_under_their_kernel_and_what_did_not_run_to_its_end_has_failed() {
        let ran = "running 1 test\ntest m::t ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored\n";
        let none = "running 0 tests\ntest result: ok. 0 passed; 0 failed; 0 ignored\n";
        let begin = "@@lab begin p::b m::\n";
        let test = "lab-6.1::p::b::m::t";
        check(&format!("{begin}{ran}@@lab end 0 after 9 s\n"), &[test], &[]);
        check(
            &format!("{begin}{ran}@@lab end 101 after 9 s\n"),
            &[test],
            &["lab-6.1::p::b::m::: it ended with 101"],
        );
        check(&format!("{begin}{ran}"), &[test], &["lab-6.1::p::b::m::: it ended with nothing"]);
        check(
            &format!("{begin}{none}@@lab end 0 after 9 s\n"),
            &[],
            &["lab-6.1::p::b::m::: no test has that name"],
        );
        check("", &[], &["lab-6.1::p::b::m::: it did not run"]);
    }
}
