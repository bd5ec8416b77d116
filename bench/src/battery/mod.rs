//! The battery: known causes are put in the way of real BRANCHes, and the verdict of `explain` on each is checked.
//!
//! Each scenario injects one cause, and runs without it as well; two inject two causes in known shares. Verdicts are
//! those of the daemon and of `forkd-probe explain`, which know of no scenario: they get records of the kernel.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;
use crate::host::tools;
use crate::interrupt::Interrupt;
use crate::progress::{print, say};
use crate::site::Programs;
use crate::trial::Made;
use crate::work::Work;

pub mod explain;
pub mod host;
pub mod judge;
pub mod parts;
pub mod scenario;
pub mod scenarios;
pub mod stage;
pub mod table;

use explain::{Explained, Explaining};
use host::process::Part;
use judge::{Judgement, Seen};
use scenario::{BranchOf, Injection, Scenario, Scene, Subject, nothing};
use stage::Stage;

/// Windows until one is what it was to be: an injection can come too late, and a host be busy.
const ATTEMPTS: u32 = 3;
/// A daemon's probes are attached some time after its start.
const ATTACHED_WITHIN: Duration = Duration::from_secs(2);
/// The function of the battery's own programs.
const WINDOW: &str = "bench::battery::parts::window";
/// The highest priority (nice).
const FIRST: i32 = -20;
/// Memory that the largest place takes at most.
const MEMORY_MIB: u64 = 4096;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The scenarios, by name; all where there are none.
    pub scenarios: Vec<String>,
    /// Only those that end the same way on a busy host, in a few seconds.
    pub quick: bool,
    /// Times that each is run.
    pub repeat: u32,
    /// What to run.
    pub programs: Programs,
    /// `forkd-probe`.
    pub probe: PathBuf,
    /// Where the whole report on each window goes, if anywhere.
    pub out: Option<PathBuf>,
    /// Where mounts, sockets and logs live meanwhile.
    pub work_dir: PathBuf,
}

impl Request {
    /// The scenarios that are asked for, in the battery's order.
    pub fn chosen(&self) -> Result<Vec<&'static Scenario>, Error> {
        let known = |name: &&String| scenarios::ALL.iter().any(|scenario| scenario.name == **name);
        if let Some(unknown) = self.scenarios.iter().find(|name| !known(name)) {
            let names: Vec<&str> = scenarios::ALL.iter().map(|scenario| scenario.name).collect();
            return Err(Error::Usage(format!("no scenario is called '{unknown}': use {}", names.join(", "))));
        }
        let is_named =
            |name: &str| self.scenarios.is_empty() || self.scenarios.iter().any(|named| named == name);
        let chosen = scenarios::ALL.into_iter().filter(|scenario| is_named(scenario.name));
        Ok(chosen.filter(|scenario| !self.quick || scenario.quick).collect())
    }
}

/// What came of all scenarios.
#[derive(Debug, Default)]
struct Tally {
    passed: u32,
    failed: u32,
    skipped: Vec<String>,
}

/// Runs the scenarios and prints the table; `N passed, N failed` is its last line.
///
/// # Errors
/// [`Error::Verdicts`] where a verdict was not the right one, and whatever else ended the run early.
pub async fn run(request: &Request, interrupt: &mut Interrupt) -> Result<(), Error> {
    let chosen = request.chosen()?;
    let (work, cleared) = Work::take(&request.work_dir)?;
    host::cgroup::delete_leftovers();
    cleared.iter().for_each(say);
    check_memory()?;
    // What is started from here on inherits it: other work on the host is to stay out of the windows.
    if let Err(error) = rustix::process::setpriority_process(None, FIRST) {
        say(format_args!("runs at the priority that it has ({error}): a busy host may be in its windows"));
    }
    print(format_args!("{}\n", table::heading()));
    let mut tally = Tally::default();
    let mut stage = None;
    for _ in 0..request.repeat {
        for scenario in &chosen {
            let runner = Runner { request, work: &work };
            interrupt.or(runner.scenario(scenario, &mut stage, &mut tally)).await?;
        }
    }
    drop(stage);
    for skipped in &tally.skipped {
        print(format_args!("skipped {skipped}\n"));
    }
    print(format_args!("{} passed, {} failed\n", tally.passed, tally.failed));
    match tally.failed {
        0 => Ok(()),
        failed => Err(Error::Verdicts(failed)),
    }
}

/// All places are in memory.
fn check_memory() -> Result<(), Error> {
    let mib = crate::host::facts::meminfo_kib("MemAvailable").unwrap_or(u64::MAX) / 1024;
    match mib < MEMORY_MIB {
        true => Err(Error::Missing(format!("needs {MEMORY_MIB} MiB of free memory, {mib} MiB are free"))),
        false => Ok(()),
    }
}

/// Runs one scenario at a time.
struct Runner<'a> {
    request: &'a Request,
    work: &'a Work,
}

/// The verdict on one window, and the shares that are known from outside.
struct Outcome {
    seen: Seen,
    known: Vec<f64>,
    sentence: String,
    report: serde_json::Value,
}

impl Outcome {
    fn of(explained: Explained, known: Vec<f64>) -> Self {
        let seen = Seen::of(&explained);
        Self { seen, known, sentence: explained.verdict.sentence, report: explained.report }
    }
}

