//! Boots each kernel once, side by side where this host has the processors, and runs in it all that is meant for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Error, Result, anyhow, bail};

use super::said::{script, take_over};
use super::voices::Voice;
use crate::lab::archive::Archive;
use crate::lab::image::Image;
use crate::lab::kernels::Kernel;
use crate::lab::matrix::{self, COMPILED, Compiled, LINUX_GUEST, PEER, Selection, TestNames};
use crate::lab::options::Hardware;
use crate::lab::session::{self, Booted, Done, Job, Session};
use crate::lab::{programs, quote};
use crate::test::binaries::{Environment, MOST_REPEATED, TestBinary};
use crate::test::record::Record;
use crate::test::steps::TestsFailed;
use crate::{process, workspace};

/// Seconds that a machine may run, its boot included, and one suite of tests in it: a test in emulation takes 10 to 30
/// times as long as on a processor, and the suites of the full matrix have up to thirty.
const QUICK_LIMITS: Limits = Limits { machine_s: 5400, suite_s: 900 };
const FULL_LIMITS: Limits = Limits { machine_s: 21_600, suite_s: 3600 };
/// Milliseconds that a Linux guest is given to boot in a machine that is itself emulated.
const LINUX_BOOT_MS: u32 = 20_000;
/// How many times longer than on a processor tests let things take (`testkit::slowness`).
const SLOWNESS: u32 = 8;
/// Memory of a machine: the battery of the full matrix wants 4 GiB of it free.
const QUICK_MEM_MIB: u32 = 4096;
const FULL_MEM_MIB: u32 = 6144;

/// How long what runs in a machine may take.
struct Limits {
    machine_s: u64,
    suite_s: u64,
}

/// The matrix for one run of the tests.
pub struct Matrix<'a> {
    /// Every test binary that was built.
    pub binaries: &'a [TestBinary],
    /// The names of their tests, of those that the lab runs.
    pub names: &'a TestNames,
    /// What tests are told.
    pub environment: &'a Environment,
    /// Leave out what takes long.
    pub is_quick: bool,
    /// Only what has this in its name.
    pub filter: Option<&'a str>,
    /// Take the nearest kernel where the pinned one is gone.
    pub takes_nearest: bool,
    /// Only the suites of these tests, which have failed.
    pub repeats: &'a [String],
}

/// A machine that is put together.
struct Prepared {
    booted: Booted,
    suites: Vec<Selection>,
    image: Image,
    script: String,
}

/// What one machine said, and how it ended.
struct Ran {
    said: Vec<u8>,
    outcome: Result<Done>,
}

