//! Measures two arms in blocks, and judges them at the looks of the plan.

use std::path::PathBuf;

use crate::cell::Cell;
use crate::host::{facts, tools, usage::Usage, writeback};
use crate::interrupt::Interrupt;
use crate::judge::{self, Class, Plan};
use crate::site::{Ground, Programs, Site, bytes_needed};
use crate::sweep::{Recording, Settings, Step, Watch};
use crate::trial::{Made, Subject, unix_ms};
use crate::work::Work;
use crate::{Error, files};

use super::arms::{ArmRequest, Arms};
use super::causes::Identified;
use super::compare::{CellVerdict, Rule, blocks_so_far};
use super::csv::{Shared, Taken, render};
use super::disturb::Disturbed;
use super::document::{Arm, Document, Inconclusive, SCHEMA, Terms};
use super::side::Side;
use super::{machine_name, output, why};

const FILES: [&str; 2] = ["a.csv", "b.csv"];
const MIB: f64 = (1 << 20) as f64;

/// What to measure and how to judge it.
#[derive(Clone, Debug)]
pub struct MeasureRequest {
    /// Baseline and candidate.
    pub arms: [ArmRequest; 2],
    /// The VMM of both.
    pub firecracker: PathBuf,
    /// The conditions; [`Settings::trials`] is not used.
    pub settings: Settings,
    /// When to look, and at which error.
    pub plan: Plan,
    /// How to judge.
    pub rule: Rule,
    /// What becomes of INCONCLUSIVE.
    pub inconclusive: Inconclusive,
    /// Whether to record one sweep of each arm after a regression, to tell where the candidate waits longer.
    pub stacks: bool,
    /// Where the files go.
    pub out: PathBuf,
    /// Where programs, mounts, images and sockets live meanwhile.
    pub work_dir: PathBuf,
}

/// Measures, judges and writes `gate.json` and the rest; gives what it found.
pub async fn measure(request: &MeasureRequest, interrupt: &mut Interrupt) -> Result<Document, Error> {
    output::prepare(&request.out)?;
    let (work, cleared) = Work::take(&request.work_dir)?;
    check_space(request, &work)?;
    let [a, b] = &request.arms;
    let arms = Arms::ready(&work, [a, b], &request.firecracker)?;
    let started_unix_ms = unix_ms();
    let mut session = Session::new(request, &work, &arms);
    for line in cleared {
        session.recording.progress.note(&line);
    }
    let (cells, looks) = session.look_until_decided(interrupt).await?;
    let class = judge::overall(cells.iter().map(|cell| &cell.verdict));
    let mut written: Vec<PathBuf> = FILES.iter().map(|name| request.out.join(name)).collect();
    let mut stacks = Vec::new();
    if class == Class::Regress && request.stacks {
        let cell = first_regressed(request, &cells);
        stacks = why::record(&mut session, cell, interrupt, &mut written).await?;
    }
    session.recording.progress.finish();
    let [baseline, candidate] = [0, 1].map(|arm| session.describe(arm));
    let document = Document {
        schema: SCHEMA,
        class,
        started_unix_ms,
        ended_unix_ms: unix_ms(),
        machine: facts::machine(),
        baseline,
        candidate,
        terms: Terms {
            alpha: request.plan.alpha(),
            looks,
            limit_ms: request.rule.limit_ms,
            forced: request.rule.force,
            inconclusive: request.inconclusive,
            seed: request.rule.seed,
        },
        cells,
        stacks,
        warnings: session.recording.warnings().to_vec(),
    };
    output::write(&request.out, &document, written)?;
    Ok(document)
}

/// The cell to explain.
fn first_regressed(request: &MeasureRequest, verdicts: &[CellVerdict]) -> Cell {
    let cells = request.settings.cells.iter().zip(verdicts);
    let regressed = cells.filter(|(_, verdict)| verdict.verdict.class == Class::Regress);
    regressed.map(|(cell, _)| cell).next().unwrap_or(&request.settings.cells[0]).clone()
}

/// What a measurement has gathered, and what it measures with.
pub(super) struct Session<'a> {
    pub request: &'a MeasureRequest,
    pub work: &'a Work,
    pub recording: Recording,
    arms: &'a Arms,
    sweeps: [Vec<Taken>; 2],
    versions: [Option<String>; 2],
    shared: Shared,
    random: fastrand::Rng,
    b_first: bool,
}

impl<'a> Session<'a> {
    fn new(request: &'a MeasureRequest, work: &'a Work, arms: &'a Arms) -> Self {
        let blocks = request.plan.looks().last().map_or(0, |look| look.blocks) as u32;
        let recording = Recording::new(&Settings { trials: 2 * blocks, ..request.settings.clone() });
        let shared = Shared {
            run_id: format!("{:x}-{:x}", unix_ms(), std::process::id()),
            machine: machine_name(&facts::machine()),
            phases: recording.sweep.phases.clone(),
        };
        let random = fastrand::Rng::with_seed(request.rule.seed);
        let (sweeps, versions) = Default::default();
        Self { request, work, recording, arms, sweeps, versions, shared, random, b_first: false }
    }