impl Runner<'_> {
    /// Both runs of a scenario. What fails is counted and told of; an error is the end of the battery.
    async fn scenario(
        &self,
        scenario: &Scenario,
        stage: &mut Option<Stage>,
        tally: &mut Tally,
    ) -> Result<(), Error> {
        for is_injected in [true, false] {
            // The null case has nothing to leave out.
            if !is_injected && matches!(scenario.expected, scenario::Expected::Nothing) {
                continue;
            }
            match self.judged(scenario, is_injected, stage).await {
                Ok(Judgement::Right) => tally.passed += 1,
                Ok(Judgement::Wrong(_) | Judgement::Again(_)) => tally.failed += 1,
                Err(Error::Missing(why)) => {
                    tally.skipped.push(table::note(scenario, &why));
                    break;
                }
                Err(error @ (Error::Interrupted(_) | Error::Usage(_))) => return Err(error),
                Err(error) => {
                    print(format_args!("{}\n", table::note(scenario, &format!("FAILED: {error}"))));
                    tally.failed += 1;
                    // Whatever state it is in now, the next scenario does not get it.
                    *stage = None;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Runs it until its window is what it was to be, and prints its line of the table.
    async fn judged(
        &self,
        scenario: &Scenario,
        is_injected: bool,
        stage: &mut Option<Stage>,
    ) -> Result<Judgement, Error> {
        let all: Vec<_> = scenarios::ALL.iter().map(|scenario| scenario.expected).collect();
        let mut attempt = 1;
        loop {
            let outcome = match self.once(scenario, is_injected, stage).await {
                Err(Error::NoAccount(_)) if attempt < ATTEMPTS => {
                    attempt += 1;
                    tokio::time::sleep(ATTACHED_WITHIN).await;
                    continue;
                }
                outcome => outcome?,
            };
            let Outcome { seen, known, sentence, report } = &outcome;
            let judgement = match is_injected {
                true => judge::injected(scenario, seen, known, &all),
                false => judge::uninjected(scenario.expected, seen),
            };
            if matches!(judgement, Judgement::Again(_)) && attempt < ATTEMPTS {
                attempt += 1;
                continue;
            }
            self.keep(scenario, is_injected, report)?;
            print(format_args!("{}\n", table::line(scenario, is_injected, seen, &judgement)));
            if let Judgement::Wrong(why) | Judgement::Again(why) = &judgement {
                say(format_args!("{}: {why}; it said: {sentence}", scenario.name));
            }
            return Ok(judgement);
        }
    }

    /// Writes the whole report where that was asked for.
    fn keep(&self, scenario: &Scenario, is_injected: bool, report: &serde_json::Value) -> Result<(), Error> {
        let Some(out) = &self.request.out else { return Ok(()) };
        std::fs::create_dir_all(out).map_err(Error::file("create", out))?;
        let path =
            out.join(format!("{}{}.json", scenario.name, if is_injected { "" } else { "-uninjected" }));
        std::fs::write(&path, format!("{report:#}\n")).map_err(Error::file("write", &path))
    }

    async fn once(
        &self,
        scenario: &Scenario,
        is_injected: bool,
        stage: &mut Option<Stage>,
    ) -> Result<Outcome, Error> {
        match scenario.subject {
            Subject::Program(part) => self.program(scenario, if is_injected { part } else { "compute" }),
            Subject::Branch(of) => {
                let of = if is_injected { of } else { of.uninjected() };
                if stage.as_ref().is_none_or(|stage| stage.place != of.place) {
                    // One at a time: each has a daemon, and memory of its own.
                    drop(stage.take());
                    *stage = Some(Stage::build(self.work, &self.request.programs, of.place).await?);
                }
                let Some(stage) = stage else { unreachable!("it was built") };
                let mut made = Made::default();
                let outcome = self.branch(scenario, of, is_injected, stage, &mut made).await;
                made.remove(&stage.site.api).await;
                outcome
            }
        }
    }

    /// A window of a program of the battery's own.
    fn program(&self, scenario: &Scenario, part: &str) -> Result<Outcome, Error> {
        let mut program = Part::start([part])?;
        let explaining = Explaining::start(&self.request.probe, program.pid(), WINDOW)?;
        let said = program.once()?;
        let explained = explaining.finish()?;
        let mut numbers = said.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(window_ns)), parts) = (numbers.next(), numbers) else {
            return Err(Error::Tool { program: scenario.name.to_owned(), reason: format!("said '{said}'") });
        };
        // A window that is one wait is that wait alone.
        let known =
            parts.flatten().map(|ns| ns as f64 / window_ns.max(1) as f64).filter(|share| *share > 0.01);
        Ok(Outcome::of(explained, known.collect()))
    }

    /// The window of a BRANCH.
    async fn branch(
        &self,
        scenario: &Scenario,
        of: BranchOf,
        is_injected: bool,
        stage: &mut Stage,
        made: &mut Made,
    ) -> Result<Outcome, Error> {
        let sandbox = stage.fork(self.work, of, made).await?;
        let inject = if is_injected { scenario.inject } else { nothing };
        let scene: Scene<'_> = stage.scene(sandbox.pid);
        let mut injection: Box<dyn Injection> = inject(&scene)?;
        stage.dirty(&sandbox, of.dirty_pages).await?;
        Stage::settle_memory();
        injection.right_before()?;
        made.add_tag("window");
        let api = &stage.site.api;
        let branch = api.branch_as(&sandbox.id, &Stage::request(of, "window")).await?;
        let explained = explain::of_branch(api, &branch.id).await?;
        let known = injection.known_shares((explained.window.start_ns, explained.window.end_ns))?;
        Ok(Outcome::of(explained, known))
    }
}

/// `forkd-probe`, beside this program or on `PATH`.
pub fn find_probe(named: Option<&Path>) -> Result<PathBuf, Error> {
    tools::find("forkd-probe", named, "build it (cargo build --release -p probes)")
}