impl Matrix<'_> {
    /// Those of the kernels on which anything runs.
    pub fn with_tests(&self, kernels: &[Kernel]) -> Vec<Kernel> {
        kernels.iter().copied().filter(|kernel| !self.suites(*kernel).is_empty()).collect()
    }

    /// The full names of what would run on these kernels.
    pub fn test_names(&self, kernels: &[Kernel]) -> Vec<String> {
        let suites = kernels
            .iter()
            .flat_map(|kernel| self.suites(*kernel).into_iter().map(|suite| (kernel.name, suite)));
        suites.flat_map(|(kernel, suite)| suite.full_names(kernel, self.names)).collect()
    }

    /// What the run on these kernels is called.
    pub fn step_name(&self, kernels: &[Kernel]) -> String {
        let names: Vec<&str> = kernels.iter().map(|kernel| kernel.name).collect();
        format!("lab {}", names.join(", "))
    }

    /// Boots each kernel, and records each test under its kernel's name. A few tests that fail are run once more, with
    /// the others of their suites, and are recorded as flaky if they pass then.
    pub fn run(&self, kernels: &[Kernel], record: &mut Record) -> Result<()> {
        let mut first = Record::default();
        let outcome = self.run_once(kernels, &mut first);
        if outcome.as_ref().is_err_and(Error::is::<TestsFailed>) && first.failed.len() <= MOST_REPEATED {
            println!("\nonce more: {}", first.failed.join(", "));
            let failed = first.failed.clone();
            let again = Matrix { repeats: &failed, ..*self };
            let mut second = Record::default();
            // What fails again is in the record already.
            let _ = again.run_once(&again.with_tests(kernels), &mut second);
            first.passed_when_repeated(&second.passed);
        }
        let failed = first.failed.len();
        record.take_over(first);
        match outcome {
            Err(error) if error.is::<TestsFailed>() && failed == 0 => Ok(()),
            Err(error) if error.is::<TestsFailed>() => Err(TestsFailed(format!("{failed} failed")).into()),
            outcome => outcome,
        }
    }

    /// The kernels take turns where this host has not a processor for each.
    fn run_once(&self, kernels: &[Kernel], record: &mut Record) -> Result<()> {
        let mut machines: Vec<Prepared> =
            kernels.iter().map(|kernel| self.prepare(*kernel)).collect::<Result<_>>()?;
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let at_once = if processors >= machines.len() { machines.len().max(1) } else { 1 };
        let mut failed = 0;
        let mut errors = Vec::new();
        for group in machines.chunks_mut(at_once) {
            let all_ran = self.run_side_by_side(group);
            for (machine, ran) in group.iter().zip(all_ran) {
                let name = machine.booted.name();
                let said = String::from_utf8_lossy(&ran.said);
                failed += take_over(&said, name, &machine.suites, record);
                match ran.outcome {
                    Ok(Done { exit_code: None, .. }) => bail!("interrupted"),
                    Ok(_) => {
                        println!("Linux {name}: standard error of its tests: {}", self.out(name).display())
                    }
                    Err(error) => errors.push(format!("{error:#}")),
                }
            }
        }
        match errors.as_slice() {
            [] if failed > 0 => Err(TestsFailed(format!("{failed} failed")).into()),
            [] => Ok(()),
            errors => bail!("{}", errors.join("\n")),
        }
    }

    fn limits(&self) -> Limits {
        if self.is_quick { QUICK_LIMITS } else { FULL_LIMITS }
    }

    /// Emulated AMD virtualisation everywhere: one boot serves the tests of the probes and those of the daemon.
    fn hardware(&self) -> Hardware {
        let mem_mib = if self.is_quick { QUICK_MEM_MIB } else { FULL_MEM_MIB };
        Hardware { mem_mib, kvm_amd: true, timeout_s: self.limits().machine_s, ..Hardware::default() }
    }

    /// What runs on a kernel.
    pub fn suites(&self, kernel: Kernel) -> Vec<Selection> {
        let mut suites = matrix::chosen(kernel.name, self.is_quick, self.filter, self.names);
        if !self.repeats.is_empty() {
            let is_repeated = |suite: &Selection| {
                self.repeats.iter().any(|test| test.starts_with(&suite.full_name(kernel.name)))
            };
            suites.retain(is_repeated);
        }
        suites
    }

    /// Where files of the tests on one kernel are brought back to.
    fn out(&self, kernel: &str) -> PathBuf {
        let folder = if self.repeats.is_empty() { "test" } else { "test-again" };
        session::folder().join(folder).join(kernel)
    }

    /// Each on a thread of its own; in their order.
    fn run_side_by_side(&self, machines: &mut [Prepared]) -> Vec<Ran> {
        thread::scope(|scope| {
            let start = |machine| scope.spawn(move || self.run_one(machine));
            let threads: Vec<_> = machines.iter_mut().map(start).collect();
            let panicked =
                |_| Ran { said: Vec::new(), outcome: Err(anyhow!("the machine's thread panicked")) };
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
        })
    }

    fn run_one(&self, machine: &mut Prepared) -> Ran {
        let mut voice = Voice::of(machine.booted.name());
        let hardware = self.hardware();
        let job = Job::Script(std::mem::take(&mut machine.script));
        let out = self.out(machine.booted.name());
        let outcome = Session::new(&machine.booted, &hardware)
            .and_then(|session| session.run(&mut machine.image, &job, &out, &mut voice));
        Ran { said: voice.said, outcome }
    }

    fn prepare(&self, kernel: Kernel) -> Result<Prepared> {
        let suites = self.suites(kernel);
        let archive = session::archive(self.takes_nearest);
        let booted = Booted::prepare(&archive, kernel)?;
        if suites.iter().any(|suite| suite.tests.starts_with(LINUX_GUEST)) {
            build_linux_guest();
        }
        let mut image = session::base_image(&archive)?;
        if suites.iter().any(|suite| suite.binary == PEER)
            && let Err(error) = add_peer(&archive, &mut image)
        {
            println!("there is no offcputime to compare with: {error:#}");
        }
        let script = self.script(&suites, &mut image)?;
        let out = self.out(kernel.name);
        if out.exists() {
            fs::remove_dir_all(&out).with_context(|| format!("cannot delete {}", out.display()))?;
        }
        Ok(Prepared { booted, suites, image, script })
    }

    /// Puts what the suites need into the image, and gives the script that runs them one after the other.
    fn script(&self, suites: &[Selection], image: &mut Image) -> Result<String> {
        let mut text =
            format!("export FORKD_LINUX_BOOT_MS={LINUX_BOOT_MS} {}={SLOWNESS}\n", testkit::SLOWNESS);
        let mut export = |name: &str, path: &Path| {
            text.push_str(&format!("export {name}={}\n", quote(&path.to_string_lossy())));
        };
        for (name, path) in self.environment.variables() {
            let path = fs::canonicalize(path)?;
            programs::add_file(image, &path)?;
            export(name, &path);
        }
        let is_wanted = |one: &&Compiled| suites.iter().any(|suite| suite.binary == one.binary);
        for one in COMPILED.iter().filter(is_wanted) {
            let program = compile(one)?;
            image.program(&program)?;
            export(one.variable, &program);
        }
        programs::add_surroundings(image)?;
        if suites.iter().any(|suite| suite.tests.starts_with(LINUX_GUEST)) {
            for (name, path) in programs::add_linux_guest(image)? {
                export(name, &path);
            }
        }
        for name in programs::OURS {
            image.program(&programs::built(name, false))?;
        }
        for suite in suites {
            let binary = self.binaries.iter().find(|binary| binary.name == suite.binary);
            let binary = binary.with_context(|| format!("{} was not built", suite.binary))?;
            image.program(&binary.executable)?;
            text.push_str(&script(suite, binary, self.limits().suite_s));
        }
        Ok(text)
    }
}

