//! One trial: a fresh sandbox, and consecutive BRANCHes of it under fixed conditions.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use forkd::api::{Branch, Sandbox};
use probes_common::BranchPhase;
use reports::run;
use reports::sweep::{Circumstances, Sample};

use crate::Error;
use crate::api::{Api, BranchKind};
use crate::cell::Cell;
use crate::host::guard::{ProcessorTime, Seen};
use crate::host::{device, writeback};
use crate::site::Site;
use crate::sweep::{Recording, Settings, Step, Watch};

/// What a trial made in the daemon; it must go again where the daemon is not ours.
#[derive(Debug, Default)]
pub struct Made {
    sandboxes: Vec<String>,
    tags: Vec<String>,
}

impl Made {
    /// Notes a sandbox.
    pub fn add_sandbox(&mut self, id: &str) {
        self.sandboxes.push(id.to_owned());
    }

    /// Notes a tag.
    pub fn add_tag(&mut self, tag: &str) {
        self.tags.push(tag.to_owned());
    }

    /// Removes all of it, newest first. Whatever is gone already, or was never made, is no failure.
    pub async fn remove(&mut self, api: &Api) {
        for id in self.sandboxes.drain(..).rev() {
            let _ = api.delete_sandbox(&id).await;
        }
        for tag in self.tags.drain(..).rev() {
            let _ = api.delete_snapshot(&tag).await;
        }
    }
}

/// A sandbox that is ready to be BRANCHed.
#[derive(Debug)]
pub struct Subject<'a> {
    /// The sandbox, as it was right after the fork.
    pub sandbox: Sandbox,
    step: Step<'a>,
    root: run::Root,
    /// First of the pages that each BRANCH dirties.
    first_page: u64,
    /// Begin of the tags of this trial, which no other trial uses.
    prefix: String,
    /// Dirty and in-flight memory of the host when the disks were to be idle.
    pending_kib: u64,
    /// Folders on the file systems whose space the trial uses.
    places: Vec<PathBuf>,
}

/// One BRANCH as the sweep sees it from outside.
struct Taken {
    index: u32,
    start: SystemTime,
    call: Duration,
    written_bytes: Option<u64>,
    steal_pct: f64,
}

impl<'a> Subject<'a> {
    /// Boots the guest, snapshots it, forks one sandbox from it, and waits until the disks are idle.
    pub async fn prepare(
        site: &mut Site,
        settings: &Settings,
        step: Step<'a>,
        made: &mut Made,
        recording: &mut Recording,
    ) -> Result<Self, Error> {
        let (cell, trial) = (step.cell, step.trial);
        recording.progress.step(&format!("{}, trial {trial}: base snapshot", cell.name));
        let prefix = format!("bench-{:x}", unix_ms());
        let base = format!("{prefix}-base");
        made.tags.push(base.clone());
        let snapshot = site.api.create_snapshot(&base, cell.mem_mib).await?;
        let root = site.root_facts(&cell.root, Path::new(&snapshot.dir))?;
        recording.add_root(&root);
        let sandbox = site.api.fork(&base).await?;
        made.sandboxes.push(sandbox.id.clone());
        let first_page = usable_pages(&site.api, &sandbox.id, cell).await?;
        recording.progress.step(&format!("{}, trial {trial}: waiting for idle disks", cell.name));
        let begun = Instant::now();
        let pending_kib = writeback::drain(settings.drain_limit).await;
        recording.add_drain(begun.elapsed());
        if pending_kib > writeback::LOW_KIB {
            recording.warn(format!(
                "{}, trial {trial}: {pending_kib} KiB were still to be written after {} s; it began all the same",
                cell.name,
                settings.drain_limit.as_secs_f64()
            ));
        }
        let places = site.places();
        Ok(Self { sandbox, step, root, first_page, prefix, pending_kib, places })
    }

    /// Takes the BRANCHes one after another; each is recorded as soon as it is there, and shown to `watch`.
    pub async fn branch_all(
        &self,
        site: &Site,
        settings: &Settings,
        made: &mut Made,
        recording: &mut Recording,
        watch: &mut impl Watch,
    ) -> Result<(), Error> {
        let (name, trial) = (&self.step.cell.name, self.step.trial);
        let mut written_before = self.written_bytes();
        for index in 1..=settings.branches {
            recording.progress.step(&format!("{name}, trial {trial}: BRANCH {index}"));
            let processors = ProcessorTime::now();
            self.dirty(&site.api, settings, index).await?;
            recording.add_gap(self.gap().await);
            let tag = format!("{}-{index}", self.prefix);
            made.tags.push(tag.clone());
            watch.asks();
            let (start, begun) = (SystemTime::now(), Instant::now());
            let branch = site.api.branch(&self.sandbox.id, &tag, self.kind(settings)).await?;
            let call = begun.elapsed();
            let written = self.written_bytes();
            let taken = Taken {
                index,
                start,
                call,
                written_bytes: written.zip(written_before).map(|(now, before)| now.saturating_sub(before)),
                steal_pct: ProcessorTime::now().steal_pct_since(processors),
            };
            written_before = written;
            for warning in &branch.warnings {
                recording.warn(format!("{name}, trial {trial}, BRANCH {index}: {warning}"));
            }
            recording.add_sample(self.sample(settings, &recording.run_id, taken, &branch));
            watch.branch(&branch);
        }
        if !site.is_accompanied() {
            let neighbour = self.step.cell.neighbour.name();
            recording
                .warn(format!("{name}, trial {trial}: the neighbour '{neighbour}' ended before the trial"));
        }
        Ok(())
    }

