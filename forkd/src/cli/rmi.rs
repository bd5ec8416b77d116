//! `forkd rmi`

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::Args;
use forkd::http_client::{CallError, Endpoint};
use forkd::snapshot::delete::Dependents;
use forkd::snapshot::tag::Tag;
use serde::Serialize;

use super::disk::{Disk, holds};
use super::exit::{Exit, Failure, about_snapshot};
use super::failures::Failures;
use super::options::is_default;
use super::tree::above;
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
    /// Directory of the snapshots, for deleting from disk [default: /var/lib/forkd/snapshots for the default socket; for any other daemon none]
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

/// How a snapshot was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Gone {
    by: By,
    /// The snapshot of this command that it lay on, where it went with that one by `--cascade`.
    #[serde(skip_serializing_if = "Option::is_none")]
    with: Option<String>,
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.by.name())?;
        self.with.as_ref().map_or(Ok(()), |with| write!(f, ", with {with}"))
    }
}

/// What became of one tag.
#[derive(Debug, Serialize)]
struct Removal {
    tag: String,
    /// Absent where it was not deleted.
    #[serde(flatten)]
    gone: Option<Gone>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Rmi {
    /// Deletes one after another, goes on after a failure, and fails at the end where there was one.
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut removing = Removing { rmi: &self, context, disk: None, cascaded: BTreeMap::new() };
        let mut removals = Vec::new();
        let mut failures = Failures::default();
        for tag in &self.tags {
            let (gone, error) = match removing.remove(tag).await {
                Ok(gone) => {
                    if !context.out.json {
                        context.out.print(&format!("{tag} ({gone})\n"))?;
                    }
                    (Some(gone), None)
                }
                Err(error) => (None, Some(failures.note(context, tag.as_str(), error))),
            };
            removals.push(Removal { tag: tag.to_string(), gone, error });
        }
        if context.out.json {
            context.out.result(&removals, String::new)?;
        }
        failures.conclude(context)
    }

    fn dependents(&self) -> Dependents {
        match (self.cascade, self.flatten) {
            (true, _) => Dependents::Cascade,
            (_, true) => Dependents::Flatten,
            _ => Dependents::Refuse,
        }
    }

    /// Where to delete from disk. A daemon that does not listen where daemons do by default may keep its snapshots
    /// anywhere, and the default root may be another's: there, only where the user names the directory.
    fn root(&self, endpoint: &Endpoint) -> Option<PathBuf> {
        let default = || is_default(endpoint).then(|| DEFAULT_SNAPSHOT_ROOT.into());
        self.snapshot_root.clone().or_else(default)
    }
}

/// The tags of one command on their way out.
struct Removing<'a> {
    rmi: &'a Rmi,
    context: &'a Context,
    /// The snapshot root, once it was needed.
    disk: Option<Disk>,
    /// What lay on tags that were deleted by `--cascade`.
    cascaded: BTreeMap<String, Gone>,
}

impl Removing<'_> {
    async fn remove(&mut self, tag: &Tag) -> anyhow::Result<Gone> {
        self.note_what_lies_on(tag).await;
        let endpoint = self.context.endpoint();
        let went = self.cascaded.get(tag.as_str()).cloned();
        let deleted = self.context.client.delete_snapshot(tag.as_str(), self.rmi.dependents()).await;
        let (by, refusal) = match deleted {
            Ok(()) => return Ok(Gone { by: By::Daemon, with: None }),
            Err(error @ CallError::Connect { .. }) => (By::DiskUnreachable, error),
            Err(error) if Exit::of_call(&error) == Exit::NotFound => match went {
                // Not looked for on disk: another snapshot could have its name there.
                Some(went) => return Ok(went),
                None => (By::Disk, error),
            },
            Err(error) => return Err(error.into()),
        };
        match (self.rmi.root(endpoint), went) {
            (Some(root), _) if holds(&root, tag) => self.remove_from_disk(&root, tag, by),
            (_, Some(went)) => Ok(went),
            (Some(root), None) if root.is_dir() => {
                let root = root.display();
                let message = format!("no snapshot has the tag '{tag}', neither at {endpoint} nor in {root}");
                Err(Failure::new(Exit::NotFound, message).into())
            }
            (Some(_), None) => Err(about_snapshot(tag.as_str())(refusal)),
            (None, None) => Err(not_from_disk(tag, endpoint, refusal)),
        }
    }

    /// Notes what the daemon is about to delete with `tag`, where another tag of this command may be among it.
    async fn note_what_lies_on(&mut self, tag: &Tag) {
        if !self.rmi.cascade || self.rmi.tags.len() == 1 {
            return;
        }
        // A daemon that does not answer deletes nothing either.
        let snapshots = self.context.client.snapshots(true).await.unwrap_or_default();
        let gone = Gone { by: By::Daemon, with: Some(tag.to_string()) };
        let above = above(&snapshots, tag.as_str()).into_iter();
        self.cascaded.extend(above.map(|layer| (layer.to_owned(), gone.clone())));
    }

    fn remove_from_disk(&mut self, root: &Path, tag: &Tag, by: By) -> anyhow::Result<Gone> {
        let disk = match self.disk.take() {
            Some(disk) => disk,
            None => Disk::take(root, self.context.endpoint())?,
        };
        let cascaded = &mut self.cascaded;
        let gone = Gone { by, with: Some(tag.to_string()) };
        self.disk.insert(disk).delete(tag, self.rmi.dependents(), &mut |deleted| {
            if deleted != tag {
                cascaded.insert(deleted.to_string(), gone.clone());
            }
        })?;
        Ok(Gone { by, with: None })
    }
}

/// Nothing was deleted: the daemon did not do it, and nobody has said where else the snapshot may be.
fn not_from_disk(tag: &Tag, endpoint: &Endpoint, refusal: CallError) -> anyhow::Error {
    if Exit::of_call(&refusal) == Exit::NotFound {
        let message = format!(
            "no snapshot has the tag '{tag}' at {endpoint}: 'forkd images' lists those there are; \
             --snapshot-root names a directory to delete from without that daemon"
        );
        return Failure::new(Exit::NotFound, message).into();
    }
    anyhow::Error::from(refusal).context(format!(
        "'{tag}' is deleted from disk only with --snapshot-root, since {endpoint} is not the default socket"
    ))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use forkd::http_client::Endpoint;

    use super::Rmi;

    #[test]
    fn the_default_root_goes_with_the_default_socket_and_with_no_other_daemon() {
        let root = |snapshot_root: Option<&str>, endpoint: Endpoint| {
            let snapshot_root = snapshot_root.map(PathBuf::from);
            let rmi = Rmi { tags: Vec::new(), cascade: false, flatten: false, snapshot_root };
            rmi.root(&endpoint)
        };
        let unix = |socket: &str| Endpoint::Unix(socket.into());
        let tcp = || Endpoint::Tcp("127.0.0.1:1".to_owned());
        assert_eq!(root(None, unix("/run/forkd/forkd.sock")), Some("/var/lib/forkd/snapshots".into()));
        assert_eq!(root(None, unix("/run/other.sock")), None);
        assert_eq!(root(None, tcp()), None);
        for endpoint in [unix("/run/forkd/forkd.sock"), unix("/run/other.sock"), tcp()] {
            assert_eq!(root(Some("/named"), endpoint), Some("/named".into()));
        }
    }
}
