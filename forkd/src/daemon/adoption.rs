//! Takes over the sandboxes that an earlier daemon left running, whether it was stopped or died.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::join_all;

use crate::branch::{blocking, free_when_resumed};
use crate::events::Events;
use crate::sandbox::Sandbox;
use crate::sandbox::record::Record;
use crate::snapshot::drives::Drives;
use crate::vmm::cgroup::Cgroups;
use crate::vmm::control::Request;
use crate::vmm::process::{clear, is_sandbox_id};

/// Every sandbox below `run_dir` that can be taken over. What cannot is reported, ended where it is what an
/// earlier daemon started, and its directory deleted; only one whose record is not understood is left alone.
pub(super) async fn adopt_all(
    run_dir: &Path,
    drives: &Drives,
    cgroups: &Cgroups,
    events: &Arc<Events>,
) -> io::Result<Vec<Arc<Sandbox>>> {
    let dirs: Vec<PathBuf> = fs::read_dir(run_dir)?
        .map(|entry| Ok(entry?.path()))
        // Nothing but what a daemon makes there is touched, whatever directory it was given.
        .filter(|path| path.as_ref().map_or(true, |path| is_run_dir(path)))
        .collect::<io::Result<_>>()?;
    let adopted: Vec<_> = join_all(dirs.iter().map(|dir| adopt(dir, drives, cgroups, events)))
        .await
        .into_iter()
        .flatten()
        .collect();
    if !adopted.is_empty() {
        tracing::info!(sandboxes = adopted.len(), "took over sandboxes of an earlier daemon");
    }
    Ok(adopted)
}

fn is_run_dir(path: &Path) -> bool {
    path.is_dir() && path.file_name().and_then(|name| name.to_str()).is_some_and(is_sandbox_id)
}

async fn adopt(dir: &Path, drives: &Drives, cgroups: &Cgroups, events: &Arc<Events>) -> Option<Arc<Sandbox>> {
    let failure = match Record::read(dir) {
        Ok(None) => "it was being made".to_owned(),
        Ok(Some(record)) => match Sandbox::adopt(dir, record, drives, cgroups) {
            Ok(Some(sandbox)) => {
                let sandbox = Arc::new(sandbox);
                let (adopted, events) = (Arc::clone(&sandbox), Arc::clone(events));
                blocking(move || converge(&adopted, &events)).await;
                return Some(sandbox);
            }
            Ok(None) => "its Firecracker has ended".to_owned(),
            Err(error) => format!("its console or its drive cannot be opened: {error}"),
        },
        Err(error) => {
            // Another version's, perhaps: its guest is not for this one to end.
            tracing::error!(dir = %dir.display(), %error, "a sandbox is left as it is: its record cannot be read");
            return None;
        }
    };
    match clear(dir) {
        Ok(killed) => {
            tracing::warn!(dir = %dir.display(), killed, "a sandbox of an earlier daemon is given up: {failure}");
        }
        Err(error) => {
            tracing::error!(dir = %dir.display(), %error, "cannot delete a run directory ({failure})")
        }
    }
    None
}

/// Brings a sandbox to where its record says that it should be: its guest runs, unless its user paused it.
/// Waits for Firecracker.
fn converge(sandbox: &Arc<Sandbox>, events: &Arc<Events>) {
    let record = sandbox.recorded();
    let id = &sandbox.id;
    let mut control = sandbox.control();
    if record.branching {
        tracing::warn!(
            id,
            "an earlier daemon ended during a BRANCH of this sandbox: the next BRANCH is full"
        );
    }
    if record.branching && !record.paused_by_user {
        // Also where the guest runs: Firecracker takes that for done.
        if let Err(error) = control.call(&Request::resume()) {
            tracing::error!(id, %error, "STUCK PAUSED: cannot resume the guest that a BRANCH may have paused");
            free_when_resumed(sandbox, &error, events);
            return;
        }
    }
    let settled = sandbox.record(|record| record.branching = false);
    if let Err(error) = settled {
        tracing::warn!(id, %error, "cannot write the record of a sandbox");
    }
    match control.instance() {
        Ok(info) => tracing::info!(id, pid = sandbox.pid(), state = info.state, "adopted"),
        // It is alive and may answer later: a frozen guest is not a dead one.
        Err(error) => tracing::error!(id, pid = sandbox.pid(), %error, "adopted, and it does not answer"),
    }
}