    /// The same pages before every BRANCH, with other contents.
    async fn dirty(&self, api: &Api, settings: &Settings, index: u32) -> Result<(), Error> {
        let seed = settings.seed.wrapping_add(u64::from(index));
        let command = format!("dirty {} {} {seed}", self.first_page, self.step.cell.dirty_pages);
        ask(api, &self.sandbox.id, &command).await.map(drop)
    }

    /// Waits as long as the cell says; gives how long that was.
    async fn gap(&self) -> Duration {
        let begun = Instant::now();
        tokio::time::sleep(Duration::from_millis(self.step.cell.gap_ms)).await;
        begun.elapsed()
    }

    fn kind(&self, settings: &Settings) -> BranchKind {
        let Cell { mode, data_path, .. } = *self.step.cell;
        BranchKind { mode, data_path, durable: settings.durable }
    }

    fn written_bytes(&self) -> Option<u64> {
        device::written_bytes(&self.root.device.as_ref()?.name)
    }

    fn sample(&self, settings: &Settings, run_id: &str, taken: Taken, branch: &Branch) -> Sample {
        let Step { cell, trial, order } = self.step;
        let places: Vec<&Path> = self.places.iter().map(PathBuf::as_path).collect();
        let start = taken.start.duration_since(UNIX_EPOCH).unwrap_or_default();
        Sample {
            cell: cell.name.clone(),
            data_path: cell.data_path.name().to_owned(),
            root: cell.root.name().to_owned(),
            file_system: self.root.file_system.clone(),
            mem_mib: cell.mem_mib,
            dirty_pages: cell.dirty_pages,
            gap_ms: cell.gap_ms,
            trial,
            branch_idx: taken.index,
            // From the nanoseconds: the rounded `pause_ms` is for people.
            pause_ms: branch.pause_ns as f64 / 1e6,
            diff_ms: branch.diff_ms,
            diff_physical_bytes: branch.diff_physical_bytes,
            phases_ns: BranchPhase::ALL.map(|phase| branch.phase_ns(phase)).to_vec(),
            start_unix_ms: start.as_millis() as u64,
            circumstances: Circumstances {
                run_id: run_id.to_owned(),
                mode: cell.mode.name().to_owned(),
                neighbour: cell.neighbour.name().to_owned(),
                disk_bps: cell.disk_bps,
                seed: settings.seed,
                order,
                start_unix_ns: start.as_nanos() as u64,
                call_ns: taken.call.as_nanos() as u64,
                disk_written_bytes: taken.written_bytes,
                pending_kib: self.pending_kib,
                steal_pct: taken.steal_pct,
                guard: Seen::now(self.pending_kib, taken.steal_pct, &places).trips(),
            },
        }
    }
}

/// First of the pages that the guest lets commands touch; refused where they are fewer than a BRANCH dirties.
async fn usable_pages(api: &Api, id: &str, cell: &Cell) -> Result<u64, Error> {
    let answer = ask(api, id, "pages").await?;
    let mut numbers = answer.split(' ').map(str::parse::<u64>);
    let (Some(Ok(first)), Some(Ok(end))) = (numbers.next(), numbers.next()) else {
        return Err(Error::Guest { command: "pages".to_owned(), answer });
    };
    let usable = end.saturating_sub(first);
    match usable >= cell.dirty_pages {
        true => Ok(first),
        false => Err(Error::Usage(format!(
            "a guest of {} MiB has {usable} pages to dirty, fewer than --dirty-pages {}: raise --mem-mib",
            cell.mem_mib, cell.dirty_pages
        ))),
    }
}

/// Sends one command to the guest, and gives what follows `ok COMMAND ` in its answer.
pub async fn ask(api: &Api, id: &str, command: &str) -> Result<String, Error> {
    let verb = command.split(' ').next().unwrap_or_default();
    let answer = api.console(id, &format!("{command}\n"), "\n").await?;
    let line = answer.output.trim();
    let rest = line.strip_prefix("ok ").and_then(|rest| rest.strip_prefix(verb));
    rest.map(|rest| rest.trim().to_owned()).ok_or_else(|| Error::Guest {
        command: command.to_owned(),
        answer: if answer.matched { line.to_owned() } else { format!("no whole line ({line})") },
    })
}

/// Milliseconds since the Unix epoch.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