    /// Measures up to each look in turn. A regression ends it at any look; a pass where the plan lets it.
    async fn look_until_decided(
        &mut self,
        interrupt: &mut Interrupt,
    ) -> Result<(Vec<CellVerdict>, Vec<judge::Look>), Error> {
        let (mut verdicts, mut looked, mut block) = (Vec::new(), Vec::new(), 0);
        for look in self.request.plan.looks() {
            while block < look.blocks {
                block += 1;
                self.block(block as u32, interrupt).await?;
            }
            let [a, b] = [self.side(0)?, self.side(1)?];
            verdicts = blocks_so_far(&a, &b, &look, &self.request.rule)?;
            looked.push(look);
            let class = judge::overall(verdicts.iter().map(|cell| &cell.verdict));
            self.recording.progress.note(&format!("after {block} blocks: {}", class.name()));
            if class == Class::Regress || (class == Class::Pass && look.may_pass) {
                break;
            }
        }
        Ok((verdicts, looked))
    }

    /// One sweep of each arm of each cell. Of two blocks one begins with the baseline and the other with the
    /// candidate; which of them is drawn.
    async fn block(&mut self, block: u32, interrupt: &mut Interrupt) -> Result<(), Error> {
        self.b_first = if block % 2 == 1 { self.random.bool() } else { !self.b_first };
        let order = if self.b_first { [1, 0] } else { [0, 1] };
        for cell in &self.request.settings.cells {
            for arm in order {
                let disturbance = self.request.arms[arm].disturbance.as_ref();
                let work = self.work;
                let begin = |site: &Site| Disturbed::begin(disturbance, work, site);
                let (taken, _) = self.sweep(arm, (cell.clone(), block), begin, interrupt).await?;
                self.sweeps[arm].push(taken);
            }
        }
        for (arm, name) in FILES.iter().enumerate() {
            files::write(&self.request.out, name, &render(&self.sweeps[arm], &self.shared)?)?;
        }
        Ok(())
    }

    /// One sweep: a fresh file system, daemon and microVM, idle disks, then the BRANCHes.
    pub(super) async fn sweep<W: Watch>(
        &mut self,
        arm: usize,
        (cell, block): (Cell, u32),
        watch: impl FnOnce(&Site) -> Result<W, Error>,
        interrupt: &mut Interrupt,
    ) -> Result<(Taken, W), Error> {
        let request = &self.request.arms[arm];
        let cell = request.cell(cell);
        // The same pages with the same contents for both arms of a block, others in the next.
        let seed = self.request.settings.seed.wrapping_add(u64::from(block) << 32);
        let settings = Settings { seed, ..self.request.settings.clone() };
        let programs: &Programs = &self.arms.programs[arm];
        let recording = &mut self.recording;
        recording
            .progress
            .step(&format!("block {block}, {}: file system and daemon", ["baseline", "candidate"][arm]));
        let bytes = bytes_needed(settings.branches, cell.mem_mib, cell.dirty_pages);
        let ground = Ground { root: cell.root.clone(), bytes, disk_bps: cell.disk_bps };
        let mut site = interrupt.or(Site::build(self.work, programs, &ground)).await?;
        let version = interrupt.or(site.api.version()).await?;
        self.versions[arm].get_or_insert(version);
        let mut made = Made::default();
        let work = self.work;
        let before = recording.sweep.samples.len();
        let (watch, host, causes) = interrupt
            .or(async {
                let step = Step { cell: &cell, trial: block, order: block };
                let subject = Subject::prepare(&mut site, &settings, step, &mut made, recording).await?;
                work.record(subject.sandbox.pid)?;
                let dirty_mib = writeback::pending_kib() as f64 / 1024.0;
                let mut watch = Identified::new(watch(&site)?);
                watch.begin(&subject.sandbox)?;
                let begin = Usage::now(site.daemon_pid());
                subject.branch_all(&site, &settings, &mut made, recording, &mut watch).await?;
                let end = Usage::now(site.daemon_pid());
                let free_mib = site.snapshots().map_or(Ok(0), |path| tools::free_bytes(&path))? as f64 / MIB;
                let causes = watch.causes(&site.api).await?;
                Ok((watch.watch, begin.until(&end, dirty_mib, free_mib), causes))
            })
            .await?;
        let samples = recording.sweep.samples.split_off(before);
        Ok((Taken { samples, host, causes }, watch))
    }

    fn side(&self, arm: usize) -> Result<Side, Error> {
        Side::read(FILES[arm], render(&self.sweeps[arm], &self.shared)?.as_slice())
    }

    fn describe(&self, arm: usize) -> Arm {
        Arm {
            what: self.request.arms[arm].what(),
            version: self.versions[arm].clone(),
            machine: Some(self.shared.machine.clone()),
        }
    }
}

/// Refuses a measurement that would fill the disk half-way.
fn check_space(request: &MeasureRequest, work: &Work) -> Result<(), Error> {
    let settings = &request.settings;
    let needed = |cell: &Cell| bytes_needed(settings.branches, cell.mem_mib, cell.dirty_pages);
    let needed = settings.cells.iter().map(needed).max().unwrap_or(0);
    let free = tools::free_bytes(work.folder())?;
    if free < needed {
        let (needed, free, folder) = (needed >> 20, free >> 20, work.folder().display());
        return Err(Error::Missing(format!(
            "needs {needed} MiB in {folder}, {free} MiB are free: use fewer --branches or less --mem-mib"
        )));
    }
    Ok(())
}