/// The Linux guest of `docs/GUESTS.md`, where tests look for it. Without it they are skipped by name.
fn build_linux_guest() {
    let (kernel, initrd) = testkit::linux_guest();
    if kernel.is_file() && initrd.is_file() {
        return;
    }
    let place = workspace::root().join("target/linux-guest");
    if let Err(error) = process::run(Command::new(workspace::root().join("guest/linux/build")).arg(place)) {
        println!("there is no Linux guest to test with: {error:#}");
    }
}

/// libbpf-tools' `offcputime`, with this host's libraries. Without it its test is skipped by name.
fn add_peer(archive: &Archive, image: &mut Image) -> Result<()> {
    image.program(&archive.any_version("libbpf-tools")?.join("usr/sbin/offcputime"))
}

/// As the test itself would compile it.
fn compile(one: &Compiled) -> Result<PathBuf> {
    let folder = session::folder().join("compiled");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let program = folder.join(one.binary.replace("::", "-"));
    let source = workspace::root().join(one.source);
    let changed = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    // Made once: the machines share it.
    if changed(&program).is_ok_and(|made| changed(&source).is_ok_and(|written| written < made)) {
        return Ok(program);
    }
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-pthread", "-o"]).arg(&program).arg(&source);
    process::output(&mut compiler)?;
    Ok(program)
}
