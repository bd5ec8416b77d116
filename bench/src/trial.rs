//! One trial: a fresh sandbox, and consecutive BRANCHes of it under fixed conditions.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use forkd::api::{Branch, Sandbox};
use probes_common::BranchPhase;
use reports::run;
use reports::sweep::Sample;

use crate::Error;
use crate::api::Api;
use crate::cell::Cell;
use crate::host::writeback;
use crate::site::Site;
use crate::sweep::{Recording, Settings, Watch};

/// How long disks may take to become idle before a trial begins anyway, with a warning.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);

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
pub struct Subject {
    /// The sandbox, as it was right after the fork.
    pub sandbox: Sandbox,
    cell: Cell,
    trial: u32,
    root: run::Root,
    /// First of the pages that each BRANCH dirties.
    first_page: u64,
    /// Begin of the tags of this trial, which no other trial uses.
    prefix: String,
}

impl Subject {
    /// Boots the guest, snapshots it, forks one sandbox from it, and waits until the disks are idle.
    pub async fn prepare(
        site: &mut Site,
        settings: &Settings,
        (cell, trial): (Cell, u32),
        made: &mut Made,
        recording: &mut Recording,
    ) -> Result<Self, Error> {
        recording.progress.step(&format!("{cell}, trial {trial}: base snapshot"));
        let prefix = format!("bench-{:x}", unix_ms());
        let base = format!("{prefix}-base");
        made.tags.push(base.clone());
        let snapshot = site.api.create_snapshot(&base, settings.mem_mib).await?;
        let root = site.root_facts(cell.root, Path::new(&snapshot.dir))?;
        recording.add_root(&root);
        let sandbox = site.api.fork(&base).await?;
        made.sandboxes.push(sandbox.id.clone());
        let first_page = usable_pages(&site.api, &sandbox.id, settings).await?;
        recording.progress.step(&format!("{cell}, trial {trial}: waiting for idle disks"));
        if let Err(kib) = writeback::drain(DRAIN_LIMIT).await {
            recording.warn(format!(
                "{cell}, trial {trial}: {kib} KiB were still to be written after {} s; it began all the same",
                DRAIN_LIMIT.as_secs()
            ));
        }
        Ok(Self { sandbox, cell, trial, root, first_page, prefix })
    }

    /// Takes the BRANCHes one after another; each is recorded as soon as it is there, and shown to `watch`.
    pub async fn branch_all(
        &self,
        api: &Api,
        settings: &Settings,
        made: &mut Made,
        recording: &mut Recording,
        watch: &mut impl Watch,
    ) -> Result<(), Error> {
        for index in 1..=settings.branches {
            recording.progress.step(&format!("{}, trial {}: BRANCH {index}", self.cell, self.trial));
            self.dirty(api, settings, index).await?;
            tokio::time::sleep(Duration::from_millis(settings.gap_ms)).await;
            let tag = format!("{}-{index}", self.prefix);
            made.tags.push(tag.clone());
            let start_unix_ms = unix_ms();
            watch.asks();
            let branch = api.branch(&self.sandbox.id, &tag, self.cell.data_path, settings.durable).await?;
            for warning in &branch.warnings {
                recording.warn(format!("{}, trial {}, BRANCH {index}: {warning}", self.cell, self.trial));
            }
            recording.add_sample(self.sample(settings, index, start_unix_ms, &branch));
            watch.branch(&branch);
        }
        Ok(())
    }

    /// The same pages before every BRANCH, with other contents.
    async fn dirty(&self, api: &Api, settings: &Settings, index: u32) -> Result<(), Error> {
        let seed = settings.seed.wrapping_add(u64::from(index));
        let command = format!("dirty {} {} {seed}", self.first_page, settings.dirty_pages);
        ask(api, &self.sandbox.id, &command).await.map(drop)
    }

    fn sample(&self, settings: &Settings, branch_idx: u32, start_unix_ms: u64, branch: &Branch) -> Sample {
        Sample {
            cell: self.cell.to_string(),
            data_path: self.cell.data_path.name().to_owned(),
            root: self.cell.root.name().to_owned(),
            file_system: self.root.file_system.clone(),
            mem_mib: settings.mem_mib,
            dirty_pages: settings.dirty_pages,
            gap_ms: settings.gap_ms,
            trial: self.trial,
            branch_idx,
            // From the nanoseconds: the rounded `pause_ms` is for people.
            pause_ms: branch.pause_ns as f64 / 1e6,
            diff_ms: branch.diff_ms,
            diff_physical_bytes: branch.diff_physical_bytes,
            phases_ns: BranchPhase::ALL.map(|phase| branch.phase_ns(phase)).to_vec(),
            start_unix_ms,
        }
    }
}

/// First of the pages that the guest lets commands touch; refused where they are fewer than a BRANCH dirties.
async fn usable_pages(api: &Api, id: &str, settings: &Settings) -> Result<u64, Error> {
    let answer = ask(api, id, "pages").await?;
    let mut numbers = answer.split(' ').map(str::parse::<u64>);
    let (Some(Ok(first)), Some(Ok(end))) = (numbers.next(), numbers.next()) else {
        return Err(Error::Guest { command: "pages".to_owned(), answer });
    };
    let usable = end.saturating_sub(first);
    match usable >= settings.dirty_pages {
        true => Ok(first),
        false => Err(Error::Usage(format!(
            "a guest of {} MiB has {usable} pages to dirty, fewer than --dirty-pages {}: raise --mem-mib",
            settings.mem_mib, settings.dirty_pages
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
