//! A guest whose pages are dirtied as a set asks for, and the BRANCHes of it.

use std::time::Duration;

use forkd::api::{Branch, BranchMode, DataPath};
use probes_common::BranchPhase;

use super::client::{self, Pages};
use super::rows::{PhasesNs, Set};
use super::{Settings, accounts::Disk};
use crate::Error;
use crate::api::{Api, BranchKind};
use crate::site::Site;
use crate::trial::ask;
use crate::work::Work;

/// One sandbox.
pub struct Guest<'a> {
    site: &'a Site,
    settings: &'a Settings,
    /// Its id.
    pub id: String,
    /// The pages that commands may touch.
    usable: Pages,
    random: fastrand::Rng,
    branches: u32,
}

impl<'a> Guest<'a> {
    /// Forks one from `tag`; `stream` tells its draws from those of the run's other guests.
    pub async fn fork(
        site: &'a Site,
        work: &Work,
        settings: &'a Settings,
        (tag, stream): (&str, u64),
    ) -> Result<Self, Error> {
        let sandbox = site.api.fork(tag).await?;
        work.record(sandbox.pid)?;
        let usable = usable_pages(&site.api, &sandbox.id, settings).await?;
        let random = fastrand::Rng::with_seed(settings.seed.wrapping_add(stream << 32));
        Ok(Self { site, settings, id: sandbox.id, usable, random, branches: 0 })
    }

    /// Has the guest dirty a stretch of `set`, waits for `gap_ms`, and returns which pages it was.
    pub async fn dirty(&mut self, set: Set, gap_ms: u64) -> Result<Pages, Error> {
        let count = self.settings.dirty_pages;
        let aside = match set {
            Set::Repeated => 0,
            Set::Moving => self.random.u64(0..=self.usable.count - count),
        };
        let pages = Pages { first: self.usable.first + aside, count };
        let contents = self.random.u32(..);
        ask(&self.site.api, &self.id, &format!("dirty {} {count} {contents}", pages.first)).await?;
        tokio::time::sleep(Duration::from_millis(gap_ms)).await;
        Ok(pages)
    }

    /// Lets the bare client take a BRANCH, of which `known` are the pages.
    pub fn branch_bare(&self, known: Pages) -> Result<(PhasesNs, u64), Error> {
        let socket = self.site.firecracker_socket(&self.id);
        let socket = socket.ok_or_else(|| Error::Usage("the floor needs a daemon of our own".to_owned()))?;
        client::branch(&socket, self.settings.mem_mib, known)
    }

    /// Has the daemon take a BRANCH. Its tag is `prefix`, a dash and a number.
    pub async fn branch(
        &mut self,
        prefix: &str,
        data_path: DataPath,
        durable: bool,
    ) -> Result<Branch, Error> {
        self.branches += 1;
        let tag = format!("{prefix}-{}", self.branches);
        let kind = BranchKind { mode: BranchMode::Diff, data_path, durable };
        self.site.api.branch(&self.id, &tag, kind).await
    }
}

/// The phases in which the guest stood still.
pub fn phases(branch: &Branch) -> PhasesNs {
    PhasesNs {
        pause: branch.phase_ns(BranchPhase::Pause),
        create: branch.phase_ns(BranchPhase::Create),
        resume: branch.phase_ns(BranchPhase::Resume),
    }
}

/// The block device below our daemon's snapshots, and its account.
pub fn disk(site: &Site) -> Result<Disk, Error> {
    let device = site.facts.as_ref().and_then(|facts| facts.device.as_ref());
    match (site.snapshots(), device) {
        (Some(root), Some(device)) => Disk::new(&root, &device.name),
        _ => Err(Error::Missing("the snapshots lie on no block device that /sys/block names".to_owned())),
    }
}

async fn usable_pages(api: &Api, id: &str, settings: &Settings) -> Result<Pages, Error> {
    let answer = ask(api, id, "pages").await?;
    let mut numbers = answer.split(' ').map(str::parse::<u64>);
    let (Some(Ok(first)), Some(Ok(end))) = (numbers.next(), numbers.next()) else {
        return Err(Error::Guest { command: "pages".to_owned(), answer });
    };
    let count = end.saturating_sub(first);
    match count >= settings.dirty_pages {
        true => Ok(Pages { first, count }),
        false => Err(Error::Usage(format!(
            "a guest of {} MiB has {count} pages to dirty, fewer than --dirty-pages {}: raise --mem-mib",
            settings.mem_mib, settings.dirty_pages
        ))),
    }
}
