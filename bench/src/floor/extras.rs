//! Beside the pause: the daemon's memory while it stages, and how fast children are there.

use std::time::Instant;

use forkd::api::DataPath;

use super::accounts::{PeakMemory, memory_bytes};
use super::guest::Guest;
use super::rows::Set;
use super::{Gathered, Settings};
use crate::Error;
use crate::site::Site;
use crate::work::Work;

/// BRANCHes whose memory is looked at.
const WATCHED: u32 = 5;

/// Figures of a whole run.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Extras {
    /// The daemon's memory between BRANCHes, in bytes.
    pub daemon_idle_bytes: Option<u64>,
    /// The most that it had during a BRANCH beyond the bytes which that BRANCH staged; one a BRANCH.
    pub daemon_beyond_staged_bytes: Vec<u64>,
    /// What these BRANCHes staged, in bytes.
    pub staged_bytes: Vec<u64>,
    /// The first child of a layer, whose memory image is made for it, in milliseconds.
    pub first_child_ms: Option<f64>,
    /// All children at once, the image there already, from the request to the answer, in milliseconds.
    pub children_ms: Option<f64>,
}

/// Takes them. `newest` is the tag of a layer that nothing has been forked from.
pub async fn take(
    site: &Site,
    work: &Work,
    settings: &Settings,
    newest: &str,
    gathered: &mut Gathered,
) -> Result<(), Error> {
    gathered.progress.step("the daemon's memory");
    let Some(pid) = site.daemon_pid() else { return Ok(()) };
    gathered.extras.daemon_idle_bytes = memory_bytes(pid);
    let mut guest = Guest::fork(site, work, settings, ("base", 3)).await?;
    for _ in 0..WATCHED {
        guest.dirty(Set::Repeated, settings.gap_ms).await?;
        let peak = PeakMemory::watch(pid);
        let branch = guest.branch("memory", DataPath::Stage, true).await;
        let peak = peak.stop();
        let staged = branch?.staged_bytes;
        gathered.extras.daemon_beyond_staged_bytes.push(peak.saturating_sub(staged));
        gathered.extras.staged_bytes.push(staged);
    }
    gathered.progress.step("children");
    let begun = Instant::now();
    site.api.fork(newest).await?;
    gathered.extras.first_child_ms = Some(begun.elapsed().as_secs_f64() * 1e3);
    let begun = Instant::now();
    let children = site.api.fork_many(newest, settings.children).await?;
    gathered.extras.children_ms = Some(begun.elapsed().as_secs_f64() * 1e3);
    children.iter().try_for_each(|child| work.record(child.pid))
}
