//! `forkd rmi`

use std::path::PathBuf;

use clap::Args;
use forkd::http_client::{CallError, Endpoint};
use forkd::snapshot::delete::Dependents;
use forkd::snapshot::tag::Tag;
use serde::Serialize;

use super::disk::{Disk, holds};
use super::exit::{Exit, Failure, about_snapshot};
use super::failures::Failures;
use super::{Context, DEFAULT_SNAPSHOT_ROOT};

/// Delete snapshots; from disk where no daemon answers, or where it does not know the tag
#[derive(Args, Debug)]
pub struct Rmi {
    /// Tags of the snapshots
    #[arg(value_name = "TAG", required = true)]
    tags: Vec<Tag>,
    /// Delete the layers that lie on them too
    #[arg(long, conflicts_with = "flatten")]
    cascade: bool,
    /// Turn the layers that lie on them into images first, so that nothing is lost
    #[arg(long)]
    flatten: bool,
    /// Directory of the snapshots, for deleting from disk; with --url only where this is given [default: /var/lib/forkd/snapshots]
    #[arg(long, value_name = "DIR")]
    snapshot_root: Option<PathBuf>,
}

/// Who deleted a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum By {
    #[serde(rename = "daemon")]
    Daemon,
    #[serde(rename = "disk")]
    Disk,
    #[serde(rename = "disk (daemon unreachable)")]
    DiskUnreachable,
}

impl By {
    fn name(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::Disk => "disk",
            Self::DiskUnreachable => "disk (daemon unreachable)",
        }
    }
}

/// What became of one tag.
#[derive(Debug, Serialize)]
struct Removal {
    tag: String,
    /// Absent where it was not deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<By>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Rmi {
    /// Deletes one after another, goes on after a failure, and fails at the end where there was one.
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut disk = None;
        let mut removals = Vec::new();
        let mut failures = Failures::default();
        for tag in &self.tags {
            let (by, error) = match self.remove(context, &mut disk, tag).await {
                Ok(by) => {
                    if !context.out.json {
                        context.out.print(&format!("{tag} ({})\n", by.name()))?;
                    }
                    (Some(by), None)
                }
                Err(error) => (None, Some(failures.note(context, tag.as_str(), error))),
            };
            removals.push(Removal { tag: tag.to_string(), by, error });
        }
        if context.out.json {
            context.out.result(&removals, String::new)?;
        }
        failures.conclude(context)
    }

    async fn remove(&self, context: &Context, disk: &mut Option<Disk>, tag: &Tag) -> anyhow::Result<By> {
        let dependents = match (self.cascade, self.flatten) {
            (true, _) => Dependents::Cascade,
            (_, true) => Dependents::Flatten,
            _ => Dependents::Refuse,
        };
        let (by, refusal) = match context.client.delete_snapshot(tag.as_str(), dependents).await {
            Ok(()) => return Ok(By::Daemon),
            Err(error @ CallError::Connect { .. }) => (By::DiskUnreachable, error),
            Err(error) if Exit::of_call(&error) == Exit::NotFound => (By::Disk, error),
            Err(error) => return Err(error.into()),
        };
        let root = match self.root(context.endpoint()) {
            Some(root) if holds(&root, tag) => root,
            Some(root) if root.is_dir() => {
                let message = format!(
                    "no snapshot has the tag '{tag}', neither at {} nor in {}",
                    context.endpoint(),
                    root.display()
                );
                return Err(Failure::new(Exit::NotFound, message).into());
            }
            _ => return Err(about_snapshot(tag.as_str())(refusal)),
        };
        let taken = match disk.take() {
            Some(taken) => taken,
            None => Disk::take(&root, context.endpoint())?,
        };
        disk.insert(taken).delete(tag, dependents)?;
        Ok(by)
    }

    /// Where to delete from disk. A daemon behind a URL may keep its snapshots on another host: there, only
    /// where the user names the directory.
    fn root(&self, endpoint: &Endpoint) -> Option<PathBuf> {
        match (&self.snapshot_root, endpoint) {
            (Some(root), _) => Some(root.clone()),
            (None, Endpoint::Unix(_)) => Some(DEFAULT_SNAPSHOT_ROOT.into()),
            (None, Endpoint::Tcp(_)) => None,
        }
    }
}
