//! Where a command finds the snapshots: at the daemon that runs, or on the disk.

use std::fmt;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use clap::Args;
use forkd::http_client::{CallError, Endpoint};
use forkd::snapshot::store::Store;
use forkd::transfer::TransferError;

use super::DEFAULT_SNAPSHOT_ROOT;
use super::disk::refuse_links;
use super::exit::{Exit, Failure, about_snapshot};
use super::options::Options;

/// The snapshots, where there is no daemon.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// Directory of the snapshots, used where no daemon answers; with --url only where this is given [default: /var/lib/forkd/snapshots]
    #[arg(long, value_name = "DIR")]
    snapshot_root: Option<PathBuf>,
}

/// The one or the other.
pub enum Found {
    /// A daemon answers.
    Daemon(Endpoint),
    /// None does, and the root is this process's as long as this lives.
    Disk(Store),
}

impl Place {
    /// The daemon where one listens; else the snapshot root, locked against daemons that start meanwhile. A
    /// daemon behind a URL may keep its snapshots on another host: there, only where the user names the directory.
    pub fn find(&self, options: &Options) -> anyhow::Result<Found> {
        let endpoint = options.endpoint(|name| std::env::var_os(name))?;
        let answer = match &endpoint {
            Endpoint::Unix(socket) => UnixStream::connect(socket).map(drop),
            Endpoint::Tcp(address) => TcpStream::connect(address).map(drop),
        };
        let root = match (answer, &self.snapshot_root, &endpoint) {
            (Ok(()), _, _) => return Ok(Found::Daemon(endpoint)),
            (Err(_), Some(root), _) => root.clone(),
            (Err(_), None, Endpoint::Unix(_)) => DEFAULT_SNAPSHOT_ROOT.into(),
            (Err(source), None, Endpoint::Tcp(_)) => {
                return Err(CallError::Connect { endpoint, source }.into());
            }
        };
        refuse_links(&root)?;
        Ok(Found::Disk(Store::open(&root)?))
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daemon(endpoint) => write!(f, "through the daemon at {endpoint}"),
            Self::Disk(store) => write!(f, "on disk at {}, since no daemon answers", store.root().display()),
        }
    }
}

/// The failure of a transfer in the command line's words. A pack that is refused is not a wrong command.
pub fn about_transfer(tag: &str) -> impl Fn(TransferError) -> anyhow::Error {
    let tag = tag.to_owned();
    move |error| match error {
        TransferError::Call(CallError::Refused { status, message }) if status.as_u16() == 400 => {
            Failure::new(Exit::Refused, message).into()
        }
        TransferError::Call(error) => about_snapshot(&tag)(error),
        error => error.into(),
    }
}
